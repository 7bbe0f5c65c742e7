//! The store: one directory tree, shared by any number of processes.
use std::path::{Path, PathBuf};

use crate::blob::Blobs;
pub use crate::error::StoreError;
use crate::image::Images;
use crate::index::Index;
use crate::snapshot::Snapshots;

/// An open store. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {}

impl Store {
    /// Opens the store at `root`, making it if it is not there.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let _ = root;
        todo!()
    }

    /// `/var/lib/strake` for uid 0, else `$XDG_DATA_HOME/strake`, else `~/.local/share/strake`.
    pub fn default_root() -> PathBuf {
        todo!()
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        todo!()
    }

    /// Content-addressed files.
    pub fn blobs(&self) -> &Blobs {
        todo!()
    }

    /// File trees.
    pub fn snapshots(&self) -> &Snapshots {
        todo!()
    }

    /// The solver's memory.
    pub fn index(&self) -> &Index {
        todo!()
    }

    /// Image names.
    pub fn images(&self) -> &Images {
        todo!()
    }

    /// `<root>/containers`.
    pub fn containers_dir(&self) -> PathBuf {
        todo!()
    }

    /// `<root>/cache-mounts`.
    pub fn cache_mounts_dir(&self) -> PathBuf {
        todo!()
    }

    /// `<root>/volumes`.
    pub fn volumes_dir(&self) -> PathBuf {
        todo!()
    }

    /// `<root>/context-v1`.
    pub fn contexts_dir(&self) -> PathBuf {
        todo!()
    }

    /// Takes `path` away at once and deletes it in the background.
    pub fn trash(&self, path: &Path) -> Result<(), StoreError> {
        let _ = path;
        todo!()
    }

    /// Makes everything committed so far survive a power cut, in a thread of its own.
    pub fn sync_in_background(&self) {
        todo!()
    }

    /// Waits until nobody else uses the store and keeps others out while the guard lives.
    pub fn exclusive(&self) -> Result<Exclusive, StoreError> {
        todo!()
    }
}

/// Proof that no other process uses the store.
#[derive(Debug)]
pub struct Exclusive {}
