//! The stream of a layer being packed, hashed twice on its way.
//!
//! sha256 sees the archive, on a thread of its own. blake3 sees the same entries without their
//! times, the bytes of each file by their own hash, which whoever read the file may have made:
//!
//! ```text
//! content = blake3(chunk, chunk, …)    chunk = blake3(entry, entry, …)
//! entry   = type, mode, owner, device, size, name, link, attributes, blake3(bytes)
//! ```
//!
//! A chunk ends behind the first entry that is no directory after so many entries or bytes, so that
//! where it ends is a matter of the content alone. There a later packing can go on:
//! [`super::checkpoint`].

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::checkpoint::{Checkpoint, Mark};
use super::hashing::{Hasher, Hashing};
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
/// A chunk ends when it has so many entries, or files of so many bytes.
const CHUNK_ENTRIES: usize = 1024;
const CHUNK_BYTES: u64 = 4 << 20;

const CONTENT: &str = "strake layer content v2";
const CHUNK: &str = "strake layer chunk v2";

/// The fingerprint of a layer without entries.
pub(super) fn empty_content() -> Fingerprint {
    content_of(&[])
}

fn content_of(chunks: &[Fingerprint]) -> Fingerprint {
    let mut hasher = blake3::Hasher::new_derive_key(CONTENT);
    for chunk in chunks {
        hasher.update(chunk.as_bytes());
    }
    Fingerprint::from_bytes(*hasher.finalize().as_bytes())
}

/// The bytes of a file.
#[derive(Debug)]
pub(super) enum Content {
    /// Read already.
    Read { bytes: Vec<u8>, hash: Fingerprint },
    /// To be read.
    Open(OwnedFd),
}

/// A tar writer that hashes.
pub(super) struct Digesting<'a> {
    out: &'a mut dyn Write,
    /// Bytes of the archive that are not written yet.
    archive: Vec<u8>,
    /// Where sha256 begins.
    start: Hashing,
    /// Made with the first block.
    sha256: Option<Hasher>,
    size: u64,
    /// Blocks that the thread may still read, oldest first.
    sent: VecDeque<Arc<Vec<u8>>>,
    chunk: Chunk,
    /// The contents of those that ended.
    chunks: Vec<Fingerprint>,
    /// Checkpoints so far; those of this run have no state of sha256 before its end.
    checkpoints: Vec<Checkpoint>,
}

/// The chunk that is being written.
struct Chunk {
    hasher: blake3::Hasher,
    entries: usize,
    bytes: u64,
}

impl Chunk {
    fn new() -> Self {
        let hasher = blake3::Hasher::new_derive_key(CHUNK);
        Chunk { hasher, entries: 0, bytes: 0 }
    }

    fn take(&mut self) -> Fingerprint {
        let chunk = std::mem::replace(self, Chunk::new());
        Fingerprint::from_bytes(*chunk.hasher.finalize().as_bytes())
    }
}

