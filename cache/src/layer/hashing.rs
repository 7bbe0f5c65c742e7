//! sha256 on a thread of its own, so that who reads or writes the bytes need not wait for it.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256};

use crate::oci::Digest;

/// The thread, or no thread where none can be had.
pub(super) enum Hasher {
    Thread { sender: SyncSender<Task>, thread: JoinHandle<Hashing> },
    Here(Box<Hashing>),
}

/// A hash in the making, with the states at its marks.
#[derive(Clone, Default)]
pub(super) struct Hashing {
    sha256: Sha256,
    marks: Vec<SerializedState<Sha256>>,
}

/// What the thread has to do.
pub(super) enum Task {
    Hash(Arc<Vec<u8>>),
    Mark,
}

impl Hashing {
    /// Goes on where another hash has stopped.
    pub(super) fn from(sha256: Sha256) -> Self {
        Hashing { sha256, marks: Vec::new() }
    }

    fn perform(&mut self, task: &Task) {
        match task {
            Task::Hash(block) => self.sha256.update(&block[..]),
            Task::Mark => self.marks.push(self.sha256.serialize()),
        }
    }
}

impl Hasher {
    /// A thread that may be `behind` blocks behind and goes on from `hashing`.
    pub(super) fn spawn(hashing: Hashing, behind: usize) -> Self {
        let (sender, receiver) = sync_channel::<Task>(behind);
        let mut thread_hashing = hashing.clone();
        let thread = std::thread::Builder::new().name("diff id".to_owned()).spawn(move || {
            while let Ok(task) = receiver.recv() {
                thread_hashing.perform(&task);
            }
            thread_hashing
        });
        match thread {
            Ok(thread) => Hasher::Thread { sender, thread },
            Err(_) => Hasher::here(hashing),
        }
    }

    /// No thread: for a few bytes it is not worth one.
    pub(super) fn here(hashing: Hashing) -> Self {
        Hasher::Here(Box::new(hashing))
    }

    /// Hashes a block. `false` if the thread has died, which [`Hasher::finish`] then says too.
    pub(super) fn update(&mut self, block: Arc<Vec<u8>>) -> bool {
        self.perform(Task::Hash(block))
    }

    /// Keeps the state after what came so far; `false` as of [`Hasher::update`].
    pub(super) fn mark(&mut self) -> bool {
        self.perform(Task::Mark)
    }

    fn perform(&mut self, task: Task) -> bool {
        match self {
            Hasher::Here(hashing) => {
                hashing.perform(&task);
                true
            }
            Hasher::Thread { sender, .. } => sender.send(task).is_ok(),
        }
    }

    /// The digest of everything, and the states at the marks.
    pub(super) fn finish(self) -> (Digest, Vec<SerializedState<Sha256>>) {
        let Hashing { sha256, marks } = match self {
            Hasher::Here(hashing) => *hashing,
            Hasher::Thread { sender, thread } => {
                drop(sender);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        };
        (Digest::from_bytes(sha256.finalize().into()), marks)
    }
}
