//! Snapshots: the file trees a build works on.
//!
//! A snapshot is a directory of changes over a parent. It is *active* while a step writes to it
//! and *committed* afterwards; committed snapshots never change, so any number of builds share
//! them without copying.
//!
//! ```text
//! snapshots-v1/<id>/
//! ├── fs        overlayfs' upper directory: the changes
//! ├── work      overlayfs' work directory, while active
//! ├── info      parent, boot, …: makes it a snapshot, so it is written last; its time is that of
//! │             the last use
//! ├── layer-v2  digests of the changes as a layer, once computed
//! ├── checkpoints   how far that had come at some points, if it was much
//! ├── copied    what its files were copied from, where that can be told later
//! ├── durable   the tree has reached the disk
//! └── kept      instead of `info`: the tree of a container that outlives its process
//! ```
//!
//! Nothing here mounts anything: [`Snapshot::mounts`] only describes the overlay. The runtime
//! performs it inside the container's own mount namespace, which is why a crash cannot leave
//! mounts behind.

mod active;
mod committed;
mod id;
mod info;
mod overlay;
mod targets;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::StoreError;
use crate::oci::ChainId;
use crate::state::{Lease, Process, Trash, Unsynced, file_error, is_there, random, touch};
pub use active::{ActiveSnapshot, CommitInfo};
pub(crate) use committed::chain_content;
pub use committed::{LayerDigests, Snapshot, SnapshotLayer};
pub use id::{SnapshotId, SnapshotIdError};
use info::{DURABLE, INFO, Info, KEPT};
pub use targets::RootOf;

/// overlayfs' `OVL_MAX_STACK`, less the upper directory.
const MAX_LAYERS: usize = 499;

/// The snapshots of a store. Clones are the same.
#[derive(Clone, Debug)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    dir: PathBuf,
    chains: PathBuf,
    process: Arc<Process>,
    unsynced: Unsynced,
    trash: Trash,
    /// What was read once; whether it is still there is asked every time.
    known: Mutex<HashMap<SnapshotId, Snapshot>>,
    /// What this process has marked as used.
    used: Mutex<HashSet<SnapshotId>>,
    /// See [`targets`]; `None` if it cannot be made.
    targets: [OnceLock<Option<PathBuf>>; 2],
}

impl Snapshots {
    pub(crate) fn new(
        root: &Path,
        process: Arc<Process>,
        unsynced: Unsynced,
        trash: Trash,
    ) -> Snapshots {
        let dir = root.join("snapshots-v1");
        let chains = root.join("chains-v1");
        let (root, known, used) = (root.to_owned(), Mutex::default(), Mutex::default());
        let targets = Default::default();
        let inner = Inner { root, dir, chains, process, unsynced, trash, known, used, targets };
        Snapshots { inner: Arc::new(inner) }
    }

    /// Starts a tree of changes over `parent`, or over nothing.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`] if the parent is not there, [`StoreError::TooManyLayers`] if
    /// nothing more can be stacked on it.
    pub fn prepare(&self, parent: Option<&SnapshotId>) -> Result<ActiveSnapshot, StoreError> {
        let parent = match parent {
            None => None,
            Some(id) => Some(self.get(id)?.ok_or(StoreError::NoSnapshot { id: *id })?),
        };
        ActiveSnapshot::start(self, parent, false)
    }

    /// Starts a tree that differs little from `earlier`: its directory of changes lies over that of
    /// `earlier`, and the two are one layer on what `earlier` stands on. Whoever fills it takes out
    /// what is not to be there any more with whiteouts, of names that no layer below `earlier` has:
    /// those cannot be told from names that were never there.
    ///
    /// # Errors
    /// As [`Snapshots::prepare`].
    pub fn amend(&self, earlier: &SnapshotId) -> Result<ActiveSnapshot, StoreError> {
        let earlier = self.get(earlier)?.ok_or(StoreError::NoSnapshot { id: *earlier })?;
        ActiveSnapshot::start(self, Some(earlier), true)
    }

