//! `--build-context`: the directories, images and archives that a build has names for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cache::oci::{Digest, ImageName};
use executor::context::UnpackedContext;

use super::options::{BuildOptions, ContextValue};
use super::source;
use crate::commands::engine::Engine;
use crate::dockerfile::NamedContext;
use crate::report::CliError;

/// The named contexts of a build. What had to be unpacked for it goes away with this.
#[derive(Default)]
pub(super) struct NamedContexts {
    /// As the plan sees them.
    pub(super) contexts: BTreeMap<String, NamedContext>,
    /// The directories among them, for the worker.
    pub(super) directories: BTreeMap<String, PathBuf>,
    unpacked: Vec<UnpackedContext>,
}

impl NamedContexts {
    /// Looks up what the command line names. Not to be called from async code: it downloads.
    pub(super) fn open(engine: &Engine, options: &BuildOptions) -> Result<Self, CliError> {
        let mut named = NamedContexts::default();
        for (name, value) in &options.contexts {
            let context = match value {
                ContextValue::Other(NamedContext::Http(url)) => {
                    named.http(engine, options, name, url)?
                }
                ContextValue::Other(context) => context.clone(),
                ContextValue::Directory(directory) => named.directory(name, directory)?,
                ContextValue::OciLayout { path } => {
                    NamedContext::Image(load_layout(engine, name, path)?)
                }
            };
            named.contexts.insert(name.clone(), context);
        }
        Ok(named)
    }

    /// An archive is a directory of files, anything else one file.
    fn http(
        &mut self,
        engine: &Engine,
        options: &BuildOptions,
        name: &str,
        url: &str,
    ) -> Result<NamedContext, CliError> {
        let Some(unpacked) = source::download_archive(engine, options, url)? else {
            return Ok(NamedContext::Http(url.to_owned()));
        };
        self.directories.insert(name.to_owned(), unpacked.path().to_owned());
        self.unpacked.push(unpacked);
        Ok(NamedContext::Local { excludes: Vec::new() })
    }

    fn directory(&mut self, name: &str, directory: &Path) -> Result<NamedContext, CliError> {
        if !directory.is_dir() {
            return Err(CliError::input(format!(
                "the build context `{name}` is not a directory: {}",
                directory.display()
            )));
        }
        let ignore = directory.join(".dockerignore");
        let excludes = match ignore.is_file() {
            true => source::read_ignore_file(&ignore)?.rules(),
            false => Vec::new(),
        };
        self.directories.insert(name.to_owned(), directory.to_owned());
        Ok(NamedContext::Local { excludes })
    }
}

/// `path[:tag][@digest]`
fn split_layout(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !Path::new(rest).exists() => {
            (path, Some(tag), digest)
        }
        _ => (rest, None, digest),
    }
}

/// Loads an `oci-layout://` context into the store and gives the name it has there, the same for
/// all its platforms.
fn load_layout(engine: &Engine, name: &str, path: &Path) -> Result<ImageName, CliError> {
    let text = path.display().to_string();
    let (path, tag, digest) = split_layout(&text);
    let failed = || format!("cannot load the build context `{name}` from `{path}`");
    let digest = digest
        .map(str::parse::<Digest>)
        .transpose()
        .map_err(|error| CliError::caused(failed(), &error))?;
    let chosen = exporter::load_layout(&engine.store, Path::new(path), tag, digest.as_ref())
        .map_err(|error| CliError::caused(failed(), &error))?;
    if chosen.is_empty() {
        let wanted = tag.map(str::to_owned).or(digest.map(|digest| digest.to_string()));
        let wanted = wanted.map(|wanted| format!(" `{wanted}`")).unwrap_or_default();
        return Err(CliError::input(format!(
            "the layout `{path}` has no image{wanted} for the build context `{name}`"
        )));
    }
    let manifests: Vec<String> =
        chosen.iter().map(|image| image.manifest_digest.to_string()).collect();
    let tag = Digest::of(manifests.join("\n").as_bytes()).short();
    let known: ImageName = format!("strake.local/context:{tag}")
        .parse()
        .map_err(|error| CliError::internal(format!("{error}")))?;
    for image in &chosen {
        engine.store.images().tag(image, &known).map_err(|error| {
            CliError::caused(format!("cannot keep the build context `{name}`"), &error)
        })?;
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::split_layout;

    #[test]
    fn a_layout_is_a_path_with_a_tag_and_a_digest() {
        for (text, parts) in [
            ("dir", ("dir", None, None)),
            ("a:b/dir", ("a:b/dir", None, None)),
            ("dir:v1", ("dir", Some("v1"), None)),
            ("dir:v1@sha256:00", ("dir", Some("v1"), Some("sha256:00"))),
            ("dir@sha256:00", ("dir", None, Some("sha256:00"))),
        ] {
            assert_eq!(split_layout(text), parts, "{text}");
        }
    }
}
