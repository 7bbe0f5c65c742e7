//! `--volume` and `--tmpfs`.
//!
//! ```text
//! /host/dir:/target[:ro]     a directory of this machine, made if it is not there
//! name:/target[:ro]          a volume of the store
//! /target                    a volume without a name, removed with the container
//! ```

use std::path::PathBuf;

use cache::Store;
use executor::{MountSource, ProcessMount};

use crate::commands::build::options::size;
use crate::report::CliError;

/// A mounted directory that outlives the container.
#[derive(Debug)]
pub(super) struct Volume {
    pub(super) source: PathBuf,
    target: String,
    readonly: bool,
    pub(super) is_anonymous: bool,
}

impl Volume {
    pub(super) fn open(spec: &str, store: &Store) -> Result<Volume, CliError> {
        let invalid =
            |reason: &str| CliError::input(format!("invalid --volume `{spec}`: {reason}"));
        let fields: Vec<&str> = spec.split(':').collect();
        let (source, target, mode) = match fields[..] {
            [target] => (None, target, "rw"),
            [source, target] => (Some(source), target, "rw"),
            [source, target, mode] => (Some(source), target, mode),
            _ => return Err(invalid("expected SOURCE:TARGET[:ro]")),
        };
        let readonly = match mode {
            "ro" => true,
            "rw" => false,
            _ => return Err(invalid("the mode is ro or rw")),
        };
        if !target.starts_with('/') || target == "/" {
            return Err(invalid("the target is an absolute path below /"));
        }
        let (source, is_anonymous) = match source {
            None => (store.volumes_dir().join(random_name()?), true),
            Some(path) if path.starts_with(['/', '.']) => {
                let path =
                    std::path::absolute(path).map_err(|error| invalid(&error.to_string()))?;
                (path, false)
            }
            Some(name) if is_volume_name(name) => (store.volumes_dir().join(name), false),
            Some(_) => {
                return Err(invalid("a volume's name has letters, digits, `_`, `.` and `-`"));
            }
        };
        if !source.exists() {
            fs_err::create_dir_all(&source)
                .map_err(|error| CliError::caused("cannot make the volume's directory", &error))?;
        }
        Ok(Volume { source, target: target.to_owned(), readonly, is_anonymous })
    }

    pub(super) fn mount(&self) -> ProcessMount {
        ProcessMount {
            target: self.target.clone(),
            source: MountSource::Path(self.source.clone()),
            readonly: self.readonly,
        }
    }
}

fn is_volume_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && name.bytes().all(plain)
}

fn random_name() -> Result<String, CliError> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(
        |error| CliError::caused("cannot make a volume's name", &std::io::Error::from(error)),
    )?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `TARGET[:size=64m,mode=1777]`
pub(super) fn tmpfs(spec: &str) -> Result<ProcessMount, CliError> {
    let (target, options) = spec.split_once(':').unwrap_or((spec, ""));
    let invalid = |reason: &str| CliError::input(format!("invalid --tmpfs `{spec}`: {reason}"));
    if !target.starts_with('/') || target == "/" {
        return Err(invalid("the target is an absolute path below /"));
    }
    let (mut bytes, mut mode, mut readonly) = (None, 0o1777, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => bytes = Some(size(value)?),
            Some(("mode", value)) => {
                mode = u32::from_str_radix(value, 8)
                    .map_err(|_| invalid("mode is an octal number"))?;
            }
            None if option == "ro" => readonly = true,
            None if option == "rw" => readonly = false,
            _ => return Err(invalid(&format!("unknown option `{option}`"))),
        }
    }
    Ok(ProcessMount {
        target: target.to_owned(),
        source: MountSource::Tmpfs { size: bytes, mode },
        readonly,
    })
}

#[cfg(test)]
mod tests {
    use super::is_volume_name;

    #[test]
    fn a_volume_name_never_leaves_its_directory() {
        for (name, good) in [
            ("data", true),
            ("a.b-c_d", true),
            ("..", false),
            (".x", false),
            ("a/b", false),
            ("", false),
        ] {
            assert_eq!(is_volume_name(name), good, "{name}");
        }
    }
}
