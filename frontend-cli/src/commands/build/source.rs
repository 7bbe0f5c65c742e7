//! Where the Dockerfile and the files of a build come from.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use cache::Store;
use executor::context::UnpackedContext;
use parser::IgnoreLine;

use super::options::BuildOptions;
use crate::report::{CliError, ErrorKind, Excerpt, Problem};

/// A Dockerfile is never larger; BuildKit refuses more than this too.
const DOCKERFILE_LIMIT: u64 = 16 << 20;

/// The Dockerfile, its ignore file and the directory of its context.
pub(super) struct BuildSource {
    /// The Dockerfile as the user names it.
    pub(super) file: String,
    pub(super) text: Vec<u8>,
    pub(super) directory: PathBuf,
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
    pub(super) fn open(options: &BuildOptions, store: &Store) -> Result<Self, CliError> {
        match options.context.as_str() {
            "-" => BuildSource::from_stdin(options, store),
            url if url.contains("://") || crate::dockerfile::GitUrl::is_git(url) => {
                Err(CliError::input(format!("a build context from `{url}` is not supported yet"))
                    .hint("clone or download it and name the directory"))
            }
            directory => BuildSource::from_directory(options, PathBuf::from(directory)),
        }
    }

    fn from_directory(options: &BuildOptions, directory: PathBuf) -> Result<Self, CliError> {
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
            Some(file) => (file.to_owned(), read_file(Path::new(file))?, Some(PathBuf::from(file))),
            None => find_dockerfile(&directory)?,
        };
        let ignore = find_ignore_file(&directory, path.as_deref())?;
        Ok(BuildSource { file, text, directory, ignore, _unpacked: None, _empty: None })
    }

    /// `-`: a tar archive is the context, anything else the Dockerfile of a build without files.
    fn from_stdin(options: &BuildOptions, store: &Store) -> Result<Self, CliError> {
        if options.file.as_deref() == Some("-") {
            return Err(CliError::input(
                "invalid argument: can't use stdin for both build context and dockerfile",
            ));
        }
        let mut stdin = std::io::stdin();
        if stdin.is_terminal() {
            return Err(CliError::input("standard input is a terminal, not a context")
                .hint("pipe a tar archive or a Dockerfile into the command"));
        }
        let mut head = Vec::new();
        (&mut stdin).take(1024).read_to_end(&mut head).map_err(|error| {
            CliError::caused("cannot read the context from standard input", &error)
        })?;
        let rest = std::io::Cursor::new(head.clone()).chain(stdin);
        if is_archive(&head) {
            let unpacked = executor::context::from_tar(rest, store).map_err(|error| {
                CliError::caused("cannot unpack the context from standard input", &error)
            })?;
            let directory = unpacked.path().to_owned();
            let (file, text) = match options.file.as_deref() {
                Some(file) => (file.to_owned(), read_beneath(&directory, file)?),
                None => {
                    let (file, text, _) = find_dockerfile(&directory)?;
                    (file, text)
                }
            };
            let ignore = IgnoreFile::default();
            return Ok(BuildSource {
                file,
                text,
                directory,
                ignore,
                _unpacked: Some(unpacked),
                _empty: None,
            });
        }
        let mut rest = rest;
        let text = read_limited(&mut rest, "standard input")?;
        let directory = store.contexts_dir().join(format!("empty-{}", std::process::id()));
        fs_err::create_dir_all(&directory)
            .map_err(|error| CliError::caused("cannot make an empty context", &error))?;
        Ok(BuildSource {
            file: "Dockerfile".into(),
            text,
            _empty: Some(EmptyDirectory(directory.clone())),
            directory,
            ignore: IgnoreFile::default(),
            _unpacked: None,
        })
    }

    /// The text for excerpts; what is no UTF-8 is shown with marks in its place.
    pub(super) fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

/// `Dockerfile`, or `dockerfile` where there is only that.
fn find_dockerfile(directory: &Path) -> Result<(String, Vec<u8>, Option<PathBuf>), CliError> {
    for name in ["Dockerfile", "dockerfile"] {
        let path = directory.join(name);
        if path.exists() {
            return Ok((name.to_owned(), read_file(&path)?, Some(path)));
        }
    }
    let error = CliError::input(format!("there is no Dockerfile in `{}`", directory.display()));
    let near = fs_err::read_dir(directory).into_iter().flatten().flatten().find_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name.to_lowercase().contains("dockerfile") || name == "Containerfile").then_some(name)
    });
    Err(match near {
        Some(name) => error.hint(format!("did you mean `-f {}`?", directory.join(name).display())),
        None => error.hint("name it with -f FILE, or the directory that has it"),
    })
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

/// Whether bytes start like a tar archive, plain or compressed.
fn is_archive(head: &[u8]) -> bool {
    const MAGICS: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    MAGICS.iter().any(|magic| head.starts_with(magic)) || head.get(257..262) == Some(b"ustar")
}
