//! `--output`: where the result of a build goes.
//!
//! `type=image|registry|oci|docker|tar|local|cacheonly` and further fields in BuildKit's grammar; a
//! bare path is a local directory, `-` a tar on standard output.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use cache::layer::Compression;
use cache::oci::ImageName;
use exporter::LayerForm;

use crate::dockerfile::nearest;
use crate::report::CliError;

/// One `--output`.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) kind: OutputKind,
    /// Names of the image besides those of `--tag`.
    pub(super) names: Vec<ImageName>,
    pub(super) form: LayerForm,
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OutputKind {
    /// The local store.
    Image {
        push: bool,
        push_by_digest: bool,
    },
    Oci {
        dest: Destination,
        is_directory: bool,
    },
    Docker {
        dest: Destination,
    },
    Tar {
        dest: Destination,
        split: Option<bool>,
    },
    Local {
        dest: PathBuf,
        delete: bool,
        /// Each platform in a directory of its own; if absent, several are.
        split: Option<bool>,
    },
    CacheOnly,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    File(PathBuf),
    Stdout,
}

/// As it is asked for, with what tells it from others.
impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = |dest: &Destination| match dest {
            Destination::File(path) => format!(",dest={}", path.display()),
            Destination::Stdout => ",dest=-".to_owned(),
        };
        match &self.kind {
            OutputKind::Image { push: true, .. } => write!(f, "type=registry")?,
            OutputKind::Image { push: false, .. } => write!(f, "type=image")?,
            OutputKind::Oci { dest, .. } => write!(f, "type=oci{}", file(dest))?,
            OutputKind::Docker { dest } => write!(f, "type=docker{}", file(dest))?,
            OutputKind::Tar { dest, .. } => write!(f, "type=tar{}", file(dest))?,
            OutputKind::Local { dest, .. } => write!(f, "type=local,dest={}", dest.display())?,
            OutputKind::CacheOnly => write!(f, "type=cacheonly")?,
        }
        match &self.names[..] {
            [] => Ok(()),
            names => {
                let names: Vec<String> = names.iter().map(ImageName::familiar).collect();
                write!(f, ",name={}", names.join(","))
            }
        }
    }
}

impl Output {
    fn new(kind: OutputKind) -> Self {
        let form = LayerForm { compression: Compression::Gzip(6), force: false };
        Output { kind, names: Vec::new(), form, annotations: BTreeMap::new() }
    }

    pub(super) fn image() -> Self {
        Output::new(OutputKind::Image { push: false, push_by_digest: false })
    }

    pub(super) fn registry() -> Self {
        Output::new(OutputKind::Image { push: true, push_by_digest: false })
    }

    pub(super) fn parse(spec: &str) -> Result<Self, CliError> {
        if !spec.contains('=') {
            return Ok(match spec {
                "" => return Err(invalid(spec, "it is empty")),
                "-" => Output::new(OutputKind::Tar { dest: Destination::Stdout, split: None }),
                path => {
                    Output::new(OutputKind::Local { dest: path.into(), delete: false, split: None })
                }
            });
        }
        let mut fields = Fields::split("--output", spec)?;
        let kind = fields.take("type").ok_or_else(|| invalid(spec, "type is required"))?;
        let dest = fields.take("dest").or_else(|| fields.take("destination"));
        let names = fields.take("name");
        let compression = fields.compression()?;
        let force = fields.flag("force-compression")?;
        let annotations = fields.annotations();
        let file = |dest: Option<String>| match dest.as_deref() {
            None | Some("-") => Destination::Stdout,
            Some(path) => Destination::File(path.into()),
        };
        let kind = match kind.as_str() {
            "image" => OutputKind::Image {
                push: fields.flag("push")?,
                push_by_digest: fields.flag("push-by-digest")?,
            },
            "registry" => {
                OutputKind::Image { push: true, push_by_digest: fields.flag("push-by-digest")? }
            }
            "oci" => {
                let is_directory = fields.take("tar").is_some_and(|value| value == "false");
                if is_directory && dest.is_none() {
                    return Err(invalid(spec, "dest is required with tar=false"));
                }
                OutputKind::Oci { dest: file(dest), is_directory }
            }
            "docker" => OutputKind::Docker { dest: file(dest) },
            "tar" => OutputKind::Tar { dest: file(dest), split: fields.choice("platform-split")? },
            "local" => {
                let dest =
                    dest.ok_or_else(|| invalid(spec, "dest is required for local output"))?;
                let delete = match fields.take("mode").as_deref() {
                    None | Some("copy" | "merge") => false,
                    Some("delete") => true,
                    Some(mode) => return Err(invalid(spec, &format!("unknown mode `{mode}`"))),
                };
                let split = fields.choice("platform-split")?;
                OutputKind::Local { dest: dest.into(), delete, split }
            }
            "cacheonly" => OutputKind::CacheOnly,
            other => {
                let known = ["image", "registry", "oci", "docker", "tar", "local", "cacheonly"];
                let error = invalid(spec, &format!("unknown type `{other}`"));
                return Err(match nearest(other, known) {
                    Some(near) => error.hint(format!("did you mean type={near}?")),
                    None => error.hint(format!("use one of {}", known.join(", "))),
                });
            }
        };
        fields.finish()?;
        let names = names
            .iter()
            .flat_map(|names| names.split(','))
            .filter(|name| !name.is_empty())
            .map(|name| name.parse().map_err(|error| invalid(spec, &format!("{error}"))))
            .collect::<Result<_, _>>()?;
        Ok(Output { kind, names, form: LayerForm { compression, force }, annotations })
    }