    /// The committed snapshot; `None` if it or any ancestor is missing, or was not on the disk
    /// before the last reboot.
    ///
    /// No prune removes it, or what it stands on, as long as this process lives.
    pub fn get(&self, id: &SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        self.lease(id)?;
        let known = self.lock_known().get(id).cloned();
        if let Some(known) = known {
            if known.is_there()? {
                return Ok(Some(known));
            }
            self.lock_known().remove(id);
            return Ok(None);
        }
        // Down to the first one that is known, then up again.
        let mut unread = Vec::new();
        let mut next = Some(*id);
        let mut snapshot = None;
        while let Some(id) = next {
            let known = self.lock_known().get(&id).cloned();
            if let Some(known) = known {
                if !known.is_there()? {
                    return Ok(None);
                }
                snapshot = Some(known);
                break;
            }
            let Some(info) = self.read_info(&id)? else { return Ok(None) };
            next = info.parent;
            unread.push((id, info));
            if unread.len() > MAX_LAYERS {
                return Err(StoreError::TooManyLayers { id, limit: MAX_LAYERS });
            }
        }
        for (id, info) in unread.into_iter().rev() {
            let read = Snapshot::new(self.clone(), id, info, snapshot.take());
            self.lock_known().insert(id, read.clone());
            snapshot = Some(read);
        }
        Ok(snapshot)
    }

