//! The lowest layer of every container's root: empty files for others to be mounted over.
//!
//! Something can only be mounted over a file that is there. Made in the container's own layer, the
//! files would have to be made and removed each time, and the directory around them copied up
//! (together 0.7 ms). Below everything else they cost nothing, show only where the image has no
//! such file, and are in nobody's layer.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::StoreError;
use crate::state::{Process, file_error};

/// The directory in the store.
const DIR: &str = "targets-v1";

/// Whose root it is: what is mounted over must be there, what is not must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootOf {
    /// A step of a build: `/etc/hosts` and `/etc/resolv.conf`.
    Step,
    /// A container: `/etc/hostname` too.
    Container,
}

impl RootOf {
    /// The layer's directory in [`DIR`].
    fn name(self) -> &'static str {
        match self {
            RootOf::Step => "step",
            RootOf::Container => "container",
        }
    }

    fn files(self) -> &'static [&'static str] {
        match self {
            RootOf::Step => &["etc/hosts", "etc/resolv.conf"],
            RootOf::Container => &["etc/hosts", "etc/resolv.conf", "etc/hostname"],
        }
    }
}

/// The layer of the store at `root`, made where it is missing.
pub(super) fn layer(root: &Path, process: &Process, of: RootOf) -> Result<PathBuf, StoreError> {
    let all = root.join(DIR);
    let dir = all.join(of.name());
    if dir.join(of.files()[0]).exists() {
        return Ok(dir);
    }
    fs_err::create_dir_all(&all).map_err(file_error("make", &all))?;
    let made = process.new_file();
    make(&made, of.files()).map_err(file_error("make", &made))?;
    match fs_err::rename(&made, &dir) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        result => result.map_err(file_error("make", &dir))?,
    }
    Ok(dir)
}

/// Whoever copies a directory up gets its modes and its time: they are the same everywhere.
fn make(dir: &Path, files: &[&str]) -> io::Result<()> {
    let mut directories = vec![dir.to_owned()];
    for file in files.iter().map(|file| dir.join(file)) {
        let parent = file.parent().unwrap_or(dir).to_owned();
        fs_err::create_dir_all(&parent)?;
        fs_err::File::create(&file)?;
        fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
        if !directories.contains(&parent) {
            directories.push(parent);
        }
    }
    for directory in directories {
        fs_err::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))?;
        fs_err::File::open(&directory)?.set_modified(SystemTime::UNIX_EPOCH)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_looks_the_same_everywhere() {
        let root = tempfile::tempdir().unwrap();
        let process = Process::register(&root.path().join("ingest"), |_| Ok(())).unwrap();
        let dir = layer(root.path(), &process, RootOf::Container).unwrap();
        let etc = fs_err::metadata(dir.join("etc")).unwrap();
        assert_eq!(etc.permissions().mode() & 0o7777, 0o755);
        assert_eq!(etc.modified().unwrap(), SystemTime::UNIX_EPOCH);
        for file in RootOf::Container.files() {
            assert_eq!(fs_err::read(dir.join(file)).unwrap(), b"");
        }
        fs_err::write(dir.join("etc/hosts"), "is it made anew?").unwrap();
        assert_eq!(layer(root.path(), &process, RootOf::Container).unwrap(), dir);
        assert_ne!(fs_err::read(dir.join("etc/hosts")).unwrap(), b"");
        let step = layer(root.path(), &process, RootOf::Step).unwrap();
        assert!(step.join("etc/hosts").exists() && !step.join("etc/hostname").exists());
    }
}
