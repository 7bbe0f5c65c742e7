//! The records that a build asks: those of the store first, then those of imported caches.
//!
//! A result whose tree is not here yet may be by the end of the build, so such records wait until
//! then ([`BuildRecords::settle`]): what was fetched is recorded under the names that it has here. Of
//! what was not, the store remembers where it lies, so that the next build finds it without the
//! cache.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cache::Store;
use cache::bundle::{Bases, Imported};
use cache::hash::Fingerprint;
use cache::index::{CacheKey, Record};
use cache::snapshot::SnapshotId;
use solver::llb::Definition;
use solver::{Records, RecordsError, Solution};

/// See the module.
pub(super) struct BuildRecords {
    store: Store,
    imported: Imported,
    /// Records of trees that are not here, found or made in this build.
    waiting: Mutex<HashMap<CacheKey, Record>>,
    /// Records of the store whose trees were not here.
    remembered: Mutex<HashMap<CacheKey, Record>>,
}

impl BuildRecords {
    pub(super) fn new(store: Store, imported: Imported) -> Self {
        BuildRecords { store, imported, waiting: Mutex::default(), remembered: Mutex::default() }
    }

    /// Records what came of imported trees, and what else of imported records this build was about:
    /// `why` compares with them. Where `bases` are to be had is remembered too. Call it when nothing
    /// is fetched any more.
    pub(super) fn settle(
        &self,
        definition: &Definition,
        solution: &Solution,
        bases: &Bases,
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
        let mut records: Vec<Record> =
            std::mem::take(&mut *lock(&self.waiting)).into_values().collect();
        records.sort_by_key(|record| record.key);
        for key in self.imported.keys_of(&ops) {
            if self.local(&key)?.is_none() {
                records.extend(self.imported.lookup(&self.store, &key).map_err(unusable)?);
            }
        }
        records = records.into_iter().map(|record| self.at_home(record)).collect();
        // What the store has as it is needs not be written again.
        for record in std::mem::take(&mut *lock(&self.remembered)).into_values() {
            let at_home = self.at_home(record.clone());
            if at_home != record {
                records.push(at_home);
            }
        }
        let trees = records.iter().flat_map(|record| &record.outputs);
        let far: Vec<SnapshotId> = trees
            .filter_map(|output| output.snapshot)
            .filter(|id| self.imported.is_far(id))
            .collect();
        self.imported.remember(&self.store, &far, bases).map_err(unusable)?;
        match records.is_empty() {
            true => Ok(()),
            false => Records::insert(self.store.index(), &records),
        }
    }

    /// The record of a key, if the store has one whose trees are here, or remembered.
    fn local(&self, key: &CacheKey) -> Result<Option<Record>, RecordsError> {
        let record = Records::lookup(self.store.index(), key)?;
        let Some(record) = record else { return Ok(None) };
        for id in record.outputs.iter().filter_map(|output| output.snapshot) {
            let is_here = self.store.snapshots().get(&id).map_err(unusable)?.is_some();
            if !is_here && !self.imported.take_up(&self.store, &id).map_err(unusable)? {
                return Ok(None);
            }
        }
        if self.is_remembered(&record) {
            lock(&self.remembered).insert(record.key, record.clone());
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

    /// Whether it names a tree that was not here when the build began.
    fn is_remembered(&self, record: &Record) -> bool {
        let mut trees = record.outputs.iter().filter_map(|output| output.snapshot);
        trees.any(|id| self.imported.knows(&id))
    }

    fn is_far(&self, record: &Record) -> bool {
        let far = |id| self.imported.knows(&id) && self.imported.made(&id).is_none();
        record.outputs.iter().filter_map(|output| output.snapshot).any(far)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Records for BuildRecords {
    fn lookup(&self, key: &CacheKey) -> Result<Option<Record>, RecordsError> {
        if self.imported.is_empty() {
            return Records::lookup(self.store.index(), key);
        }
        if let Some(record) = self.local(key)? {
            return Ok(Some(record));
        }
        let waiting = lock(&self.waiting).get(key).cloned();
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
        lock(&self.waiting).extend(far.into_iter().map(|record| (record.key, record)));
        let here: Vec<Record> = here.into_iter().map(|record| self.at_home(record)).collect();
        Records::insert(self.store.index(), &here)
    }
}

/// The store does not say whether a tree is here.
fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> RecordsError {
    Box::<dyn std::error::Error + Send + Sync>::from(error).into()
}