impl<'a> Digesting<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Digesting {
            out,
            archive: Vec::new(),
            start: Hashing::default(),
            sha256: None,
            size: 0,
            sent: VecDeque::new(),
            chunk: Chunk::new(),
            chunks: Vec::new(),
            checkpoints: Vec::new(),
        }
    }

    /// Goes on behind the last of `checkpoints`, as if everything until there had been written.
    pub(super) fn resume(&mut self, checkpoints: &[Checkpoint]) {
        let Some((last, sha256)) = checkpoints.last().and_then(|one| Some((one, one.hasher()?)))
        else {
            return;
        };
        self.start = Hashing::from(sha256);
        self.size = last.size;
        self.chunks = checkpoints.iter().map(|checkpoint| checkpoint.content).collect();
        self.checkpoints = checkpoints.to_vec();
    }

    /// Writes an entry's header.
    pub(super) fn entry(&mut self, entry: &Entry) -> Result<(), LayerError> {
        self.archive.extend_from_slice(&entry.archive);
        self.chunk.hasher.update(&entry.content);
        self.chunk.entries += 1;
        self.flush_if_full()
    }

    /// Writes the content of the file whose header was written last, all `size` bytes of it.
    pub(super) fn content(
        &mut self,
        content: &Content,
        size: u64,
        path: &[u8],
    ) -> Result<(), LayerError> {
        let hash = match content {
            Content::Read { bytes, hash } => {
                self.archive.extend_from_slice(bytes);
                *hash
            }
            Content::Open(file) => self.stream(file, size, path)?,
        };
        header::pad(&mut self.archive, size);
        self.chunk.hasher.update(hash.as_bytes());
        self.chunk.bytes += size;
        self.flush_if_full()
    }

    fn stream(
        &mut self,
        file: &OwnedFd,
        size: u64,
        path: &[u8],
    ) -> Result<Fingerprint, LayerError> {
        let mut hasher = blake3::Hasher::new();
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
            hasher.update(&self.archive[start..]);
            left -= read as u64;
            self.flush_if_full()?;
        }
        Ok(Fingerprint::from_bytes(*hasher.finalize().as_bytes()))
    }

    /// Ends the chunk if it is large enough: call it behind every entry that is no directory, with
    /// where the walk stands if it may be gone on from there.
    pub(super) fn end_entry(&mut self, mark: Option<Mark>) -> Result<(), LayerError> {
        if self.chunk.entries < CHUNK_ENTRIES && self.chunk.bytes < CHUNK_BYTES {
            return Ok(());
        }
        let content = self.chunk.take();
        // Checkpoints are of the first chunks, without a gap.
        if let Some(Mark { names, trace }) = mark
            && self.checkpoints.len() == self.chunks.len()
        {
            self.flush()?;
            self.hasher().mark();
            self.checkpoints.push(Checkpoint {
                names,
                trace,
                size: self.size,
                sha256: Default::default(),
                content,
            });
        }
        self.chunks.push(content);
        Ok(())
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<(PackedLayer, Vec<Checkpoint>), LayerError> {
        self.archive.extend_from_slice(&header::END);
        if self.chunk.entries > 0 {
            self.chunks.push(self.chunk.take());
        }
        if self.sha256.is_none() && self.archive.len() < BLOCK_BYTES {
            self.sha256 = Some(Hasher::here(self.start.clone()));
        }
        self.flush()?;
        self.out.flush().map_err(|source| LayerError::Write { source })?;
        let hasher = self.sha256.take().unwrap_or_else(|| Hasher::here(self.start.clone()));
        let (sha256, states) = hasher.finish();
        // Those before come from an earlier run, with their states.
        let resumed = self.checkpoints.len() - states.len();
        for (checkpoint, state) in self.checkpoints[resumed..].iter_mut().zip(states) {
            checkpoint.sha256 = state;
        }
        let content = content_of(&self.chunks);
        let packed = PackedLayer { diff_id: DiffId(sha256), size: self.size, content };
        Ok((packed, self.checkpoints))
    }

    fn flush_if_full(&mut self) -> Result<(), LayerError> {
        if self.archive.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    fn hasher(&mut self) -> &mut Hasher {
        let start = &self.start;
        self.sha256.get_or_insert_with(|| Hasher::spawn(start.clone(), BEHIND))
    }

    fn flush(&mut self) -> Result<(), LayerError> {
        self.out.write_all(&self.archive).map_err(|source| LayerError::Write { source })?;
        self.size += self.archive.len() as u64;
        let block = Arc::new(std::mem::take(&mut self.archive));
        if !self.hasher().update(Arc::clone(&block)) {
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

/// The header of an entry.
pub(super) struct Entry {
    archive: Vec<u8>,
    /// What counts of it.
    content: Vec<u8>,
}

impl Entry {
    pub(super) fn new(path: &[u8], kind: Kind<'_>, metadata: &Metadata) -> Self {
        let mut entry =
            Entry { archive: Vec::with_capacity(512), content: Vec::with_capacity(192) };
        header::append(&mut entry.archive, path, kind, metadata);
        append_content(&mut entry.content, path, kind, metadata);
        entry
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
