//! The records that a build asks: those of the store first, then those of imported caches.
//!
//! A result whose tree is not here yet has no record in the store that would be of any use to
//! another build, so such records wait until the end ([`BuildRecords::settle`]): what was fetched
//! until then is recorded under the names that it has here.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use cache::bundle::Imported;
use cache::hash::Fingerprint;
use cache::index::{CacheKey, Record};
use cache::{Store, StoreError};
use solver::llb::Definition;
use solver::{Records, RecordsError, Solution};

/// See the module.
pub(super) struct BuildRecords {
    store: Store,
    imported: Imported,
    waiting: Mutex<HashMap<CacheKey, Record>>,
}

impl BuildRecords {
    pub(super) fn new(store: Store, imported: Imported) -> Self {
        BuildRecords { store, imported, waiting: Mutex::default() }
    }

    /// Records what came of imported trees, and what else of imported records this build was about:
    /// `why` compares with them. Call it when nothing is fetched any more.
    pub(super) fn settle(
        &self,
        definition: &Definition,
        solution: &Solution,
    ) -> Result<(), RecordsError> {
        if self.imported.is_empty() {
            return Ok(());
        }
        let ops: HashSet<Fingerprint> = definition
            .ids()
            .zip(&solution.decisions.vertices)
            .filter(|(_, report)| report.key.is_some())
            .map(|(id, _)| solver::key::op_digest(definition.vertex(id)))
            .collect();
        let mut records: Vec<Record> = self.take_waiting().into_values().collect();
        for key in self.imported.keys_of(&ops) {
            if self.local(&key)?.is_none() {
                records.extend(self.imported.lookup(&self.store, &key).map_err(unusable)?);
            }
        }
        let records: Vec<Record> = records.into_iter().map(|record| self.at_home(record)).collect();
        Records::insert(self.store.index(), &records)
    }

    /// The record of a key, if the store has one whose trees are here.
    fn local(&self, key: &CacheKey) -> Result<Option<Record>, RecordsError> {
        let record = Records::lookup(self.store.index(), key)?;
        let Some(record) = record else { return Ok(None) };
        for id in record.outputs.iter().filter_map(|output| output.snapshot) {
            if self.store.snapshots().get(&id).map_err(unusable)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(record))
    }

    /// With the names that its trees have here.
    fn at_home(&self, mut record: Record) -> Record {
        for output in &mut record.outputs {
            output.snapshot = output.snapshot.map(|id| self.imported.made(&id).unwrap_or(id));
        }
        record
    }

    fn is_far(&self, record: &Record) -> bool {
        let far = |id| self.imported.knows(&id) && self.imported.made(&id).is_none();
        record.outputs.iter().filter_map(|output| output.snapshot).any(far)
    }

    fn take_waiting(&self) -> HashMap<CacheKey, Record> {
        std::mem::take(&mut *self.lock_waiting())
    }

    fn lock_waiting(&self) -> std::sync::MutexGuard<'_, HashMap<CacheKey, Record>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records for BuildRecords {
    fn lookup(&self, key: &CacheKey) -> Result<Option<Record>, RecordsError> {
        if self.imported.is_empty() {
            return Records::lookup(self.store.index(), key);
        }
        if let Some(record) = self.local(key)? {
            return Ok(Some(record));
        }
        let waiting = self.lock_waiting().get(key).cloned();
        let gone = |record: &Record| {
            let mut ids = record.outputs.iter().filter_map(|output| output.snapshot);
            ids.any(|id| self.imported.knows(&id) && !self.imported.offers(&id))
        };
        let waiting = waiting.filter(|record| !gone(record));
        match waiting {
            Some(record) => Ok(Some(record)),
            None => self.imported.lookup(&self.store, key).map_err(unusable),
        }
    }

    fn lookup_outputs(&self, key: &CacheKey) -> Result<Option<Record>, RecordsError> {
        match self.imported.is_empty() {
            true => Records::lookup_outputs(self.store.index(), key),
            false => self.lookup(key),
        }
    }

    fn has_op(&self, op: &Fingerprint) -> Result<bool, RecordsError> {
        Ok(self.imported.has_op(op) || Records::has_op(self.store.index(), op)?)
    }

    fn insert(&self, records: &[Record]) -> Result<(), RecordsError> {
        if self.imported.is_empty() {
            return Records::insert(self.store.index(), records);
        }
        let (far, here): (Vec<Record>, Vec<Record>) =
            records.iter().cloned().partition(|record| self.is_far(record));
        self.lock_waiting().extend(far.into_iter().map(|record| (record.key, record)));
        let here: Vec<Record> = here.into_iter().map(|record| self.at_home(record)).collect();
        Records::insert(self.store.index(), &here)
    }
}

/// The store does not say whether a tree is here.
fn unusable(error: StoreError) -> RecordsError {
    Box::<dyn std::error::Error + Send + Sync>::from(error).into()
}
