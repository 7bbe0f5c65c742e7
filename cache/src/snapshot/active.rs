//! Snapshots that somebody writes to.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use oci_spec::runtime::Mount;

use super::info::{self, COPIED, INFO, Info, KEPT, Kept, LAYER};
use super::{
    LayerDigests, MAX_LAYERS, RootOf, Snapshot, SnapshotId, SnapshotLayer, Snapshots, overlay,
};
use crate::error::StoreError;
use crate::hash::Fingerprint;
use crate::oci::{ChainId, DiffId};
use crate::state::file_error;

/// What a commit writes down beside the tree.
#[derive(Clone, Debug, Default)]
pub struct CommitInfo {
    /// RFC 3339.
    pub created: String,
    /// Of an image's layer: the chain up to and with it.
    pub chain: Option<ChainId>,
    /// Of an image's layer: its digest.
    pub diff_id: Option<DiffId>,
    /// Of a layer that was made elsewhere and not by an image: its content, as its maker says.
    pub content: Option<Fingerprint>,
    /// A tree that has many files of this one: what was hashed of it need not be hashed again.
    pub resembles: Option<Snapshot>,
}

/// A tree that somebody writes to. Dropped before a commit, it is removed.
#[derive(Debug)]
pub struct ActiveSnapshot {
    snapshots: Snapshots,
    layer: SnapshotLayer,
    /// What the directory of changes lies over.
    below: Option<Snapshot>,
    /// Whether its changes and those of `below` are one layer.
    amends: bool,
    /// What `unpack` learnt while filling it.
    unpacked: Mutex<Option<LayerDigests>>,
    /// Whether a drop removes it.
    is_ours: bool,
}

impl ActiveSnapshot {
    pub(super) fn start(
        snapshots: &Snapshots,
        below: Option<Snapshot>,
        amends: bool,
    ) -> Result<ActiveSnapshot, StoreError> {
        let mut active = ActiveSnapshot::new(snapshots, SnapshotId::random(), below)?;
        active.amends = amends;
        active.mark()?;
        let SnapshotLayer { dir, upper, .. } = &active.layer;
        let work = active.work();
        for dir in [dir, upper, &work] {
            fs_err::create_dir(dir).map_err(file_error("make", dir))?;
        }
        active.give_root_its_metadata()?;
        Ok(active)
    }

    pub(super) fn resume(
        snapshots: &Snapshots,
        id: SnapshotId,
        below: Option<Snapshot>,
    ) -> Result<ActiveSnapshot, StoreError> {
        let mut active = ActiveSnapshot::new(snapshots, id, below)?;
        // Whatever fails now, the tree is somebody's data.
        active.is_ours = false;
        // overlayfs refuses the work directory of a volatile mount that it has seen before.
        let work = active.work();
        snapshots.inner.trash.take(&work)?;
        fs_err::create_dir(&work).map_err(file_error("make", &work))?;
        active.mark()?;
        let kept = active.layer.dir.join(KEPT);
        fs_err::remove_file(&kept).map_err(file_error("remove", &kept))?;
        active.is_ours = true;
        Ok(active)
    }

    fn new(
        snapshots: &Snapshots,
        id: SnapshotId,
        below: Option<Snapshot>,
    ) -> Result<ActiveSnapshot, StoreError> {
        if let Some(below) = &below
            && below.layers().count() >= MAX_LAYERS
        {
            return Err(StoreError::TooManyLayers { id: *below.id(), limit: MAX_LAYERS });
        }
        let dir = snapshots.snapshot_dir(&id);
        let layer = SnapshotLayer { id, upper: dir.join("fs"), dir };
        let snapshots = snapshots.clone();
        let (amends, unpacked, is_ours) = (false, Mutex::default(), true);
        Ok(ActiveSnapshot { snapshots, layer, below, amends, unpacked, is_ours })
    }

    /// The name it will have when committed.
    pub fn id(&self) -> &SnapshotId {
        &self.layer.id
    }

    /// The directory of changes. Whoever writes here without the overlay uses overlayfs' form:
    /// whiteouts are character devices 0:0, opaque directories have `user.overlay.opaque=y`.
    pub fn upper(&self) -> &Path {
        &self.layer.upper
    }

    /// Where whoever copies files into it may note what they came from.
    pub fn copied_note(&self) -> PathBuf {
        self.layer.dir.join(COPIED)
    }

    /// What the changes of its layer are against.
    pub fn parent(&self) -> Option<&Snapshot> {
        if self.amends { self.below.as_ref()?.parent() } else { self.below.as_ref() }
    }

    /// What it amends: see [`Snapshots::amend`].
    pub fn amended(&self) -> Option<&Snapshot> {
        self.below.as_ref().filter(|_| self.amends)
    }

    /// Every directory of changes that its own lies over, bottom first.
    pub fn layers_below(&self) -> impl DoubleEndedIterator<Item = &SnapshotLayer> {
        self.below.iter().flat_map(Snapshot::layers)
    }

    /// How to mount it, writable: an overlay or, over nothing, a bind of [`ActiveSnapshot::upper`].
    pub fn mounts(&self) -> Vec<Mount> {
        self.mounts_over(None)
    }

