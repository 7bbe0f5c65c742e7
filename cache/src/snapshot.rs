//! Snapshots: the file trees a build works on.
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::runtime::Mount;
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::hash::Fingerprint;
use crate::oci::{ChainId, DiffId};

/// The name of a snapshot: 128 random bits, 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(u128);

/// Text that is no snapshot's name.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a snapshot id (32 lower-case hex digits)")]
pub struct SnapshotIdError {
    text: String,
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SnapshotId {
    type Err = SnapshotIdError;

    fn from_str(text: &str) -> Result<Self, SnapshotIdError> {
        crate::oci::decode_hex::<16>(text)
            .map(|bytes| SnapshotId(u128::from_be_bytes(bytes)))
            .ok_or_else(|| SnapshotIdError { text: text.chars().take(64).collect() })
    }
}

impl Serialize for SnapshotId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SnapshotId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The snapshots of a store. Clones are the same.
#[derive(Clone, Debug)]
pub struct Snapshots {}

/// What a commit writes down beside the tree.
#[derive(Clone, Debug, Default)]
pub struct CommitInfo {
    /// RFC 3339.
    pub created: String,
    /// Of an image's layer: the chain up to and with it.
    pub chain: Option<ChainId>,
    /// Of an image's layer: its digest.
    pub diff_id: Option<DiffId>,
}

/// What a layer looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerDigests {
    /// sha256 of the uncompressed tar.
    pub diff_id: DiffId,
    /// Bytes of the uncompressed tar.
    pub size: u64,
    /// Everything but modification times.
    pub content: Fingerprint,
}

impl Snapshots {
    /// Starts a tree of changes over `parent`, or over nothing.
    pub fn prepare(&self, parent: Option<&SnapshotId>) -> Result<ActiveSnapshot, StoreError> {
        let _ = parent;
        todo!()
    }

    /// The committed snapshot; `None` if it or any ancestor is missing.
    pub fn get(&self, id: &SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        let _ = id;
        todo!()
    }

    /// The snapshot of a stack of image layers, if it was unpacked or made here before.
    pub fn unpacked(&self, chain: &ChainId) -> Result<Option<Snapshot>, StoreError> {
        let _ = chain;
        todo!()
    }

    /// Removes the snapshot; those on top of it become misses.
    pub fn remove(&self, id: &SnapshotId) -> Result<(), StoreError> {
        let _ = id;
        todo!()
    }

    /// Every committed snapshot's id, in order.
    pub fn list(&self) -> Result<Vec<SnapshotId>, StoreError> {
        todo!()
    }

    /// Takes a kept tree (see [`ActiveSnapshot::keep`]) back into use.
    pub fn reopen(&self, id: &SnapshotId) -> Result<Option<ActiveSnapshot>, StoreError> {
        let _ = id;
        todo!()
    }
}

/// A tree that somebody writes to. Dropped before a commit, it is removed.
#[derive(Debug)]
pub struct ActiveSnapshot {}

impl ActiveSnapshot {
    /// The name it will have when committed.
    pub fn id(&self) -> &SnapshotId {
        todo!()
    }

    /// The directory of changes.
    pub fn upper(&self) -> &Path {
        todo!()
    }

    /// What the changes are against.
    pub fn parent(&self) -> Option<&Snapshot> {
        todo!()
    }

    /// How to mount it, writable.
    pub fn mounts(&self) -> Vec<Mount> {
        todo!()
    }

    /// Freezes the tree.
    pub fn commit(self, info: CommitInfo) -> Result<Snapshot, StoreError> {
        let _ = info;
        todo!()
    }

    /// Leaves the tree where it is, uncommitted, until [`Snapshots::remove`].
    pub fn keep(self) -> Result<PathBuf, StoreError> {
        todo!()
    }
}

/// A committed tree and everything below it. Clones are the same.
#[derive(Clone, Debug)]
pub struct Snapshot {}

/// One directory of changes.
#[derive(Clone, Debug)]
pub struct SnapshotLayer {
    id: SnapshotId,
    upper: PathBuf,
}

impl SnapshotLayer {
    /// The snapshot whose changes these are.
    pub fn id(&self) -> &SnapshotId {
        &self.id
    }

    /// The directory.
    pub fn upper(&self) -> &Path {
        &self.upper
    }
}

impl Snapshot {
    /// Its name.
    pub fn id(&self) -> &SnapshotId {
        todo!()
    }

    /// What it stands on.
    pub fn parent(&self) -> Option<&Snapshot> {
        todo!()
    }

    /// Every directory of changes, bottom first, its own last.
    pub fn layers(&self) -> impl Iterator<Item = &SnapshotLayer> {
        todo!();
        #[allow(unreachable_code)]
        [].into_iter()
    }

    /// Its own directory of changes.
    pub fn upper(&self) -> &Path {
        todo!()
    }

    /// How to mount it, read-only.
    pub fn mounts(&self) -> Vec<Mount> {
        todo!()
    }

    /// When it was committed, RFC 3339, as its maker said.
    pub fn created(&self) -> &str {
        todo!()
    }

    /// The digests of its own layer, computed once.
    pub fn layer(&self) -> Result<LayerDigests, StoreError> {
        todo!()
    }

    /// The content of all its layers, modification times aside.
    pub fn chain_content(&self) -> Result<Fingerprint, StoreError> {
        todo!()
    }

    /// The digest of the whole stack; from then on [`Snapshots::unpacked`] finds it by that.
    pub fn chain(&self) -> Result<ChainId, StoreError> {
        todo!()
    }
}
