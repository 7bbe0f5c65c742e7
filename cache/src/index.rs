//! The solver's memory: cache keys, what they were made of, what came out.
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::hash::Fingerprint;
use crate::oci::{Descriptor, DiffId};
use crate::snapshot::SnapshotId;

/// What a step's result is found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheKey(pub Fingerprint);

impl std::fmt::Display for CacheKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it is found by.
    pub key: CacheKey,
    /// The operation alone, whatever its inputs.
    pub op: Fingerprint,
    /// The step as people see it.
    pub name: String,
    /// In the operation's order.
    pub outputs: Vec<Output>,
    /// RFC 3339.
    pub created: String,
    /// The named parts that the key was made of.
    pub ingredients: Vec<Ingredient>,
}

/// One file tree that came out of a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Output {
    /// `None`: an empty tree.
    pub snapshot: Option<SnapshotId>,
    /// The content of the whole chain, modification times aside, where it is known.
    pub content: Option<Fingerprint>,
}

/// One named part of a key, e.g. `env.PATH` or `file:/src/a.c#mode`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ingredient {
    /// Its name.
    pub part: String,
    /// Its value, or the fingerprint of a long one.
    pub value: String,
}

/// The index of a store. Clones are the same.
#[derive(Clone, Debug)]
pub struct Index {}

impl Index {
    pub(crate) fn new(path: std::path::PathBuf) -> Index {
        let _ = path;
        todo!()
    }
}

impl Index {
    /// The record under `key`.
    pub fn lookup(&self, key: &CacheKey) -> Result<Option<Record>, StoreError> {
        let _ = key;
        todo!()
    }

    /// Stores one record, replacing an older one of the same key.
    pub fn insert(&self, record: &Record) -> Result<(), StoreError> {
        self.insert_many(std::slice::from_ref(record))
    }

    /// Stores records in one transaction.
    pub fn insert_many(&self, records: &[Record]) -> Result<(), StoreError> {
        let _ = records;
        todo!()
    }

    /// Whether any record is of this operation.
    pub fn has_op(&self, op: &Fingerprint) -> Result<bool, StoreError> {
        let _ = op;
        todo!()
    }

    /// The record that `name` had when `scope` (a project, a tag, …) was last built.
    pub fn latest_for_name(&self, scope: &str, name: &str) -> Result<Option<Record>, StoreError> {
        let _ = (scope, name);
        todo!()
    }

    /// Remembers which record each step of `scope` had, in one transaction.
    pub fn set_latest(&self, scope: &str, steps: &[(String, CacheKey)]) -> Result<(), StoreError> {
        let _ = (scope, steps);
        todo!()
    }

    /// The blob that a layer became in one form (`gzip-6`, `zstd-3`, `tar`, …).
    pub fn layer_blob(&self, diff: &DiffId, kind: &str) -> Result<Option<Descriptor>, StoreError> {
        let _ = (diff, kind);
        todo!()
    }

    /// Every form that a layer is known in, as (kind, blob).
    pub fn layer_blobs(&self, diff: &DiffId) -> Result<Vec<(String, Descriptor)>, StoreError> {
        let _ = diff;
        todo!()
    }

    /// Remembers the blob that a layer became.
    pub fn put_layer_blob(
        &self,
        diff: &DiffId,
        kind: &str,
        blob: &Descriptor,
    ) -> Result<(), StoreError> {
        let _ = (diff, kind, blob);
        todo!()
    }

    /// A remembered value (build history and the like).
    pub fn value(&self, space: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let _ = (space, key);
        todo!()
    }

    /// Remembers a value.
    pub fn put_value(&self, space: &str, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let _ = (space, key, value);
        todo!()
    }

    /// Forgets a value.
    pub fn remove_value(&self, space: &str, key: &str) -> Result<(), StoreError> {
        let _ = (space, key);
        todo!()
    }

    /// Every remembered value of a space, by key.
    pub fn values(&self, space: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let _ = space;
        todo!()
    }

    /// Every record, without its ingredients, oldest use first.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        todo!()
    }

    /// Marks records as used now, in one transaction.
    pub fn touch(&self, keys: &[CacheKey]) -> Result<(), StoreError> {
        let _ = keys;
        todo!()
    }

    /// Forgets records, in one transaction.
    pub fn remove(&self, keys: &[CacheKey]) -> Result<(), StoreError> {
        let _ = keys;
        todo!()
    }
}
