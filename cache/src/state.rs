//! The store: one directory tree, shared by any number of processes.
//!
//! ```text
//! <root>/
//! ├── state.json                  layout version and feature list; unknown ones are refused
//! ├── lock                        shared while a process uses the store, exclusive for a repair
//! ├── leases.lock                 who may remove what others might use
//! ├── content/                    an OCI image layout
//! │   ├── oci-layout  index.json
//! │   └── blobs/sha256/<hex>
//! ├── ingest/<process>/           what one process has not finished; swept when it is dead
//! │                               (`idle` is nobody's and taken by the next one)
//! │   ├── lock                    held for as long as the process lives
//! │   ├── leases                  what it relies on
//! │   ├── <number>                a blob in the making
//! │   └── <snapshot id>           says that this snapshot is active
//! ├── unsynced/<name>             committed, but perhaps not on the disk yet
//! ├── snapshots-v1/<id>/{fs,work,info,layer-v2,…}
//! ├── chains-v1/<hex>             a symbolic link whose text is a snapshot id
//! ├── claims-v1/<key>             keys that some process is at work on; made when first needed
//! ├── index-v1/index.sqlite       cache keys with their ingredients → outputs
//! ├── targets-v1/…/etc/{hosts,…}  empty files, below the root of every container
//! ├── uses-v1                     how often trees and cache mounts were used
//! ├── trash/<random>              being deleted
//! └── cache-mounts/  volumes/  containers/  context-v1/  history-v1/     what others keep here
//! ```
//!
//! A format change is a new `-vN` directory; the old one is left to the strake that made it.
//!
//! Nothing waits for the disk. What is committed carries the id of the boot it was made in; a
//! background `syncfs` takes that mark off. After a power cut the next boot has another id, and
//! what still carries the old one is treated as missing.

mod claim;
mod lease;
mod process;
mod sync;
mod trash;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::blob::Blobs;
pub use crate::error::StoreError;
use crate::gc::uses::Uses;
use crate::image::Images;
use crate::index::{CacheKey, Index};
use crate::lock::{LockMode, lock_within, open_lock_file};
use crate::snapshot::Snapshots;

use claim::Claims;
pub use claim::KeyClaim;
pub(crate) use lease::Lease;
pub(crate) use process::Process;
pub use sync::BackgroundSync;
pub(crate) use sync::Unsynced;
pub(crate) use trash::Trash;

/// The layout that this code reads and writes. The second has snapshots that amend others, and
/// nothing else that is new: a store of the first becomes one of the second when it is opened.
const LAYOUT_VERSION: u64 = 2;

/// Who finds the store locked waits this long.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);

/// A repair gives up after this long if somebody keeps building.
const EXCLUSIVE_PATIENCE: Duration = Duration::from_secs(5);

/// An open store. Clones are the same store; the last one dropped gives its lock back.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    lock: Mutex<File>,
    trash: Trash,
    unsynced: Unsynced,
    process: Arc<Process>,
    blobs: Blobs,
    snapshots: Snapshots,
    index: Index,
    images: Images,
    claims: Claims,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let used = self.snapshots.take_used();
        Uses::of(&self.root).add(used.iter().map(ToString::to_string));
        // What is known of snapshots holds the process, whose leases would not end.
        self.snapshots.forget_all();
    }
}

#[derive(Serialize, Deserialize)]
struct State {
    version: u64,
    #[serde(default)]
    features: Vec<String>,
}

