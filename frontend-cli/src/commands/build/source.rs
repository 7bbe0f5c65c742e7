//! Where the Dockerfile and the files of a build come from.

use std::io::{IsTerminal, Read, Seek};
use std::path::{Path, PathBuf};

use executor::context::UnpackedContext;
use parser::IgnoreLine;

use super::options::BuildOptions;
use crate::commands::engine::Engine;
use crate::dockerfile::{GitUrl, git_source};
use crate::report::{CliError, ErrorKind, Excerpt, Problem};

/// A Dockerfile is never larger; BuildKit refuses more than this too.
const DOCKERFILE_LIMIT: u64 = 16 << 20;

/// A context from the network is never larger; it is unpacked into the store.
const CONTEXT_LIMIT: u64 = 64 << 30;

/// The Dockerfile, its ignore file and the directory of its context.
pub(super) struct BuildSource {
    /// The Dockerfile as the user names it.
    pub(super) file: String,
    pub(super) text: Vec<u8>,
    pub(super) directory: PathBuf,
    /// What the context is to the user, from one build to the next: its directory or address.
    pub(super) origin: PathBuf,
    pub(super) ignore: IgnoreFile,
    /// A context that came as an archive lives as long as this.
    _unpacked: Option<UnpackedContext>,
    /// An empty directory for builds without a context.
    _empty: Option<EmptyDirectory>,
}

/// The lines of an ignore file, with where they stand.
#[derive(Debug, Default)]
pub(super) struct IgnoreFile {
    pub(super) name: String,
    pub(super) lines: Vec<IgnoreLine>,
}

impl IgnoreFile {
    /// The rules as the matcher takes them; `lines[i]` is rule `i`.
    pub(super) fn rules(&self) -> Vec<String> {
        self.lines.iter().map(IgnoreLine::rule).collect()
    }
}

/// A directory of ours that is removed with the value.
struct EmptyDirectory(PathBuf);

impl Drop for EmptyDirectory {
    fn drop(&mut self) {
        // It is empty, and the next sweep would find it too.
        let _ = fs_err::remove_dir(&self.0);
    }
}

impl BuildSource {
    /// Whether a context is no directory of the user's, but comes as an archive or a checkout.
    pub(super) fn is_foreign(context: &str) -> bool {
        context == "-" || is_http(context) || git_address(context).is_some()
    }

    pub(super) fn open(options: &BuildOptions, engine: &Engine) -> Result<Self, CliError> {
        let context = options.context.as_str();
        if context == "-" {
            return BuildSource::from_stdin(options, engine);
        }
        if let Some(address) = git_address(context) {
            let unpacked = check_out(engine, options, &address)?;
            return BuildSource::from_unpacked(options, engine, unpacked);
        }
        if is_http(context) {
            let file = download(engine, options, context, CONTEXT_LIMIT)?;
            return BuildSource::from_stream(options, engine, Box::new(file), context);
        }
        BuildSource::from_directory(options, engine, PathBuf::from(context))
    }

    fn from_directory(
        options: &BuildOptions,
        engine: &Engine,
        directory: PathBuf,
    ) -> Result<Self, CliError> {
        let meta = fs_err::metadata(&directory).map_err(|error| {
            CliError::input(format!(
                "unable to prepare context: path \"{}\" not found",
                directory.display()
            ))
            .note(error.to_string())
        })?;
        if !meta.is_dir() {
            let error = CliError::input(format!(
                "the context `{}` is not a directory",
                directory.display()
            ));
            return Err(error.hint(format!(
                "did you mean `-f {}`, with the directory as the context?",
                directory.display()
            )));
        }
        let (file, text, path) = match options.file.as_deref() {
            Some("-") => (
                "Dockerfile".to_owned(),
                read_limited(&mut std::io::stdin().lock(), "standard input")?,
                None,
            ),
            Some(url) if is_http(url) => {
                (url.to_owned(), download_text(engine, options, url)?, None)
            }
            Some(file) => (file.to_owned(), read_file(Path::new(file))?, Some(PathBuf::from(file))),
            None => find_dockerfile(&directory)?,
        };
        let ignore = find_ignore_file(&directory, path.as_deref())?;
        let origin = directory.clone();
        Ok(BuildSource { file, text, directory, origin, ignore, _unpacked: None, _empty: None })
    }

