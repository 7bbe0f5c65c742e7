//! Claims: of all processes on a store, one at a time works on a key.
//!
//! ```text
//! claims-v1/<key>       locked (flock) by who works on the key, removed when it is done
//! ```
//!
//! The kernel gives a lock back when its process ends, however it ends, so a killed build never
//! keeps another one waiting. Its file stays behind; the next process that claims anything removes
//! the files that nobody has locked.
//!
//! A file may be removed between being opened and being locked by another process. So a lock counts
//! only if the file still has its name; who holds it is then the only one who may remove it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use super::{file_error, make_dir};
use crate::error::StoreError;
use crate::index::CacheKey;
use crate::lock::{LockMode, open_lock_file, try_lock};

/// A file that vanishes each time it is about to be locked belongs to others who come and go; then
/// somebody else has the key, which is all that the caller needs to know.
const ATTEMPTS: usize = 16;

/// The claims of a store.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    dir: PathBuf,
    swept: Arc<Once>,
}

/// The right to work on a key. Dropped, it is given back.
#[derive(Debug)]
pub struct KeyClaim {
    path: PathBuf,
    // Closed, and so unlocked, after the file is gone.
    _lock: File,
}

impl Claims {
    pub(crate) fn new(root: &Path) -> Claims {
        Claims { dir: root.join("claims-v1"), swept: Arc::new(Once::new()) }
    }

    /// The claim on `key`, unless somebody has it, in this process or another.
    pub(crate) fn try_claim(&self, key: &CacheKey) -> Result<Option<KeyClaim>, StoreError> {
        // Not among the directories of a new store: older stores have none.
        make_dir(&self.dir, 0o755)?;
        self.swept.call_once(|| self.sweep());
        let path = self.dir.join(key.to_string());
        for _ in 0..ATTEMPTS {
            let lock = open_lock_file(&path)?;
            if !try_lock(&lock, &path, LockMode::Exclusive)? {
                return Ok(None);
            }
            if has_name(&lock, &path) {
                return Ok(Some(KeyClaim { path, _lock: lock }));
            }
        }
        Ok(None)
    }

    /// Removes what killed processes have left.
    fn sweep(&self) {
        let Ok(entries) = fs_err::read_dir(&self.dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            // Opened only if it is there: `open_lock_file` would make it.
            let Ok(lock) = fs_err::File::open(&path) else { continue };
            let lock = lock.into_parts().0;
            let claimed = try_lock(&lock, &path, LockMode::Exclusive);
            if matches!(claimed, Ok(true)) && has_name(&lock, &path) {
                remove(&path);
            }
        }
    }
}

impl Drop for KeyClaim {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Whether `path` is the file that is open as `file`.
fn has_name(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs_err::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs_err::remove_file(path).map_err(file_error("remove", path)) {
        // An empty file too much; the next process tries again.
        tracing::debug!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Fingerprint;

    fn key(text: &str) -> CacheKey {
        CacheKey(Fingerprint::of(text.as_bytes()))
    }

    fn left(root: &Path) -> usize {
        fs_err::read_dir(root.join("claims-v1")).unwrap().count()
    }

    #[test]
    fn a_key_is_claimed_once_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        // Two processes have two of these.
        let (one, other) = (Claims::new(root.path()), Claims::new(root.path()));
        let held = one.try_claim(&key("a")).unwrap().unwrap();
        assert!(other.try_claim(&key("a")).unwrap().is_none());
        assert!(one.try_claim(&key("a")).unwrap().is_none());
        let second = other.try_claim(&key("b")).unwrap().unwrap();
        drop(held);
        assert!(other.try_claim(&key("a")).unwrap().is_some());
        drop(second);
        assert_eq!(left(root.path()), 0);
    }

    #[test]
    fn what_a_killed_process_left_is_swept_and_what_is_held_is_not() {
        let root = tempfile::tempdir().unwrap();
        let one = Claims::new(root.path());
        let held = one.try_claim(&key("held")).unwrap().unwrap();
        // The file of a process that was killed has no lock.
        fs_err::write(root.path().join("claims-v1").join(key("left").to_string()), "").unwrap();
        let other = Claims::new(root.path());
        let third = other.try_claim(&key("third")).unwrap().unwrap();
        assert_eq!(left(root.path()), 2);
        assert!(other.try_claim(&key("held")).unwrap().is_none());
        drop((held, third));
        assert_eq!(left(root.path()), 0);
    }

    #[test]
    fn many_at_once_are_one_after_another() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let root = tempfile::tempdir().unwrap();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let claims = Claims::new(root.path());
                    let mut had = 0;
                    while had < 200 {
                        if let Some(_claim) = claims.try_claim(&key("one")).unwrap() {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            std::thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            had += 1;
                        }
                    }
                });
            }
        });
        assert_eq!(left(root.path()), 0);
    }
}
