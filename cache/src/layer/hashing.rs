//! sha256 on a thread of its own, so that who reads or writes the bytes need not wait for it.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

use crate::oci::Digest;

/// The thread, or no thread where none can be had.
pub(super) enum Hasher {
    Thread { sender: SyncSender<Arc<Vec<u8>>>, thread: JoinHandle<Digest> },
    Here(Box<Sha256>),
}

impl Hasher {
    /// A thread that may be `behind` blocks behind.
    pub(super) fn spawn(behind: usize) -> Self {
        let (sender, receiver) = sync_channel::<Arc<Vec<u8>>>(behind);
        let thread = std::thread::Builder::new().name("diff id".to_owned()).spawn(move || {
            let mut hasher = Sha256::new();
            while let Ok(block) = receiver.recv() {
                hasher.update(&block[..]);
            }
            Digest::from_bytes(hasher.finalize().into())
        });
        match thread {
            Ok(thread) => Hasher::Thread { sender, thread },
            Err(_) => Hasher::here(),
        }
    }

    /// No thread: for a few bytes it is not worth one.
    pub(super) fn here() -> Self {
        Hasher::Here(Box::new(Sha256::new()))
    }

    /// Hashes a block. `false` if the thread has died, which [`Hasher::finish`] then says too.
    pub(super) fn update(&mut self, block: Arc<Vec<u8>>) -> bool {
        match self {
            Hasher::Here(hasher) => {
                hasher.update(&block[..]);
                true
            }
            Hasher::Thread { sender, .. } => sender.send(block).is_ok(),
        }
    }

    /// The digest of everything.
    pub(super) fn finish(self) -> Digest {
        match self {
            Hasher::Here(hasher) => Digest::from_bytes(hasher.finalize().into()),
            Hasher::Thread { sender, thread } => {
                drop(sender);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        }
    }
}
