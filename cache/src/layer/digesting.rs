//! The stream of a layer being packed, hashed twice on its way.
//!
//! sha256 sees the archive; blake3 sees the same entries without their times. Both work on blocks
//! of a mebibyte: sha256 on a thread of its own, blake3 (five times faster) where the files are
//! read. So a large layer costs what sha256 costs, or what reading costs, whichever is more.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::hashing::Hasher;
use super::header::{self, Kind};
use super::{PackedLayer, tree_error};
use crate::error::LayerError;
use crate::hash::Fingerprint;
use crate::oci::DiffId;
use crate::tree::{Device, Metadata};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

/// Large enough that handing a block to another thread (some 10 µs) does not show.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks that the thread may be behind: enough that neither side waits for a single slow file.
const BEHIND: usize = 4;

const DOMAIN: &str = "strake layer content v1";

/// The fingerprint of a layer without entries.
pub(super) fn empty_content() -> Fingerprint {
    Fingerprint::from_bytes(*blake3::Hasher::new_derive_key(DOMAIN).finalize().as_bytes())
}

/// A tar writer that hashes.
pub(super) struct Digesting<'a> {
    out: &'a mut dyn Write,
    /// Bytes of the archive that are not written yet.
    archive: Vec<u8>,
    /// The same entries as the fingerprint sees them.
    content: Vec<u8>,
    /// Made with the first block that is full.
    sha256: Option<Hasher>,
    blake3: blake3::Hasher,
    size: u64,
    /// Blocks that the thread may still read, oldest first.
    sent: VecDeque<Arc<Vec<u8>>>,
}

impl<'a> Digesting<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Digesting {
            out,
            archive: Vec::new(),
            content: Vec::new(),
            sha256: None,
            blake3: blake3::Hasher::new_derive_key(DOMAIN),
            size: 0,
            sent: VecDeque::new(),
        }
    }

    /// Writes an entry's header.
    pub(super) fn entry(
        &mut self,
        path: &[u8],
        kind: Kind<'_>,
        metadata: &Metadata,
    ) -> Result<(), LayerError> {
        header::append(&mut self.archive, path, kind, metadata);
        append_content(&mut self.content, path, kind, metadata);
        self.flush_if_full()
    }

    /// Writes the content of the file whose header was written last, all `size` bytes of it.
    pub(super) fn content(
        &mut self,
        file: &OwnedFd,
        size: u64,
        path: &[u8],
    ) -> Result<(), LayerError> {
        let mut left = size;
        while left > 0 {
            let start = self.archive.len();
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK_BYTES);
            self.archive.reserve(length);
            let read = match rustix::io::read(file, spare_capacity(&mut self.archive)) {
                // Committed snapshots never change: this is a broken disk.
                Ok(read) if read == 0 || read as u64 > left => {
                    return Err(tree_error("read to its end", path, Errno::IO));
                }
                Ok(read) => read,
                Err(Errno::INTR) => 0,
                Err(errno) => return Err(tree_error("read", path, errno)),
            };
            self.content.extend_from_slice(&self.archive[start..]);
            left -= read as u64;
            self.flush_if_full()?;
        }
        header::pad(&mut self.archive, size);
        Ok(())
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<PackedLayer, LayerError> {
        self.archive.extend_from_slice(&header::END);
        self.flush()?;
        self.out.flush().map_err(|source| LayerError::Write { source })?;
        let sha256 = self.sha256.take().unwrap_or_else(Hasher::here).finish();
        Ok(PackedLayer {
            diff_id: DiffId(sha256),
            size: self.size,
            content: Fingerprint::from_bytes(*self.blake3.finalize().as_bytes()),
        })
    }

    fn flush_if_full(&mut self) -> Result<(), LayerError> {
        if self.archive.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), LayerError> {
        self.blake3.update(&self.content);
        self.content.clear();
        self.out.write_all(&self.archive).map_err(|source| LayerError::Write { source })?;
        self.size += self.archive.len() as u64;
        let is_small = self.archive.len() < BLOCK_BYTES;
        let new = || if is_small { Hasher::here() } else { Hasher::spawn(BEHIND) };
        let sha256 = self.sha256.get_or_insert_with(new);
        let block = Arc::new(std::mem::take(&mut self.archive));
        if !sha256.update(Arc::clone(&block)) {
            let source = io::Error::other("the thread that hashes has ended");
            return Err(LayerError::Write { source });
        }
        self.sent.push_back(block);
        // Whatever the thread is done with is filled again.
        if let Some(block) = self.sent.pop_front() {
            match Arc::try_unwrap(block) {
                Ok(mut block) => {
                    block.clear();
                    self.archive = block;
                }
                Err(block) if self.sent.len() <= BEHIND => self.sent.push_front(block),
                Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Everything of an entry but its time. The numbers come first and tell how many parts follow, each
/// with its length, so no two lists of entries are the same bytes.
fn append_content(out: &mut Vec<u8>, path: &[u8], kind: Kind<'_>, metadata: &Metadata) {
    let (size, device) = match kind {
        Kind::File { size } => (size, [0; 2]),
        Kind::Device(Device { major, minor, .. }) => (0, [major, minor]),
        _ => (0, [0; 2]),
    };
    out.push(kind.flag());
    for number in [metadata.mode, metadata.uid, metadata.gid, device[0], device[1]] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for number in [size, metadata.xattrs.len() as u64] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let mut part = |bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    part(path);
    part(kind.link());
    for xattr in &metadata.xattrs {
        part(&xattr.name);
        part(&xattr.value);
    }
}
