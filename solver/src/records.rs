//! What earlier builds left behind: keys and the outputs they stand for.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cache::hash::Fingerprint;
use cache::index::{CacheKey, Index, Record};
use thiserror::Error;

/// Remembers results across builds.
///
/// All calls are short (tens of microseconds) and come from the scheduling task, except
/// [`Records::insert`], which comes from a thread of its own. Several processes may share what is
/// behind this at any time. That a record was used is the worker's to note, who is asked for its
/// trees ([`crate::Worker::exists`]).
pub trait Records: Send + Sync + 'static {
    /// The record of a key.
    fn lookup(&self, key: &CacheKey) -> Result<Option<Record>, RecordsError>;

    /// As [`Records::lookup`], for whoever does not look at [`Record::ingredients`]: they may be
    /// missing.
    fn lookup_outputs(&self, key: &CacheKey) -> Result<Option<Record>, RecordsError> {
        self.lookup(key)
    }

    /// Whether there is any record with this [`Record::op`]. A wrong "yes" costs time; a wrong "no"
    /// costs a hit.
    fn has_op(&self, op: &Fingerprint) -> Result<bool, RecordsError>;

    /// Stores records, in order, each in place of an older one of the same key.
    fn insert(&self, records: &[Record]) -> Result<(), RecordsError>;
}

/// The records cannot be read or written. Never ends a build: what cannot be read is a miss.
#[derive(Debug, Error)]
#[error("the build cache's index cannot be used")]
pub struct RecordsError {
    /// Why.
    #[from]
    source: Box<dyn Error + Send + Sync>,
}

impl Records for Index {
    fn lookup(&self, key: &CacheKey) -> Result<Option<Record>, RecordsError> {
        Index::lookup(self, key).map_err(boxed)
    }

    fn lookup_outputs(&self, key: &CacheKey) -> Result<Option<Record>, RecordsError> {
        Index::lookup_outputs(self, key).map_err(boxed)
    }

    fn has_op(&self, op: &Fingerprint) -> Result<bool, RecordsError> {
        Index::has_op(self, op).map_err(boxed)
    }

    fn insert(&self, records: &[Record]) -> Result<(), RecordsError> {
        self.insert_many(records).map_err(boxed)
    }
}

fn boxed(source: impl Error + Send + Sync + 'static) -> RecordsError {
    RecordsError { source: Box::new(source) }
}

/// Records that live as long as this value: for tests and builds that must leave nothing behind.
#[derive(Debug, Default)]
pub struct MemoryRecords {
    inner: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    records: HashMap<CacheKey, Record>,
    ops: HashSet<Fingerprint>,
}

impl MemoryRecords {
    /// No records.
    pub fn new() -> MemoryRecords {
        MemoryRecords::default()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.memory().records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Every change is a single insertion, so a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records for MemoryRecords {
    fn lookup(&self, key: &CacheKey) -> Result<Option<Record>, RecordsError> {
        Ok(self.memory().records.get(key).cloned())
    }

    fn lookup_outputs(&self, key: &CacheKey) -> Result<Option<Record>, RecordsError> {
        let memory = self.memory();
        let found = memory.records.get(key).map(|record| Record {
            key: record.key,
            op: record.op,
            name: record.name.clone(),
            outputs: record.outputs.clone(),
            created: record.created.clone(),
            ingredients: Vec::new(),
        });
        Ok(found)
    }

    fn has_op(&self, op: &Fingerprint) -> Result<bool, RecordsError> {
        Ok(self.memory().ops.contains(op))
    }

    fn insert(&self, records: &[Record]) -> Result<(), RecordsError> {
        let mut memory = self.memory();
        for record in records {
            memory.ops.insert(record.op);
            memory.records.insert(record.key, record.clone());
        }
        Ok(())
    }
}
