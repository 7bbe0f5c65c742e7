//! Records on their way to disk, beside the hot path.
//!
//! A thread of its own takes whatever has piled up since its last turn and stores it in one go, so
//! a fast build pays for few transactions and a slow one has every finished step on disk while the
//! next is running. It starts with the first record: a build that only reads has no thread.
//! It also puts the records together, of which the scheduler only knows the ingredients.
//! Claims travel with the records they protect and are given back when those are visible to others.

use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use cache::index::Record;
use tokio::task::spawn_blocking;

use crate::finished::Finished;
use crate::records::{Records, RecordsError};
use crate::worker::Claim;

/// How many results may wait for the scheduler to have time: a wake-up of the thread costs more than
/// a result does, and hardly anything shared among so many.
const BATCH: usize = 256;

/// Stores what it is given, in order. Dropping it waits until all is stored.
pub(crate) struct Writer {
    records: Arc<dyn Records>,
    running: Option<Running>,
    /// What has piled up since the last flush.
    pending: Vec<Entry>,
    failure: Option<RecordsError>,
}

/// What there is to store, and the claim that ends with it.
struct Entry {
    store: Option<Stored>,
    claim: Option<Claim>,
}

enum Stored {
    /// A result, which becomes one record for each of its keys.
    Result(Finished),
    Record(Record),
}

struct Running {
    sender: Option<mpsc::Sender<Vec<Entry>>>,
    /// Ends with the first failure, when the sender is gone and everything is stored.
    thread: Option<JoinHandle<Option<RecordsError>>>,
}

impl Writer {
    pub(crate) fn new(records: Arc<dyn Records>) -> Writer {
        Writer { records, running: None, pending: Vec::new(), failure: None }
    }

    /// Stores a result, if it has a key, and then gives the claim back.
    pub(crate) fn store(&mut self, result: Option<Finished>, claim: Option<Claim>) {
        self.push(Entry { store: result.map(Stored::Result), claim });
    }

    /// Stores a record that is complete.
    pub(crate) fn store_record(&mut self, record: Record) {
        self.push(Entry { store: Some(Stored::Record(record)), claim: None });
    }

    /// Waits until everything is stored; answers with the first failure.
    pub(crate) async fn finish(&mut self) -> Option<RecordsError> {
        self.flush();
        if let Some(mut running) = self.running.take() {
            running.sender = None;
            if let Some(thread) = running.thread.take() {
                // An error means that the thread panicked; its message is on stderr already.
                let failure = spawn_blocking(move || thread.join().ok().flatten()).await;
                self.failure = self.failure.take().or(failure.ok().flatten());
            }
        }
        self.failure.take()
    }

    fn push(&mut self, entry: Entry) {
        self.pending.push(entry);
        if self.pending.len() >= BATCH {
            self.flush();
        }
    }

    /// Hands everything over to the thread: for when the scheduler has nothing else to do.
    pub(crate) fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.pending);
        if self.running.is_none() {
            self.running = Running::start(Arc::clone(&self.records));
        }
        let sender = self.running.as_ref().and_then(|running| running.sender.as_ref());
        let unsent = match sender {
            Some(sender) => sender.send(batch).err().map(|mpsc::SendError(batch)| batch),
            None => Some(batch),
        };
        // No thread can be had: slower, but right.
        if let Some(batch) = unsent {
            let failure = write(self.records.as_ref(), batch).err();
            self.failure = self.failure.take().or(failure);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Running {
    fn start(records: Arc<dyn Records>) -> Option<Running> {
        let (sender, entries) = mpsc::channel::<Vec<Entry>>();
        let work = move || {
            let mut failure = None;
            while let Ok(first) = entries.recv() {
                let batch = first.into_iter().chain(entries.try_iter().flatten()).collect();
                failure = failure.or(write(records.as_ref(), batch).err());
            }
            failure
        };
        let thread = thread::Builder::new().name("solver-records".to_owned()).spawn(work).ok()?;
        Some(Running { sender: Some(sender), thread: Some(thread) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // The thread has no more than one batch to write.
            let _ = thread.join();
        }
    }
}

fn write(records: &dyn Records, batch: Vec<Entry>) -> Result<(), RecordsError> {
    let mut store = Vec::with_capacity(batch.len());
    let mut claims = Vec::new();
    for entry in batch {
        match entry.store {
            Some(Stored::Result(finished)) => store.extend(finished.into_records()),
            Some(Stored::Record(record)) => store.push(record),
            None => {}
        }
        claims.extend(entry.claim);
    }
    let stored = if store.is_empty() { Ok(()) } else { records.insert(&store) };
    drop(claims);
    stored
}
