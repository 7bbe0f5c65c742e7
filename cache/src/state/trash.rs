//! Removing big trees without waiting for it.
//!
//! A rename takes the tree away at once; one thread per process deletes what was renamed. Whatever
//! a process does not get done is deleted by the next one. Who wants to look at what it took before
//! it is deleted holds it: `<random>.held-<process>` is left alone while that process lives.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{file_error, is_there, make_dir, random};
use crate::error::StoreError;

/// Stands between a random name and that of the process which holds it.
const HELD: &str = ".held-";

/// The trash directory of a store. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Trash {
    dir: Arc<PathBuf>,
    queue: Arc<Queue>,
}

#[derive(Debug)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug)]
struct QueueState {
    waiting: Vec<PathBuf>,
    running: bool,
}

impl Trash {
    /// Finds what earlier processes left; [`Trash::start`] deletes it. `ingest` has a directory for
    /// each that lives.
    pub(crate) fn open(dir: PathBuf, ingest: &Path) -> Result<Trash, StoreError> {
        make_dir(&dir, 0o755)?;
        let mut left = Vec::new();
        for entry in fs_err::read_dir(&dir).map_err(file_error("list", &dir))? {
            let path = entry.map_err(file_error("list", &dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_held = match name.split_once(HELD) {
                Some((_, process)) => is_there(&ingest.join(process))?,
                None => false,
            };
            if !is_held {
                left.push(path);
            }
        }
        let state = Mutex::new(QueueState { waiting: left, running: false });
        let queue = Queue { state, changed: Condvar::new() };
        Ok(Trash { dir: Arc::new(dir), queue: Arc::new(queue) })
    }

    /// Starts deleting, if there is anything to delete.
    pub(crate) fn start(&self) {
        self.delete(Vec::new());
    }

    /// Takes `path` away; one that is not there is fine.
    pub(crate) fn take(&self, path: &Path) -> Result<(), StoreError> {
        let target = self.dir.join(format!("{:032x}", random()));
        match fs_err::rename(path, &target) {
            Ok(()) => self.delete(vec![target]),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(file_error("remove", path)(error)),
        }
        Ok(())
    }

    /// Takes `path` away without deleting it; `None` if it is not there. `process` is who will pass
    /// the result to [`Trash::delete`].
    pub(crate) fn hold(&self, path: &Path, process: &str) -> Result<Option<PathBuf>, StoreError> {
        let target = self.dir.join(format!("{:032x}{HELD}{process}", random()));
        match fs_err::rename(path, &target) {
            Ok(()) => Ok(Some(target)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(file_error("remove", path)(error)),
        }
    }

    /// Waits until everything is deleted, or `patience` is over.
    pub(crate) fn wait(&self, patience: Duration) {
        self.start();
        let deadline = Instant::now() + patience;
        let mut state = self.queue.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.running {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            state = match self.queue.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Deletes what lies in the trash.
    pub(crate) fn delete(&self, paths: Vec<PathBuf>) {
        let mut state = self.queue.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.extend(paths);
        if state.running || state.waiting.is_empty() {
            return;
        }
        let queue = self.queue.clone();
        let thread = std::thread::Builder::new().name("trash".to_owned());
        // Without a thread the next process deletes it.
        state.running = thread.spawn(move || queue.work()).is_ok();
    }
}

impl Queue {
    fn work(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(path) = state.waiting.pop() {
            drop(state);
            // Another process may be deleting the same leftovers.
            let _ = remove_tree(&path);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        }
        state.running = false;
        self.changed.notify_all();
    }
}

/// Removes a tree, including directories that their owner may not enter (overlayfs leaves one of
/// mode 000 in every work directory).
pub(crate) fn remove_tree(path: &Path) -> std::io::Result<()> {
    if !fs_err::symlink_metadata(path)?.is_dir() {
        return fs_err::remove_file(path);
    }
    match fs_err::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            make_accessible(path)?;
            fs_err::remove_dir_all(path)
        }
        result => result,
    }
}

fn make_accessible(root: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        fs_err::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))?;
        for entry in fs_err::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    Ok(())
}