    /// A context that came from elsewhere. Its ignore file does not count: who sent it chose what
    /// is in it.
    fn from_unpacked(
        options: &BuildOptions,
        engine: &Engine,
        unpacked: UnpackedContext,
    ) -> Result<Self, CliError> {
        let directory = unpacked.path().to_owned();
        let (file, text) = match options.file.as_deref() {
            Some("-") => (
                "Dockerfile".to_owned(),
                read_limited(&mut std::io::stdin().lock(), "standard input")?,
            ),
            Some(url) if is_http(url) => (url.to_owned(), download_text(engine, options, url)?),
            Some(file) => (file.to_owned(), read_beneath(&directory, file)?),
            None => {
                let name = ["Dockerfile", "dockerfile"]
                    .into_iter()
                    .find(|name| directory.join(name).symlink_metadata().is_ok())
                    .ok_or_else(|| no_dockerfile(&directory, "the context"))?;
                (name.to_owned(), read_beneath(&directory, name)?)
            }
        };
        Ok(BuildSource {
            file,
            text,
            directory,
            origin: options.context.clone().into(),
            ignore: IgnoreFile::default(),
            _unpacked: Some(unpacked),
            _empty: None,
        })
    }

    /// `-`: a tar archive is the context, anything else the Dockerfile of a build without files.
    fn from_stdin(options: &BuildOptions, engine: &Engine) -> Result<Self, CliError> {
        if options.file.as_deref() == Some("-") {
            return Err(CliError::input(
                "invalid argument: can't use stdin for both build context and dockerfile",
            ));
        }
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            return Err(CliError::input("standard input is a terminal, not a context")
                .hint("pipe a tar archive or a Dockerfile into the command"));
        }
        BuildSource::from_stream(options, engine, Box::new(stdin), "standard input")
    }

    fn from_stream(
        options: &BuildOptions,
        engine: &Engine,
        mut stream: Box<dyn Read + Send>,
        what: &str,
    ) -> Result<Self, CliError> {
        let mut head = Vec::new();
        (&mut stream).take(1024).read_to_end(&mut head).map_err(|error| {
            CliError::caused(format!("cannot read the context from {what}"), &error)
        })?;
        let is_archive = executor::context::is_archive(&head);
        let mut whole = std::io::Cursor::new(head).chain(stream);
        if is_archive {
            let unpacked = executor::context::from_tar(whole, &engine.store).map_err(|error| {
                CliError::caused(format!("cannot unpack the context from {what}"), &error)
            })?;
            return BuildSource::from_unpacked(options, engine, unpacked);
        }
        let text = read_limited(&mut whole, what)?;
        let directory = engine.store.contexts_dir().join(format!("empty-{}", std::process::id()));
        fs_err::create_dir_all(&directory)
            .map_err(|error| CliError::caused("cannot make an empty context", &error))?;
        Ok(BuildSource {
            file: "Dockerfile".into(),
            text,
            _empty: Some(EmptyDirectory(directory.clone())),
            directory,
            origin: options.context.clone().into(),
            ignore: IgnoreFile::default(),
            _unpacked: None,
        })
    }

    /// The text for excerpts; what is no UTF-8 is shown with marks in its place.
    pub(super) fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

/// The git address that a context is, if it is one. `github.com/…` is one without a scheme.
pub(super) fn git_address(text: &str) -> Option<String> {
    if text.starts_with("github.com/") && !Path::new(text).exists() {
        return Some(format!("https://{text}"));
    }
    GitUrl::is_git(text).then(|| text.to_owned())
}

/// Checks out a git address as the build context. (Of a named context only its own address decides
/// whether `.git` stays.)
fn check_out(
    engine: &Engine,
    options: &BuildOptions,
    address: &str,
) -> Result<UnpackedContext, CliError> {
    let mut source = git_source(address, None, None).map_err(CliError::input)?;
    let arg = |name: &str| options.build_args.get(name);
    source.keep_git_dir |= is_on(arg("BUILDKIT_CONTEXT_KEEP_GIT_DIR"));
    // Who fixes the date wants the same files each time.
    source.commit_time |= arg("SOURCE_DATE_EPOCH").is_some_and(|epoch| !epoch.is_empty());
    engine.block_on(async {
        executor::context::from_git(&source, &options.secrets, &options.ssh, &engine.store)
            .await
            .map_err(|error| CliError::caused("cannot get the build context", &error))
    })
}

/// An archive behind an address as a directory; `None` if what is there is no archive.
pub(super) fn download_archive(
    engine: &Engine,
    options: &BuildOptions,
    url: &str,
) -> Result<Option<UnpackedContext>, CliError> {
    let mut file = download(engine, options, url, CONTEXT_LIMIT)?;
    let mut head = Vec::new();
    let read = (&mut file).take(1024).read_to_end(&mut head).and_then(|_| file.rewind());
    read.map_err(|error| CliError::caused(format!("cannot read `{url}`"), &error))?;
    if !executor::context::is_archive(&head) {
        return Ok(None);
    }
    executor::context::from_tar(file, &engine.store)
        .map(Some)
        .map_err(|error| CliError::caused(format!("cannot unpack `{url}`"), &error))
}

