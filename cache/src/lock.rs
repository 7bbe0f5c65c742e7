//! Locks on files, with a bound on every wait.
//!
//! `flock` locks belong to the open file and vanish with the last process that holds it open, so a
//! killed process never leaves one behind.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::StoreError;

/// What a lock keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockMode {
    /// Exclusive locks only.
    Shared,
    /// Everybody.
    Exclusive,
}

/// How often a lock that somebody else has is asked for again.
const POLL: Duration = Duration::from_millis(5);

/// Opens the lock file, making it if it is not there. Nothing is locked yet.
pub(crate) fn open_lock_file(path: &Path) -> Result<File, StoreError> {
    fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map(|file| file.into_parts().0)
        .map_err(|source| StoreError::File { attempt: "open", path: path.to_owned(), source })
}

/// Locks `file` unless somebody else has it; `Ok(false)` if so. A lock that `file` already has is
/// converted, and lost if that fails.
pub(crate) fn try_lock(file: &File, path: &Path, mode: LockMode) -> Result<bool, StoreError> {
    let attempt = match mode {
        LockMode::Shared => file.try_lock_shared(),
        LockMode::Exclusive => file.try_lock(),
    };
    match attempt {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => {
            Err(StoreError::File { attempt: "lock", path: path.to_owned(), source })
        }
    }
}

/// As [`try_lock`], asking again until `patience` is over.
pub(crate) fn lock_within(
    file: &File,
    path: &Path,
    mode: LockMode,
    patience: Duration,
) -> Result<bool, StoreError> {
    let deadline = Instant::now() + patience;
    loop {
        if try_lock(file, path, mode)? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(POLL);
    }
}
