//! The archive being unpacked: hashed on another thread while it is parsed on this one.

use std::io::{self, Read};
use std::sync::Arc;

use super::archive::Source;
use super::hashing::{Hasher, Hashing};
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

impl<'a> HashedInput<'a> {
    pub(super) fn new(reader: &'a mut dyn Read) -> Self {
        let hasher = Hasher::spawn(Hashing::default(), BEHIND);
        HashedInput { reader, block: Arc::new(Vec::new()), start: 0, hasher }
    }

    /// The digest of everything that was read.
    pub(super) fn finish(self) -> Digest {
        self.hasher.finish().0
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
            if !self.hasher.update(block.clone()) {
                return Err(io::Error::other("the thread that hashes has ended"));
            }
            (self.block, self.start) = (block, 0);
        }
        Ok(&self.block[self.start..])
    }

    fn consume(&mut self, amount: usize) {
        self.start = (self.start + amount).min(self.block.len());
    }
}
