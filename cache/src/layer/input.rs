//! The archive being unpacked: hashed on another thread while it is parsed on this one.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

use super::archive::Source;
use crate::oci::Digest;

const BLOCK_BYTES: usize = 256 << 10;
/// Blocks that the hashing thread may be behind.
const BEHIND: usize = 16;

/// Reads blocks, and shares each with a thread that hashes them.
pub(super) struct HashedInput<'a> {
    reader: &'a mut dyn Read,
    block: Arc<Vec<u8>>,
    start: usize,
    hasher: Hasher,
}

/// The thread, or no thread where none can be had.
enum Hasher {
    Thread { sender: SyncSender<Arc<Vec<u8>>>, thread: JoinHandle<Digest> },
    Here(Box<Sha256>),
}

impl<'a> HashedInput<'a> {
    pub(super) fn new(reader: &'a mut dyn Read) -> Self {
        let (sender, receiver) = sync_channel::<Arc<Vec<u8>>>(BEHIND);
        let thread = std::thread::Builder::new().name("diff id".to_owned()).spawn(move || {
            let mut hasher = Sha256::new();
            while let Ok(block) = receiver.recv() {
                hasher.update(&block[..]);
            }
            Digest::from_bytes(hasher.finalize().into())
        });
        let hasher = match thread {
            Ok(thread) => Hasher::Thread { sender, thread },
            Err(_) => Hasher::Here(Box::new(Sha256::new())),
        };
        HashedInput { reader, block: Arc::new(Vec::new()), start: 0, hasher }
    }

    /// The digest of everything that was read.
    pub(super) fn finish(self) -> Digest {
        match self.hasher {
            Hasher::Here(hasher) => Digest::from_bytes(hasher.finalize().into()),
            Hasher::Thread { sender, thread } => {
                drop(sender);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        }
    }
}

impl Source for HashedInput<'_> {
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.start == self.block.len() {
            let mut block = vec![0; BLOCK_BYTES];
            let mut length = 0;
            // Pipes and inflaters give little at a time.
            while length < block.len() {
                match self.reader.read(&mut block[length..]) {
                    Ok(0) => break,
                    Ok(read) => length += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            block.truncate(length);
            let block = Arc::new(block);
            match &mut self.hasher {
                Hasher::Here(hasher) => hasher.update(&block[..]),
                Hasher::Thread { sender, .. } => {
                    sender.send(block.clone()).map_err(io::Error::other)?;
                }
            }
            (self.block, self.start) = (block, 0);
        }
        Ok(&self.block[self.start..])
    }

    fn consume(&mut self, amount: usize) {
        self.start = (self.start + amount).min(self.block.len());
    }
}