fn download(
    engine: &Engine,
    options: &BuildOptions,
    url: &str,
    limit: u64,
) -> Result<std::fs::File, CliError> {
    engine.block_on(async {
        executor::context::download(url, &options.secrets, limit)
            .await
            .map_err(|error| CliError::caused("cannot get what the build is made of", &error))
    })
}

fn download_text(engine: &Engine, options: &BuildOptions, url: &str) -> Result<Vec<u8>, CliError> {
    read_limited(&mut download(engine, options, url, DOCKERFILE_LIMIT)?, url)
}

pub(super) fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Whether a switch among the build arguments is on.
pub(super) fn is_on(value: Option<&String>) -> bool {
    value.is_some_and(|value| matches!(value.as_str(), "1" | "true"))
}

/// `Dockerfile`, or `dockerfile` where there is only that.
fn find_dockerfile(directory: &Path) -> Result<(String, Vec<u8>, Option<PathBuf>), CliError> {
    for name in ["Dockerfile", "dockerfile"] {
        let path = directory.join(name);
        if path.exists() {
            return Ok((name.to_owned(), read_file(&path)?, Some(path)));
        }
    }
    Err(no_dockerfile(directory, &format!("`{}`", directory.display())))
}

fn no_dockerfile(directory: &Path, place: &str) -> CliError {
    let error = CliError::input(format!("there is no Dockerfile in {place}"));
    let near = fs_err::read_dir(directory).into_iter().flatten().flatten().find_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name.to_lowercase().contains("dockerfile") || name == "Containerfile").then_some(name)
    });
    match near {
        Some(name) => error.hint(format!("did you mean `-f {}`?", directory.join(name).display())),
        None => error.hint("name it with -f FILE, or the directory that has it"),
    }
}

/// `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` of the context.
fn find_ignore_file(directory: &Path, dockerfile: Option<&Path>) -> Result<IgnoreFile, CliError> {
    let own = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    let candidates = own.into_iter().chain(std::iter::once(directory.join(".dockerignore")));
    for path in candidates {
        if path.is_file() {
            return read_ignore_file(&path);
        }
    }
    Ok(IgnoreFile::default())
}

pub(super) fn read_ignore_file(path: &Path) -> Result<IgnoreFile, CliError> {
    let text = read_file(path)?;
    let name =
        path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let (lines, diagnostics) = parser::parse_ignore(&text);
    if diagnostics.is_empty() {
        return Ok(IgnoreFile { name, lines });
    }
    let source = String::from_utf8_lossy(&text).into_owned();
    let problems = diagnostics
        .into_iter()
        .map(|diagnostic| {
            Problem::new(diagnostic.message).at(Excerpt {
                file: name.clone(),
                source: source.clone(),
                span: diagnostic.span.start..diagnostic.span.end,
                label: None,
            })
        })
        .collect();
    Err(CliError::new(ErrorKind::Input, problems))
}

fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut file = fs_err::File::open(path).map_err(|error| {
        let error_text = match error.kind() {
            std::io::ErrorKind::NotFound => format!("there is no file `{}`", path.display()),
            _ => format!("cannot read `{}`: {error}", path.display()),
        };
        CliError::input(error_text)
    })?;
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(CliError::input(format!(
            "`{}` is a directory, not a Dockerfile",
            path.display()
        )));
    }
    read_limited(&mut file, &path.display().to_string())
}

/// Reads a file of an archive that was unpacked: links must not lead out of it (threat 16).
fn read_beneath(directory: &Path, file: &str) -> Result<Vec<u8>, CliError> {
    let inside = directory.join(file.trim_start_matches('/'));
    let resolved = fs_err::canonicalize(&inside)
        .map_err(|_| CliError::input(format!("there is no file `{file}` in the context")))?;
    let root = fs_err::canonicalize(directory)
        .map_err(|error| CliError::caused("cannot read the context", &error))?;
    if !resolved.starts_with(&root) {
        return Err(CliError::input(format!("`{file}` leads out of the context")));
    }
    read_file(&resolved)
}

fn read_limited(reader: &mut dyn Read, what: &str) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    reader
        .take(DOCKERFILE_LIMIT + 1)
        .read_to_end(&mut text)
        .map_err(|error| CliError::caused(format!("cannot read {what}"), &error))?;
    if text.len() as u64 > DOCKERFILE_LIMIT {
        return Err(CliError::input(format!(
            "{what} is larger than {} MiB",
            DOCKERFILE_LIMIT >> 20
        )));
    }
    Ok(text)
}