impl Store {
    /// Opens the store at `root`, making it if it is not there, and sweeps away what dead processes
    /// left unfinished.
    ///
    /// # Errors
    /// [`StoreError::NewerVersion`] or [`StoreError::UnknownFeature`] if a newer strake made it;
    /// [`StoreError::Busy`] if it stays locked for a repair.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        // Snapshots hold set-user-ID programs of strangers: nobody else may walk in here.
        make_dir(root, 0o700)?;
        let root = &fs_err::canonicalize(root).map_err(file_error("find", root))?;
        let lock_path = root.join("lock");
        let lock = open_lock_file(&lock_path)?;
        if !lock_within(&lock, &lock_path, LockMode::Shared, OPEN_PATIENCE)? {
            return Err(StoreError::Busy { path: root.clone(), doing: "repairing" });
        }
        if !check_state(root)? {
            make_layout(root)?;
        }
        let trash = Trash::open(root.join("trash"), &root.join("ingest"))?;
        let unsynced = Unsynced::open(root)?;
        let process = Arc::new(Process::register(&root.join("ingest"), |id| {
            Snapshots::sweep(&root.join("snapshots-v1"), id, &trash)
        })?);
        let content = root.join("content");
        let blobs = Blobs::new(&content, process.clone(), unsynced.clone());
        let snapshots = Snapshots::new(root, process.clone(), unsynced.clone(), trash.clone());
        let inner = Inner {
            process,
            lock: Mutex::new(lock),
            images: Images::new(content, blobs.clone()),
            index: Index::new(root.join("index-v1").join("index.sqlite")),
            claims: Claims::new(root),
            root: root.clone(),
            trash,
            unsynced,
            blobs,
            snapshots,
        };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// Where the store is when nobody says otherwise: `/var/lib/strake` for uid 0, else
    /// `$XDG_DATA_HOME/strake`, else `~/.local/share/strake`.
    ///
    /// Ask before the process enters a user namespace: inside, everybody is uid 0.
    pub fn default_root() -> PathBuf {
        if rustix::process::getuid().is_root() {
            return PathBuf::from("/var/lib/strake");
        }
        let absolute = |name| {
            std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute())
        };
        absolute("XDG_DATA_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".local/share")))
            .unwrap_or_else(|| PathBuf::from("/var/tmp"))
            .join("strake")
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Content-addressed files.
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// File trees.
    pub fn snapshots(&self) -> &Snapshots {
        &self.inner.snapshots
    }

    /// The solver's memory.
    pub fn index(&self) -> &Index {
        &self.inner.index
    }

    /// Image names.
    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// The right to work on `key`, unless somebody has it, in this process or another.
    ///
    /// # Errors
    /// [`StoreError::File`] if the lock cannot be made.
    pub fn try_claim(&self, key: &CacheKey) -> Result<Option<KeyClaim>, StoreError> {
        self.inner.claims.try_claim(key)
    }

    /// `<root>/containers`.
    pub fn containers_dir(&self) -> PathBuf {
        self.inner.root.join("containers")
    }

    /// `<root>/cache-mounts`.
    pub fn cache_mounts_dir(&self) -> PathBuf {
        self.inner.root.join("cache-mounts")
    }

    /// `<root>/volumes`.
    pub fn volumes_dir(&self) -> PathBuf {
        self.inner.root.join("volumes")
    }

    /// `<root>/context-v1`.
    pub fn contexts_dir(&self) -> PathBuf {
        self.inner.root.join("context-v1")
    }

    /// `<root>/history-v1`; whoever writes there makes it.
    pub fn history_dir(&self) -> PathBuf {
        self.inner.root.join("history-v1")
    }

    /// Takes `path`, which must lie on the store's file system, away at once and deletes it in the
    /// background. A path that is not there is fine.
    pub fn trash(&self, path: &Path) -> Result<(), StoreError> {
        self.inner.trash.take(path)
    }

    /// Keeps prunes away from the directory `name` in [`Store::cache_mounts_dir`] for as long as
    /// this process lives. Call it before looking whether the directory is there.
    pub fn lease_cache_mount(&self, name: &str) -> Result<(), StoreError> {
        self.inner.process.leases().take(Lease::CacheMount(name.to_owned()))
    }

    /// Notes that a step has the directory `name` in [`Store::cache_mounts_dir`].
    pub fn mark_cache_mount_used(&self, name: &str) {
        touch(&self.cache_mounts_dir().join(name));
        Uses::of(self.root()).add(std::iter::once(name.to_owned()));
    }

    pub(crate) fn process(&self) -> &Process {
        &self.inner.process
    }

    pub(crate) fn trash_can(&self) -> &Trash {
        &self.inner.trash
    }

    /// Starts deleting what earlier processes trashed and had no time for. Whoever opens a store
    /// does this once, when there is a processor to spare.
    pub fn empty_trash_in_background(&self) {
        self.inner.trash.start();
    }

    /// Waits until what was trashed is deleted, but not longer than `patience`. The rest is
    /// deleted by the next process that opens the store.
    pub fn empty_trash(&self, patience: Duration) {
        self.inner.trash.wait(patience);
    }

    /// Makes everything committed so far, by any process, survive a power cut.
    pub fn sync_in_background(&self) -> BackgroundSync {
        self.inner.unsynced.sync_in_background()
    }

    /// Keeps every other process out of the store while the guard lives.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if another process uses the store and does not stop soon.
    pub fn exclusive(&self) -> Result<Exclusive, StoreError> {
        let path = self.inner.root.join("lock");
        let lock = self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock_within(&lock, &path, LockMode::Exclusive, EXCLUSIVE_PATIENCE)? {
            return Ok(Exclusive { store: self.clone() });
        }
        lock_within(&lock, &path, LockMode::Shared, OPEN_PATIENCE)?;
        Err(StoreError::Busy { path: self.inner.root.clone(), doing: "using" })
    }
}

/// Proof that no other process uses the store.
#[derive(Debug)]
pub struct Exclusive {
    store: Store,
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        let lock = self.store.inner.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // We hold it exclusively, so sharing it cannot fail for want of the lock.
        let path = self.store.inner.root.join("lock");
        if let Err(error) = lock_within(&lock, &path, LockMode::Shared, OPEN_PATIENCE) {
            tracing::warn!("the store's lock could not be shared again: {error}");
        }
    }
}

