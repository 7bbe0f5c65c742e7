//! Snapshots that do not change any more, and their digests.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::runtime::Mount;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::info::{self, CHECKPOINTS, COPIED, INFO, Info, LAYER};
use super::{SnapshotId, Snapshots, overlay};
use crate::error::StoreError;
use crate::hash::{Fingerprint, FingerprintBuilder};
use crate::layer::{self, PackedLayer};
use crate::oci::{ChainId, DiffId};
use crate::state::{file_error, write_atomically};

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
    /// What the directory of changes lies over: the parent, or what it amends.
    below: Option<Snapshot>,
    digests: Mutex<Option<LayerDigests>>,
    /// Until there are digests.
    resembles: Mutex<Option<Snapshot>>,
}

/// One directory of changes.
#[derive(Clone, Debug)]
pub struct SnapshotLayer {
    pub(super) id: SnapshotId,
    /// The snapshot's directory; `upper` lies in it.
    pub(super) dir: PathBuf,
    pub(super) upper: PathBuf,
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

    pub(super) fn is_there(&self) -> Result<bool, StoreError> {
        let info = self.dir.join(INFO);
        match rustix::fs::access(&info, rustix::fs::Access::EXISTS) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(file_error("look for", &info)(errno.into())),
        }
    }
}

impl Snapshot {
    pub(super) fn new(
        snapshots: Snapshots,
        id: SnapshotId,
        info: Info,
        below: Option<Snapshot>,
    ) -> Self {
        let dir = snapshots.snapshot_dir(&id);
        let layer = SnapshotLayer { id, upper: dir.join("fs"), dir };
        let (digests, resembles) = (Mutex::default(), Mutex::default());
        Snapshot { node: Arc::new(Node { snapshots, layer, info, below, digests, resembles }) }
    }

    /// With a tree that has many of the same files, if there is one.
    pub(super) fn resembling(self, earlier: Option<Snapshot>) -> Self {
        let is_beside = |earlier: &Snapshot| {
            earlier.parent().map(Snapshot::id) == self.parent().map(Snapshot::id)
        };
        *lock(&self.node.resembles) = earlier.filter(is_beside);
        self
    }

    /// Its name.
    pub fn id(&self) -> &SnapshotId {
        &self.node.layer.id
    }

    /// What it stands on.
    pub fn parent(&self) -> Option<&Snapshot> {
        let below = self.node.below.as_ref();
        if self.node.info.amends { below?.parent() } else { below }
    }

    /// What it amends: see [`Snapshots::amend`].
    pub fn amended(&self) -> Option<&Snapshot> {
        self.node.below.as_ref().filter(|_| self.node.info.amends)
    }

    /// Every directory of changes, bottom first, its own last.
    pub fn layers(&self) -> impl DoubleEndedIterator<Item = &SnapshotLayer> {
        bottom_up(self.stack()).map(|snapshot| &snapshot.node.layer)
    }

    /// The directories of changes that are its own layer, bottom first: one, and what it amends.
    pub fn own_layers(&self) -> impl DoubleEndedIterator<Item = &SnapshotLayer> {
        let amended = std::iter::successors(Some(self), |snapshot| snapshot.amended());
        bottom_up(amended).map(|snapshot| &snapshot.node.layer)
    }

    /// Its own directory of changes.
    pub fn upper(&self) -> &Path {
        &self.node.layer.upper
    }

    /// Where whoever copied its files may have noted what they came from.
    pub fn copied_note(&self) -> PathBuf {
        self.node.layer.dir.join(COPIED)
    }

