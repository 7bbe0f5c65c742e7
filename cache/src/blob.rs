//! Content-addressed files: `content/blobs/sha256/<hex>`.
use std::io;
use std::path::PathBuf;

use crate::StoreError;
use crate::oci::{Descriptor, Digest};

/// The blobs of a store. Clones are the same.
#[derive(Clone, Debug)]
pub struct Blobs {}

impl Blobs {
    /// Whether the blob is there.
    pub fn contains(&self, digest: &Digest) -> bool {
        let _ = digest;
        todo!()
    }

    /// Where the blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let _ = digest;
        todo!()
    }

    /// Opens the blob for reading.
    pub fn open(&self, digest: &Digest) -> Result<fs_err::File, StoreError> {
        let _ = digest;
        todo!()
    }

    /// Reads a blob of at most `limit` bytes and verifies it.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let _ = (digest, limit);
        todo!()
    }

    /// Stores `bytes`.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let _ = bytes;
        todo!()
    }

    /// Starts a blob whose digest is not known yet, or not trusted yet.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        todo!()
    }

    /// The blob's length in bytes, if it is there.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        let _ = digest;
        todo!()
    }

    /// Removes the blob; one that is not there is fine.
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let _ = digest;
        todo!()
    }

    /// Every blob's digest, in order.
    pub fn list(&self) -> Result<Vec<Digest>, StoreError> {
        todo!()
    }
}

/// A blob in the making; dropped before a commit, it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {}

impl BlobWriter {
    /// Moves the finished blob into the store if it is exactly what `expected` promised.
    pub fn commit_verified(self, expected: &Descriptor) -> Result<Digest, StoreError> {
        let _ = expected;
        todo!()
    }

    /// Moves the finished blob into the store under whatever digest it has.
    pub fn commit(self) -> Result<(Digest, u64), StoreError> {
        todo!()
    }
}

impl io::Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = bytes;
        todo!()
    }

    fn flush(&mut self) -> io::Result<()> {
        todo!()
    }
}