    /// As [`ActiveSnapshot::mounts`], for the root of a container: over a layer in which there are
    /// empty `/etc/hosts`, `/etc/resolv.conf` and what else [`RootOf`] says, so that files can be
    /// mounted there whatever is in the image.
    pub fn container_mounts(&self, of: RootOf) -> Vec<Mount> {
        self.mounts_over(self.snapshots.targets(of))
    }

    fn mounts_over(&self, lowest: Option<&Path>) -> Vec<Mount> {
        let layers: Vec<&Path> = self.layers_below().map(SnapshotLayer::upper).collect();
        let mount = if layers.is_empty() {
            overlay::bind(self.upper(), true)
        } else {
            overlay::writable(lowest.into_iter().chain(layers), self.upper(), &self.work())
        };
        vec![mount]
    }

    /// Freezes the tree. Nothing may be mounted on it or written to it any more.
    pub fn commit(mut self, commit: CommitInfo) -> Result<Snapshot, StoreError> {
        let snapshots = self.snapshots.clone();
        let dir = &self.layer.dir;
        // Before anybody, a prune included, can see it.
        snapshots.lease(self.id())?;
        snapshots.inner.trash.take(&self.work())?;
        let unpacked = *self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digests) = unpacked.filter(|found| Some(found.diff_id) == commit.diff_id) {
            let content = commit.content.unwrap_or(digests.content);
            let digests = LayerDigests { content, ..digests };
            info::write(&dir.join(LAYER), &digests)?;
        }
        let info = Info {
            parent: self.below.as_ref().map(|below| *below.id()),
            amends: self.amends,
            created: commit.created,
            boot: snapshots.inner.unsynced.boot().to_owned(),
            chain: commit.chain,
            diff_id: commit.diff_id,
        };
        info::write(&dir.join(INFO), &info)?;
        // From here on it is there.
        self.is_ours = false;
        let mark = snapshots.inner.process.mark(&self.id().to_string());
        let note = snapshots.inner.unsynced.snapshot_note(self.id());
        fs_err::rename(&mark, &note).map_err(file_error("make", &note))?;
        let snapshot = Snapshot::new(snapshots.clone(), *self.id(), info, self.below.take())
            .resembling(commit.resembles);
        if let Some(chain) = &commit.chain {
            snapshots.link_chain(chain, snapshot.id())?;
        }
        snapshots.lock_known().insert(*snapshot.id(), snapshot.clone());
        Ok(snapshot)
    }

    /// Leaves the tree where it is, uncommitted, until [`Snapshots::remove`]; it survives this
    /// process, and [`Snapshots::reopen`] takes it back into use. Returns the directory of changes.
    pub fn keep(mut self) -> Result<PathBuf, StoreError> {
        let kept = Kept { parent: self.below.as_ref().map(|below| *below.id()) };
        info::write(&self.layer.dir.join(KEPT), &kept)?;
        self.is_ours = false;
        let mark = self.snapshots.inner.process.mark(&self.id().to_string());
        fs_err::remove_file(&mark).map_err(file_error("remove", &mark))?;
        Ok(self.layer.upper.clone())
    }

    /// Notes what `unpack` learnt.
    pub(crate) fn set_unpacked(&self, digests: LayerDigests) {
        *self.unpacked.lock().unwrap_or_else(PoisonError::into_inner) = Some(digests);
    }

    fn work(&self) -> PathBuf {
        self.layer.dir.join("work")
    }

    /// Says in this process's corner of `ingest/` that the tree is ours while we live.
    fn mark(&self) -> Result<(), StoreError> {
        let mark = self.snapshots.inner.process.mark(&self.id().to_string());
        fs_err::File::create(&mark).map_err(file_error("make", &mark))?;
        Ok(())
    }

    /// `/` looks as the topmost layer's root does. Layers have no entry for it, so it is handed up.
    fn give_root_its_metadata(&self) -> Result<(), StoreError> {
        let upper = self.upper();
        let mode = match &self.below {
            None => 0o755,
            Some(below) => {
                let below = below.upper();
                let metadata = fs_err::metadata(below).map_err(file_error("read", below))?;
                let (uid, gid) = (metadata.uid(), metadata.gid());
                let own = fs_err::metadata(upper).map_err(file_error("read", upper))?;
                if (uid, gid) != (own.uid(), own.gid()) {
                    std::os::unix::fs::chown(upper, Some(uid), Some(gid))
                        .map_err(file_error("change the owner of", upper))?;
                }
                metadata.mode() & 0o7777
            }
        };
        fs_err::set_permissions(upper, std::fs::Permissions::from_mode(mode))
            .map_err(file_error("change the mode of", upper))
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        if !self.is_ours {
            return;
        }
        // If the tree resists, its mark stays, and the next sweep tries again.
        match self.snapshots.inner.trash.take(&self.layer.dir) {
            Ok(()) => {
                let mark = self.snapshots.inner.process.mark(&self.id().to_string());
                let _ = fs_err::remove_file(mark);
            }
            Err(error) => tracing::warn!("an unfinished snapshot stays: {error}"),
        }
    }
}
