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

/// What is in it.
pub(super) const FILES: [&str; 3] = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];

/// The layer of the store at `root`, made where it is missing.
pub(super) fn layer(root: &Path, process: &Process) -> Result<PathBuf, StoreError> {
    let dir = root.join(DIR);
    if dir.join(FILES[0]).exists() {
        return Ok(dir);
    }
    let made = process.new_file();
    make(&made).map_err(file_error("make", &made))?;
    match fs_err::rename(&made, &dir) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        result => result.map_err(file_error("make", &dir))?,
    }
    Ok(dir)
}

/// Whoever copies a directory up gets its modes and its time: they are the same everywhere.
fn make(dir: &Path) -> io::Result<()> {
    let mut directories = vec![dir.to_owned()];
    for file in FILES.map(|file| dir.join(file)) {
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
        let dir = layer(root.path(), &process).unwrap();
        let etc = fs_err::metadata(dir.join("etc")).unwrap();
        assert_eq!(etc.permissions().mode() & 0o7777, 0o755);
        assert_eq!(etc.modified().unwrap(), SystemTime::UNIX_EPOCH);
        for file in FILES {
            assert_eq!(fs_err::read(dir.join(file)).unwrap(), b"");
        }
        fs_err::write(dir.join(FILES[0]), "is it made anew?").unwrap();
        assert_eq!(layer(root.path(), &process).unwrap(), dir);
        assert_ne!(fs_err::read(dir.join(FILES[0])).unwrap(), b"");
    }
}
