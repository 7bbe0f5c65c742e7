//! What one process has begun and not finished, so that others can clean up after its death.
//!
//! Every process that opens the store has a directory in `ingest/` and holds a lock in it for as
//! long as it lives. Half-written blobs lie there; an active snapshot has an empty file of its name
//! there, and what the process relies on stands in `leases`. Who opens the store later tries the locks, and a lock that can be had belongs to a dead
//! process.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::lease::{self, Leases};
use super::{file_error, make_dir, random};
use crate::error::StoreError;
use crate::lock::{LockMode, lock_within, open_lock_file, try_lock};

/// Sweeping renames a few directories; who holds this longer is a stopped process.
const SWEEP_PATIENCE: Duration = Duration::from_secs(30);

/// The name of the lock inside a process's directory, and of the one that guards the making and
/// sweeping of such directories.
pub(super) const LOCK: &str = "lock";

/// This process's directory in `ingest/`. Dropped, it is removed.
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
        for entry in fs_err::read_dir(ingest).map_err(file_error("list", ingest))? {
            let path = entry.map_err(file_error("list", ingest))?.path();
            if path != guard_path {
                // One leftover that resists does not keep anybody from building.
                if let Err(error) = sweep_if_dead(&path, &sweep_snapshot) {
                    tracing::warn!("cannot sweep {}: {error}", path.display());
                }
            }
        }
        let dir = ingest.join(format!("{:032x}", random()));
        make_dir(&dir, 0o755)?;
        let lock_path = dir.join(LOCK);
        let lock = open_lock_file(&lock_path)?;
        if !try_lock(&lock, &lock_path, LockMode::Exclusive)? {
            return Err(StoreError::Busy { path: dir, doing: "sweeping" });
        }
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
        // Not the whole tree: if an active snapshot were left, its mark must stay for the sweep.
        let _ = fs_err::remove_file(self.dir.join(lease::FILE));
        let _ = fs_err::remove_file(self.dir.join(LOCK));
        let _ = fs_err::remove_dir(&self.dir);
    }
}

fn sweep_if_dead(
    dir: &Path,
    sweep_snapshot: &impl Fn(&OsStr) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if !dir.is_dir() {
        return fs_err::remove_file(dir).map_err(file_error("remove", dir));
    }
    let lock_path = dir.join(LOCK);
    let lock = open_lock_file(&lock_path)?;
    if !try_lock(&lock, &lock_path, LockMode::Exclusive)? {
        return Ok(());
    }
    for entry in fs_err::read_dir(dir).map_err(file_error("list", dir))? {
        let name = entry.map_err(file_error("list", dir))?.file_name();
        sweep_snapshot(&name)?;
    }
    fs_err::remove_dir_all(dir).map_err(file_error("remove", dir))
}
