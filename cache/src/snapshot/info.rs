//! What lies beside a snapshot's tree: `info`, `layer-v2`, `copied`, `kept`, and others.

use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::SnapshotId;
use crate::error::StoreError;
use crate::oci::{ChainId, DiffId};
use crate::state::{file_error, write_atomically};

/// Makes a directory a snapshot: without it there is none. Written last.
pub(super) const INFO: &str = "info";
/// The digests of the layer, once somebody asked.
pub(super) const LAYER: &str = "layer-v2";
/// How far the packing of a large layer had come at some points.
pub(super) const CHECKPOINTS: &str = "checkpoints";
/// What the tree's files were copied from; whoever copied writes and reads it.
pub(super) const COPIED: &str = "copied";
/// Made by a sync: the tree is on the disk.
pub(super) const DURABLE: &str = "durable";
/// The tree of a container that outlives its process.
pub(super) const KEPT: &str = "kept";

/// The content of `info`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Info {
    /// What its directory of changes lies over.
    pub(super) parent: Option<SnapshotId>,
    /// Whether it amends that: see [`super::Snapshots::amend`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) amends: bool,
    pub(super) created: String,
    /// The boot in which it was committed.
    pub(super) boot: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chain: Option<ChainId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) diff_id: Option<DiffId>,
}

/// The content of `kept`.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) parent: Option<SnapshotId>,
}

/// Reads one of them; `None` if it is not there or cut short, which after a power cut is the same.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    // Not fs_err: this runs some hundred times per build, nearly always with success, and the path
    // is added below.
    #[allow(clippy::disallowed_methods)]
    match std::fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(source) => Err(file_error("read", path)(source)),
    }
}

/// Writes one of them.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| file_error("write", path)(io::Error::other(error)))?;
    write_atomically(path, &bytes)
}
