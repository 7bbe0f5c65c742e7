//! What one process has begun and not finished, so that others can clean up after its death.
//!
//! Every process that opens the store has a directory in `ingest/` and holds a lock in it for as
//! long as it lives. Half-written blobs lie there; an active snapshot has an empty file of its name
//! there, and what the process relies on stands in `leases`. Who opens the store later tries the
//! locks, and a lock that can be had belongs to a dead process.
//!
//! A process that ends leaves its directory to the next one, as `idle`, if there is none yet: a
//! command that changes nothing would make and remove little else. (ext4 without a journal looks at
//! every inode that was freed in the last minute whenever it makes a file: a quarter of such a
//! command's time was that.)

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::lease::{self, Leases};
use super::{file_error, is_there, make_dir, random};
use crate::error::StoreError;
use crate::lock::{LockMode, lock_within, open_lock_file, try_lock};

/// Sweeping renames a few directories; who holds this longer is a stopped process.
const SWEEP_PATIENCE: Duration = Duration::from_secs(30);

/// The name of the lock inside a process's directory, and of the one that guards the making and
/// sweeping of such directories.
pub(super) const LOCK: &str = "lock";

/// The directory of a process that has ended, for the next to take.
const IDLE: &str = "idle";

/// This process's directory in `ingest/`. Dropped, it is given away or removed.
#[derive(Debug)]
pub(crate) struct Process {
    dir: PathBuf,
    next: AtomicU64,
    leases: Leases,
    _lock: File,
}

impl Process {
    /// Sweeps dead processes' directories (`sweep_snapshot` gets the name of each snapshot that
    /// was active in one) and makes one for this process.
    pub(crate) fn register(
        ingest: &Path,
        sweep_snapshot: impl Fn(&OsStr) -> Result<(), StoreError>,
    ) -> Result<Process, StoreError> {
        make_dir(ingest, 0o755)?;
        // Without this lock a sweeper could find a directory whose owner has not locked it yet.
        let guard_path = ingest.join(LOCK);
        let guard = open_lock_file(&guard_path)?;
        if !lock_within(&guard, &guard_path, LockMode::Exclusive, SWEEP_PATIENCE)? {
            return Err(StoreError::Busy { path: ingest.to_owned(), doing: "sweeping" });
        }
        let dir = ingest.join(format!("{:032x}", random()));
        let idle = ingest.join(IDLE);
        let mut lock = adopt(&idle, &dir, &sweep_snapshot).unwrap_or_else(|error| {
            tracing::warn!("cannot take over {}: {error}", idle.display());
            None
        });
        for entry in fs_err::read_dir(ingest).map_err(file_error("list", ingest))? {
            let path = entry.map_err(file_error("list", ingest))?.path();
            if path != guard_path && !(path == dir && lock.is_some()) {
                // One leftover that resists does not keep anybody from building.
                if let Err(error) = sweep_if_dead(&path, &sweep_snapshot) {
                    tracing::warn!("cannot sweep {}: {error}", path.display());
                }
            }
        }
        let lock = match lock.take() {
            Some(lock) => lock,
            None => {
                make_dir(&dir, 0o755)?;
                let lock = lock_if_dead(&dir)?;
                lock.ok_or_else(|| StoreError::Busy { path: dir.clone(), doing: "sweeping" })?
            }
        };
        let leases = Leases::new(ingest, &dir)?;
        Ok(Process { dir, next: AtomicU64::new(0), leases, _lock: lock })
    }

    /// What this process relies on.
    pub(crate) fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The name of this process's directory.
    pub(crate) fn name(&self) -> String {
        self.dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    /// A path for a new half-written file.
    pub(crate) fn new_file(&self) -> PathBuf {
        self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Where the mark of an active snapshot lies.
    pub(crate) fn mark(&self, snapshot: &str) -> PathBuf {
        self.dir.join(snapshot)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let idle = self.dir.with_file_name(IDLE);
        // Only an empty directory would be replaced, and that one can be missed.
        if fs_err::rename(&self.dir, &idle).is_ok() {
            return;
        }
        // Not the whole tree: if an active snapshot were left, its mark must stay for the sweep.
        let _ = fs_err::remove_file(self.dir.join(lease::FILE));
        let _ = fs_err::remove_file(self.dir.join(LOCK));
        let _ = fs_err::remove_dir(&self.dir);
    }
}

/// Makes the directory `idle` the directory `own`, if it is there and nobody's, and takes its lock.
fn adopt(
    idle: &Path,
    own: &Path,
    sweep_snapshot: &impl Fn(&OsStr) -> Result<(), StoreError>,
) -> Result<Option<File>, StoreError> {
    if !is_there(&idle.join(LOCK))? {
        return Ok(None);
    }
    let Some(lock) = lock_if_dead(idle)? else { return Ok(None) };
    for name in names_in(idle)? {
        sweep_snapshot(&name)?;
        let path = idle.join(&name);
        if name == lease::FILE {
            // What its last owner relied on is not what we rely on.
            fs_err::File::create(&path).map_err(file_error("empty", &path))?;
        } else if name != LOCK {
            fs_err::remove_file(&path).map_err(file_error("remove", &path))?;
        }
    }
    // Names are never used again: others may still speak of the last owner by his.
    fs_err::rename(idle, own).map_err(file_error("rename", idle))?;
    Ok(Some(lock))
}

fn sweep_if_dead(
    dir: &Path,
    sweep_snapshot: &impl Fn(&OsStr) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if !dir.is_dir() {
        return fs_err::remove_file(dir).map_err(file_error("remove", dir));
    }
    let Some(_lock) = lock_if_dead(dir)? else { return Ok(()) };
    for name in names_in(dir)? {
        sweep_snapshot(&name)?;
    }
    fs_err::remove_dir_all(dir).map_err(file_error("remove", dir))
}

/// The lock of a process's directory, if no living process has it.
fn lock_if_dead(dir: &Path) -> Result<Option<File>, StoreError> {
    let path = dir.join(LOCK);
    let lock = open_lock_file(&path)?;
    Ok(try_lock(&lock, &path, LockMode::Exclusive)?.then_some(lock))
}

fn names_in(dir: &Path) -> Result<Vec<OsString>, StoreError> {
    let entries = fs_err::read_dir(dir).map_err(file_error("list", dir))?;
    let names = entries.map(|entry| Ok(entry.map_err(file_error("list", dir))?.file_name()));
    names.collect()
}
