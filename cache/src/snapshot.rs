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
//! ├── info      parent, boot, …: makes it a snapshot, so it is written last
//! ├── layer     digests of the changes as a layer, once computed
//! ├── durable   the tree has reached the disk
//! └── kept      instead of `info`: the tree of a container that outlives its process
//! ```
//!
//! Nothing here mounts anything: [`Snapshot::mounts`] only describes the overlay. The runtime
//! performs it inside the container's own mount namespace, which is why a crash cannot leave
//! mounts behind.

mod active;
mod id;
mod info;
mod overlay;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::Mount;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::hash::{Fingerprint, FingerprintBuilder};
use crate::layer;
use crate::oci::{ChainId, DiffId};
use crate::state::{Process, Trash, Unsynced, file_error, random};
pub use active::{ActiveSnapshot, CommitInfo};
pub use id::{SnapshotId, SnapshotIdError};
use info::{DURABLE, INFO, Info, KEPT, LAYER};

/// overlayfs' `OVL_MAX_STACK`, less the upper directory.
const MAX_LAYERS: usize = 499;

/// The snapshots of a store. Clones are the same.
#[derive(Clone, Debug)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    chains: PathBuf,
    process: Arc<Process>,
    unsynced: Unsynced,
    trash: Trash,
    /// What was read once; whether it is still there is asked every time.
    known: Mutex<HashMap<SnapshotId, Snapshot>>,
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
        let known = Mutex::default();
        Snapshots { inner: Arc::new(Inner { dir, chains, process, unsynced, trash, known }) }
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
        ActiveSnapshot::start(self, parent)
    }

    /// The committed snapshot; `None` if it or any ancestor is missing, or was not on the disk
    /// before the last reboot.
    pub fn get(&self, id: &SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        let known = self.lock_known().get(id).cloned();
        if let Some(known) = known {
            if known.layers().all(|layer| layer.is_there()) {
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
                if !known.layers().all(|layer| layer.is_there()) {
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

    /// Every committed snapshot's id, in order.
    pub fn list(&self) -> Result<Vec<SnapshotId>, StoreError> {
        let mut ids = self.directories()?;
        ids.retain(|id| self.snapshot_dir(id).join(INFO).exists());
        Ok(ids)
    }

    /// Every kept tree's id, in order: see [`ActiveSnapshot::keep`].
    pub fn kept(&self) -> Result<Vec<SnapshotId>, StoreError> {
        let mut ids = self.directories()?;
        ids.retain(|id| self.snapshot_dir(id).join(KEPT).exists());
        Ok(ids)
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
            let id = fs_err::read_link(&link).map(|target| target.to_string_lossy().parse());
            let is_alive = match id {
                Ok(Ok(id)) => self.snapshot_dir(&id).join(INFO).exists(),
                _ => false,
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
        if path.join(INFO).exists() || path.join(KEPT).exists() {
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

    fn read_info(&self, id: &SnapshotId) -> Result<Option<Info>, StoreError> {
        let dir = self.snapshot_dir(id);
        let info = info::read::<Info>(&dir.join(INFO))?;
        Ok(info
            .filter(|info| info.boot == self.inner.unsynced.boot() || dir.join(DURABLE).exists()))
    }

    fn link_chain(&self, chain: &ChainId, id: &SnapshotId) -> Result<(), StoreError> {
        let link = self.chain_link(chain);
        let temporary = self.inner.chains.join(format!(".{:032x}", random()));
        symlink(id.to_string(), &temporary).map_err(file_error("make", &temporary))?;
        fs_err::rename(&temporary, &link).map_err(file_error("make", &link))
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

/// A committed tree and everything below it. Clones are the same.
#[derive(Clone, Debug)]
pub struct Snapshot {
    node: Arc<Node>,
}

#[derive(Debug)]
struct Node {
    snapshots: Snapshots,
    layer: SnapshotLayer,
    info: Info,
    parent: Option<Snapshot>,
    digests: Mutex<Option<LayerDigests>>,
}

/// One directory of changes.
#[derive(Clone, Debug)]
pub struct SnapshotLayer {
    id: SnapshotId,
    dir: PathBuf,
    upper: PathBuf,
}

/// What a layer looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerDigests {
    /// sha256 of the uncompressed tar.
    pub diff_id: DiffId,
    /// Bytes of the uncompressed tar.
    pub size: u64,
    /// Everything but modification times. Of an unpacked image layer: a function of its digest.
    pub content: Fingerprint,
}

impl LayerDigests {
    /// Those of a layer that came with its digest: nothing needs to be read to know its content.
    pub(crate) fn of_image_layer(diff_id: DiffId, size: u64) -> LayerDigests {
        let content = if diff_id == DiffId::empty() {
            layer::empty_content()
        } else {
            FingerprintBuilder::new("strake image layer v1")
                .field("diff id", diff_id.0.as_bytes())
                .finish()
        };
        LayerDigests { diff_id, size, content }
    }
}

impl SnapshotLayer {
    /// The snapshot whose changes these are.
    pub fn id(&self) -> &SnapshotId {
        &self.id
    }

    /// The directory of changes, in overlayfs' form with `userxattr`.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    fn is_there(&self) -> bool {
        rustix::fs::access(self.dir.join(INFO), rustix::fs::Access::EXISTS).is_ok()
    }
}

impl Snapshot {
    fn new(snapshots: Snapshots, id: SnapshotId, info: Info, parent: Option<Snapshot>) -> Self {
        let dir = snapshots.snapshot_dir(&id);
        let layer = SnapshotLayer { id, upper: dir.join("fs"), dir };
        let digests = Mutex::new(None);
        Snapshot { node: Arc::new(Node { snapshots, layer, info, parent, digests }) }
    }

    /// Its name.
    pub fn id(&self) -> &SnapshotId {
        &self.node.layer.id
    }

    /// What it stands on.
    pub fn parent(&self) -> Option<&Snapshot> {
        self.node.parent.as_ref()
    }

    /// Every directory of changes, bottom first, its own last.
    pub fn layers(&self) -> impl DoubleEndedIterator<Item = &SnapshotLayer> {
        let mut layers: Vec<&SnapshotLayer> =
            self.ancestry().map(|snapshot| &snapshot.node.layer).collect();
        layers.reverse();
        layers.into_iter()
    }

    /// Its own directory of changes.
    pub fn upper(&self) -> &Path {
        &self.node.layer.upper
    }

    /// How to mount it, read-only.
    pub fn mounts(&self) -> Vec<Mount> {
        let mount = match self.node.parent {
            None => overlay::bind(self.upper(), false),
            Some(_) => overlay::read_only(self.layers().map(SnapshotLayer::upper)),
        };
        vec![mount]
    }

    /// When it was committed, RFC 3339, as its maker said.
    pub fn created(&self) -> &str {
        &self.node.info.created
    }

    /// The digests of its own layer. Computed once, which reads the whole layer: call it where
    /// blocking is allowed. Who asks while another thread computes waits for it.
    pub fn layer(&self) -> Result<LayerDigests, StoreError> {
        let mut digests = self.node.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digests) = *digests {
            return Ok(digests);
        }
        let path = self.node.layer.dir.join(LAYER);
        let known = match info::read(&path)? {
            Some(known) => known,
            None => {
                let packed = layer::pack(self, &mut io::sink()).map_err(|source| {
                    StoreError::LayerDigest { id: *self.id(), source: Box::new(source) }
                })?;
                let computed = match self.node.info.diff_id {
                    // Committed as an image's layer without being unpacked here.
                    Some(diff_id) => LayerDigests::of_image_layer(diff_id, packed.size),
                    None => LayerDigests {
                        diff_id: packed.diff_id,
                        size: packed.size,
                        content: packed.content,
                    },
                };
                info::write(&path, &computed)?;
                computed
            }
        };
        *digests = Some(known);
        Ok(known)
    }

    /// The content of all its layers, modification times aside. Layers without changes do not
    /// count. Costs what [`Snapshot::layer`] costs for every layer that has no digests yet.
    pub fn chain_content(&self) -> Result<Fingerprint, StoreError> {
        let mut content = FingerprintBuilder::new("strake chain content v1");
        for snapshot in self.bottom_up() {
            let layer = snapshot.layer()?;
            if layer.content != layer::empty_content() {
                content.add("layer", layer.content.as_bytes());
            }
        }
        Ok(content.finish())
    }

    /// The digests of its layers, bottom first. Costs as [`Snapshot::chain_content`].
    pub fn diff_ids(&self) -> Result<Vec<DiffId>, StoreError> {
        self.bottom_up().map(Snapshot::diff_id).collect()
    }

    /// The digest of the whole stack; from then on [`Snapshots::unpacked`] finds this snapshot and
    /// those below it by theirs. Costs as [`Snapshot::chain_content`].
    pub fn chain(&self) -> Result<ChainId, StoreError> {
        let mut chain = None;
        for snapshot in self.bottom_up() {
            let next = match snapshot.node.info.chain {
                Some(known) => known,
                None => {
                    let next = ChainId::on(chain, snapshot.diff_id()?);
                    if snapshot.node.snapshots.unpacked(&next)?.is_none() {
                        snapshot.node.snapshots.link_chain(&next, snapshot.id())?;
                    }
                    next
                }
            };
            chain = Some(next);
        }
        // A snapshot stands at least on itself.
        Ok(chain.unwrap_or_else(|| ChainId(DiffId::empty().0)))
    }

    fn diff_id(&self) -> Result<DiffId, StoreError> {
        match self.node.info.diff_id {
            Some(known) => Ok(known),
            None => Ok(self.layer()?.diff_id),
        }
    }

    /// Itself, its parent, and so on.
    fn ancestry(&self) -> impl Iterator<Item = &Snapshot> {
        std::iter::successors(Some(self), |snapshot| snapshot.node.parent.as_ref())
    }

    fn bottom_up(&self) -> impl Iterator<Item = &Snapshot> {
        let mut snapshots: Vec<&Snapshot> = self.ancestry().collect();
        snapshots.reverse();
        snapshots.into_iter()
    }
}