/// Whether `state.json` is there as we write it; an error if it describes a store that is not for
/// us.
fn check_state(root: &Path) -> Result<bool, StoreError> {
    let path = root.join("state.json");
    let text = match fs_err::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(StoreError::File { attempt: "read", path, source }),
    };
    let state: State = serde_json::from_slice(&text)
        .map_err(|source| StoreError::NotAStore { path: path.clone(), source })?;
    if state.version > LAYOUT_VERSION {
        return Err(StoreError::NewerVersion {
            path: root.to_owned(),
            found: state.version,
            supported: LAYOUT_VERSION,
        });
    }
    match state.features.into_iter().next() {
        Some(feature) => Err(StoreError::UnknownFeature { path: root.to_owned(), feature }),
        None => Ok(state.version == LAYOUT_VERSION),
    }
}

/// Makes the directories first and `state.json` last: a store with a `state.json` is complete.
fn make_layout(root: &Path) -> Result<(), StoreError> {
    for dir in [
        "content",
        "content/blobs",
        "content/blobs/sha256",
        "ingest",
        "unsynced",
        "snapshots-v1",
        "chains-v1",
        "index-v1",
        "context-v1",
        "trash",
        "cache-mounts",
        "volumes",
        "containers",
    ] {
        make_dir(&root.join(dir), 0o755)?;
    }
    write_atomically(&root.join("content/oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let state = State { version: LAYOUT_VERSION, features: Vec::new() };
    let text = serde_json::to_vec(&state)
        .map_err(|source| StoreError::NotAStore { path: root.join("state.json"), source })?;
    write_atomically(&root.join("state.json"), &text)
}

/// Gives a file the time of now: it was used. What cannot be written to cannot be pruned either, so
/// that it does not matter if this fails.
pub(crate) fn touch(path: &Path) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    let _ = utimensat(CWD, path, &times, AtFlags::empty());
}

/// An error constructor for `map_err`.
pub(crate) fn file_error(
    attempt: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> StoreError {
    move |source| StoreError::File { attempt, path: path.to_owned(), source }
}

/// Whether anything has this name; an error if the disk does not say.
pub fn is_there(path: &Path) -> Result<bool, StoreError> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match fs_err::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(false),
        Err(source) => Err(file_error("look for", path)(source)),
    }
}

/// Makes the directory and its parents; one that is there is fine.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(file_error("make the directory", path))
}

/// Writes a small file beside `path` and renames it into place.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{:016x}", random() as u64));
    let temporary = PathBuf::from(temporary);
    let written = fs_err::File::create_new(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs_err::rename(&temporary, path));
    written.map_err(|source| {
        let _ = fs_err::remove_file(&temporary);
        StoreError::File { attempt: "write", path: path.to_owned(), source }
    })
}

/// 128 bits that nobody else has, from the keys that the standard library draws for its hash maps
/// (the kernel's random numbers, without opening a file).
pub(crate) fn random() -> u128 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_differ_between_threads_and_calls() {
        let mut drawn: Vec<u128> = (0..4)
            .map(|_| std::thread::spawn(|| (0..100).map(|_| random()).collect::<Vec<_>>()))
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 400);
    }
}