    /// How to mount it, read-only.
    pub fn mounts(&self) -> Vec<Mount> {
        let mount = match self.node.below {
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
        let mut digests = lock(&self.node.digests);
        if let Some(digests) = *digests {
            return Ok(digests);
        }
        let path = self.node.layer.dir.join(LAYER);
        let known = match info::read(&path)? {
            Some(known) => known,
            None => {
                let packed = self.pack()?;
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

    /// Whether [`Snapshot::layer`] has nothing to compute, and nobody is at it.
    pub fn knows_layer(&self) -> bool {
        let known = self.node.digests.try_lock().map(|digests| digests.is_some());
        let path = self.node.layer.dir.join(LAYER);
        known.is_ok_and(|known| {
            known || rustix::fs::access(&path, rustix::fs::Access::EXISTS).is_ok()
        })
    }

    /// Finds the digests, with the help of what is known of the tree that this one resembles, and
    /// leaves the same help for the next.
    fn pack(&self) -> Result<PackedLayer, StoreError> {
        let earlier = lock(&self.node.resembles).take().or_else(|| self.amended().cloned());
        let read = |earlier: Snapshot| fs_err::read(earlier.node.layer.dir.join(CHECKPOINTS)).ok();
        let checkpoints = earlier.and_then(read).and_then(|bytes| layer::read_checkpoints(&bytes));
        let (packed, checkpoints) =
            layer::digest(self, &checkpoints.unwrap_or_default()).map_err(|source| {
                StoreError::LayerDigest { id: *self.id(), source: Box::new(source) }
            })?;
        if let Some(bytes) = layer::write_checkpoints(&checkpoints) {
            let path = self.node.layer.dir.join(CHECKPOINTS);
            write_atomically(&path, &bytes)?;
        }
        Ok(packed)
    }

    /// The content of all its layers, modification times aside. Layers without changes count: what
    /// is made on top of them has as many layers as its history says. Costs what
    /// [`Snapshot::layer`] costs for every layer that has no digests yet.
    pub fn chain_content(&self) -> Result<Fingerprint, StoreError> {
        let layers = bottom_up(self.ancestry()).map(|snapshot| Ok(snapshot.layer()?.content));
        let layers = layers.collect::<Result<Vec<_>, StoreError>>()?;
        Ok(chain_content(layers.into_iter()))
    }

    /// The digests of its layers, bottom first. Costs as [`Snapshot::chain_content`].
    pub fn diff_ids(&self) -> Result<Vec<DiffId>, StoreError> {
        bottom_up(self.ancestry()).map(Snapshot::diff_id).collect()
    }

    /// The digest of the whole stack; from then on [`Snapshots::unpacked`] finds this snapshot and
    /// those below it by theirs. Costs as [`Snapshot::chain_content`].
    pub fn chain(&self) -> Result<ChainId, StoreError> {
        let mut chain = None;
        for snapshot in bottom_up(self.ancestry()) {
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

    /// What is written down about a layer that was made here; `None` if nothing is yet, or if the
    /// layer came from elsewhere.
    pub(crate) fn recorded_layer(&self) -> Result<Option<LayerDigests>, StoreError> {
        match self.node.info.diff_id {
            Some(_) => Ok(None),
            None => info::read(&self.node.layer.dir.join(LAYER)),
        }
    }

    fn diff_id(&self) -> Result<DiffId, StoreError> {
        match self.node.info.diff_id {
            Some(known) => Ok(known),
            None => Ok(self.layer()?.diff_id),
        }
    }

    /// Whether it, and all that it stands on, has not been removed since it was read.
    pub(super) fn is_there(&self) -> Result<bool, StoreError> {
        for layer in self.stack().map(|snapshot| &snapshot.node.layer) {
            if !layer.is_there()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Itself, its parent, and so on.
    fn ancestry(&self) -> impl Iterator<Item = &Snapshot> {
        std::iter::successors(Some(self), |snapshot| snapshot.parent())
    }

    /// Itself and everything whose directory of changes lies below its own.
    fn stack(&self) -> impl Iterator<Item = &Snapshot> {
        std::iter::successors(Some(self), |snapshot| snapshot.node.below.as_ref())
    }
}

fn bottom_up<'a>(
    top_down: impl Iterator<Item = &'a Snapshot>,
) -> impl DoubleEndedIterator<Item = &'a Snapshot> {
    let mut snapshots: Vec<&Snapshot> = top_down.collect();
    snapshots.reverse();
    snapshots.into_iter()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The content of a stack of layers, those without changes too.
pub(crate) fn chain_content(layers: impl Iterator<Item = Fingerprint>) -> Fingerprint {
    let mut content = FingerprintBuilder::new("strake chain content v2");
    for layer in layers {
        content.add("layer", layer.as_bytes());
    }
    content.finish()
}