    /// Whether nobody wants the result itself.
    pub(super) fn is_nothing(&self) -> bool {
        self.kind == OutputKind::CacheOnly
    }

    /// Whether the result is an image and not its files.
    pub(super) fn is_image(&self) -> bool {
        matches!(
            self.kind,
            OutputKind::Image { .. } | OutputKind::Oci { .. } | OutputKind::Docker { .. }
        )
    }
}

/// The `key=value` fields of a spec that nobody has asked for yet.
pub(super) struct Fields<'a> {
    /// The option that it is the value of.
    flag: &'static str,
    spec: &'a str,
    fields: BTreeMap<String, String>,
}

impl<'a> Fields<'a> {
    /// Splits at commas that stand outside of double quotes, as Go's CSV reader does.
    pub(super) fn split(flag: &'static str, spec: &'a str) -> Result<Self, CliError> {
        let mut fields = BTreeMap::new();
        let mut words = vec![String::new()];
        let mut quoted = false;
        for c in spec.chars() {
            match c {
                '"' => quoted = !quoted,
                ',' if !quoted => words.push(String::new()),
                c => words.last_mut().expect("there is always one").push(c),
            }
        }
        for word in words {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| invalid_value(flag, spec, &format!("`{word}` is not key=value")))?;
            fields.insert(key.trim().to_lowercase(), value.to_owned());
        }
        Ok(Fields { flag, spec, fields })
    }

    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        self.fields.remove(key)
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<bool, CliError> {
        Ok(self.choice(key)?.unwrap_or(false))
    }

    fn choice(&mut self, key: &str) -> Result<Option<bool>, CliError> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("false" | "0") => Ok(Some(false)),
            Some("" | "true" | "1") => Ok(Some(true)),
            Some(other) => Err(self.invalid(&format!("{key} is true or false, not `{other}`"))),
        }
    }

    /// A flag that is `default` where it is absent.
    pub(super) fn flag_or(&mut self, key: &str, default: bool) -> Result<bool, CliError> {
        if self.fields.contains_key(key) { self.flag(key) } else { Ok(default) }
    }

    pub(super) fn compression(&mut self) -> Result<Compression, CliError> {
        let level = self
            .take("compression-level")
            .map(|level| {
                level.parse::<u32>().map_err(|_| self.invalid("compression-level is a number"))
            })
            .transpose()?;
        match self.take("compression").as_deref() {
            None | Some("gzip") => match level.unwrap_or(6) {
                level @ 0..=9 => Ok(Compression::Gzip(level)),
                _ => Err(self.invalid("gzip has the levels 0 to 9")),
            },
            Some("zstd") => match level.unwrap_or(3) {
                level @ 1..=22 => Ok(Compression::Zstd(level as i32)),
                _ => Err(self.invalid("zstd has the levels 1 to 22")),
            },
            Some("uncompressed") => Ok(Compression::None),
            Some(other) => Err(self.invalid(&format!("unknown compression `{other}`"))),
        }
    }

    /// `annotation.KEY=VALUE` and its spelling for the manifest.
    fn annotations(&mut self) -> BTreeMap<String, String> {
        let mut annotations = BTreeMap::new();
        self.fields.retain(|key, value| {
            let name = key
                .strip_prefix("annotation.")
                .or_else(|| key.strip_prefix("annotation-manifest."));
            if let Some(name) = name {
                annotations.insert(name.to_owned(), value.clone());
            }
            name.is_none()
        });
        annotations
    }

    pub(super) fn finish(self) -> Result<(), CliError> {
        match self.fields.keys().next() {
            Some(key) => Err(self.invalid(&format!("unknown field `{key}`"))),
            None => Ok(()),
        }
    }

    pub(super) fn invalid(&self, reason: &str) -> CliError {
        invalid_value(self.flag, self.spec, reason)
    }
}

fn invalid(spec: &str, reason: &str) -> CliError {
    invalid_value("--output", spec, reason)
}

fn invalid_value(flag: &str, spec: &str, reason: &str) -> CliError {
    CliError::input(format!("invalid {flag} `{spec}`: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(spec: &str) -> Result<OutputKind, String> {
        Output::parse(spec).map(|output| output.kind).map_err(|error| error.message())
    }

    #[test]
    fn specs_are_read_as_buildkit_reads_them() {
        let local =
            |dest: &str| OutputKind::Local { dest: dest.into(), delete: false, split: None };
        assert_eq!(kind("out"), Ok(local("out")));
        assert_eq!(kind("-"), Ok(OutputKind::Tar { dest: Destination::Stdout, split: None }));
        assert_eq!(kind("type=local,dest=x"), Ok(local("x")));
        let dest = Destination::File("a,b.tar".into());
        assert_eq!(
            kind("type=oci,\"dest=a,b.tar\""),
            Ok(OutputKind::Oci { dest, is_directory: false })
        );
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for spec in [
            "type=local",
            "type=lokal,dest=x",
            "dest=x",
            "type=tar,what=1",
            "type=oci,compression=rar",
        ] {
            assert!(kind(spec).is_err(), "{spec}");
        }
    }
}