    /// The snapshot of a stack of image layers that was unpacked, or made and hashed, here before.
    pub fn unpacked(&self, chain: &ChainId) -> Result<Option<Snapshot>, StoreError> {
        let link = self.chain_link(chain);
        let target = match fs_err::read_link(&link) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(file_error("read", &link)(source)),
        };
        match target.to_string_lossy().parse() {
            Ok(id) => self.get(&id),
            Err(_) => Ok(None),
        }
    }

    /// Removes a snapshot or a kept tree; those on top of it become misses. One that is not there
    /// is fine.
    pub fn remove(&self, id: &SnapshotId) -> Result<(), StoreError> {
        self.lock_known().remove(id);
        self.inner.trash.take(&self.snapshot_dir(id))
    }

    /// Keeps prunes away from it: see the module of leases.
    fn lease(&self, id: &SnapshotId) -> Result<(), StoreError> {
        self.inner.process.leases().take(Lease::Snapshot(*id))
    }

    /// Notes that a build used it, so that it is the last to be pruned: the time of `info` is that
    /// of the last use. A file's time costs no transaction, and losing it in a power cut nothing.
    /// Counts the build, too, once for each process, at the process's end.
    pub fn mark_used(&self, id: &SnapshotId) {
        let mut used = self.inner.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.insert(*id) {
            drop(used);
            touch(&self.snapshot_dir(id).join(INFO));
        }
    }

    /// Takes what was marked as used and is not counted yet.
    pub(crate) fn take_used(&self) -> HashSet<SnapshotId> {
        std::mem::take(&mut *self.inner.used.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets what was read of a snapshot that is gone.
    pub(crate) fn forget(&self, id: &SnapshotId) {
        self.lock_known().remove(id);
    }

    /// Forgets all that was read.
    pub(crate) fn forget_all(&self) {
        // Dropped outside of the lock.
        let known = std::mem::take(&mut *self.lock_known());
        drop(known);
    }

    /// Every committed snapshot's id, in order.
    pub fn list(&self) -> Result<Vec<SnapshotId>, StoreError> {
        self.directories_with(INFO)
    }

    /// Every kept tree's id, in order: see [`ActiveSnapshot::keep`].
    pub fn kept(&self) -> Result<Vec<SnapshotId>, StoreError> {
        self.directories_with(KEPT)
    }

    /// Takes a kept tree back into use; `None` if there is none of that name, or if what it stands
    /// on is gone.
    pub fn reopen(&self, id: &SnapshotId) -> Result<Option<ActiveSnapshot>, StoreError> {
        let Some(kept) = info::read::<info::Kept>(&self.snapshot_dir(id).join(KEPT))? else {
            return Ok(None);
        };
        let parent = match kept.parent {
            None => None,
            Some(parent) => match self.get(&parent)? {
                None => return Ok(None),
                parent => parent,
            },
        };
        ActiveSnapshot::resume(self, *id, parent).map(Some)
    }

    /// Removes what the last boot committed and never synced, and links to snapshots that are gone.
    /// Returns the ids of the snapshots that went.
    pub fn sweep_undurable(&self) -> Result<Vec<SnapshotId>, StoreError> {
        let mut swept = Vec::new();
        for id in self.list()? {
            if self.read_info(&id)?.is_none() {
                self.remove(&id)?;
                swept.push(id);
            }
        }
        let chains = &self.inner.chains;
        for entry in fs_err::read_dir(chains).map_err(file_error("list", chains))? {
            let link = entry.map_err(file_error("list", chains))?.path();
            let id = match fs_err::read_link(&link) {
                Ok(target) => target.to_string_lossy().parse(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(file_error("read", &link)(source)),
            };
            let is_alive = match id {
                Ok(id) => is_there(&self.snapshot_dir(&id).join(INFO))?,
                Err(_) => false,
            };
            if !is_alive {
                fs_err::remove_file(&link).map_err(file_error("remove", &link))?;
            }
        }
        Ok(swept)
    }

    /// Removes the directory of a snapshot that was active when its process died.
    pub(crate) fn sweep(dir: &Path, name: &OsStr, trash: &Trash) -> Result<(), StoreError> {
        let Ok(id) = name.to_string_lossy().parse::<SnapshotId>() else { return Ok(()) };
        let path = dir.join(id.to_string());
        // Killed between the commit and the removal of the mark.
        if is_there(&path.join(INFO))? || is_there(&path.join(KEPT))? {
            return Ok(());
        }
        trash.take(&path)
    }

    /// Notes that the tree has reached the disk, if it was committed in this boot.
    pub(crate) fn mark_durable(dir: &Path, id: &SnapshotId, boot: &str) -> Result<(), StoreError> {
        let path = dir.join(id.to_string());
        match info::read::<Info>(&path.join(INFO))? {
            Some(info) if info.boot == boot => {}
            _ => return Ok(()),
        }
        let mark = path.join(DURABLE);
        match fs_err::File::create(&mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(file_error("make", &mark)(error))
            }
            _ => Ok(()),
        }
    }

    /// What a committed snapshot stands on or amends, and when it was made (RFC 3339), whether its
    /// ancestors are there or not; `None` if it is not there.
    pub(crate) fn origin(
        &self,
        id: &SnapshotId,
    ) -> Result<Option<(Option<SnapshotId>, String)>, StoreError> {
        Ok(self.read_info(id)?.map(|info| (info.parent, info.created)))
    }

    /// What a kept tree stands on.
    pub(crate) fn kept_parent(&self, id: &SnapshotId) -> Result<Option<SnapshotId>, StoreError> {
        let kept = info::read::<info::Kept>(&self.snapshot_dir(id).join(KEPT))?;
        Ok(kept.and_then(|kept| kept.parent))
    }

    /// Where everything of a snapshot lies.
    pub(crate) fn directory(&self, id: &SnapshotId) -> PathBuf {
        self.snapshot_dir(id)
    }

    fn read_info(&self, id: &SnapshotId) -> Result<Option<Info>, StoreError> {
        let dir = self.snapshot_dir(id);
        let Some(info) = info::read::<Info>(&dir.join(INFO))? else { return Ok(None) };
        let is_sound = info.boot == self.inner.unsynced.boot() || is_there(&dir.join(DURABLE))?;
        Ok(is_sound.then_some(info))
    }

    /// The layer below every container's root.
    fn targets(&self, of: RootOf) -> Option<&Path> {
        let Inner { root, process, targets, .. } = &*self.inner;
        let targets = targets[of as usize].get_or_init(|| {
            targets::layer(root, process, of)
                .inspect_err(|error| tracing::warn!("containers start more slowly: {error}"))
                .ok()
        });
        targets.as_deref()
    }

    fn link_chain(&self, chain: &ChainId, id: &SnapshotId) -> Result<(), StoreError> {
        let link = self.chain_link(chain);
        let temporary = self.inner.chains.join(format!(".{:032x}", random()));
        // A prune sweeps links to trees that are gone: not between its look and its removal.
        self.inner.process.leases().beside_prunes(|| {
            symlink(id.to_string(), &temporary).map_err(file_error("make", &temporary))?;
            fs_err::rename(&temporary, &link).map_err(file_error("make", &link))
        })
    }

    fn directories(&self) -> Result<Vec<SnapshotId>, StoreError> {
        let dir = &self.inner.dir;
        let mut ids = Vec::new();
        for entry in fs_err::read_dir(dir).map_err(file_error("list", dir))? {
            let name = entry.map_err(file_error("list", dir))?.file_name();
            ids.extend(name.to_string_lossy().parse::<SnapshotId>());
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// The directories in which there is a file of this name.
    fn directories_with(&self, file: &str) -> Result<Vec<SnapshotId>, StoreError> {
        let mut ids = Vec::new();
        for id in self.directories()? {
            if is_there(&self.snapshot_dir(&id).join(file))? {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    fn snapshot_dir(&self, id: &SnapshotId) -> PathBuf {
        self.inner.dir.join(id.to_string())
    }

    fn chain_link(&self, chain: &ChainId) -> PathBuf {
        self.inner.chains.join(chain.0.hex())
    }

    fn lock_known(&self) -> std::sync::MutexGuard<'_, HashMap<SnapshotId, Snapshot>> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
