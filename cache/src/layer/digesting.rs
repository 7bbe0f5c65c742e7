//! The stream of a layer being packed, hashed twice on its way.
//!
//! sha256 sees the archive; blake3 sees the same entries without their times. Both work on blocks
//! of a mebibyte, at the same time on two threads, so a large layer costs what sha256 costs.

use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::header::{self, Kind};
use super::{PackedLayer, tree_error};
use crate::error::LayerError;
use crate::hash::Fingerprint;
use crate::oci::{DiffId, Digest};
use crate::tree::{Device, Metadata};

/// Large enough that handing a block to another thread (some 10 µs) does not show.
const BLOCK_BYTES: usize = 1 << 20;

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
    sha256: Sha256,
    blake3: blake3::Hasher,
    size: u64,
}

impl<'a> Digesting<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Digesting {
            out,
            archive: Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 2),
            content: Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 2),
            sha256: Sha256::new(),
            blake3: blake3::Hasher::new_derive_key(DOMAIN),
            size: 0,
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
            self.archive.resize(start + length, 0);
            let read = match rustix::io::read(file, &mut self.archive[start..]) {
                // Committed snapshots never change: this is a broken disk.
                Ok(0) => return Err(tree_error("read to its end", path, Errno::IO)),
                Ok(read) => read,
                Err(Errno::INTR) => 0,
                Err(errno) => return Err(tree_error("read", path, errno)),
            };
            self.archive.truncate(start + read);
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
        Ok(PackedLayer {
            diff_id: DiffId(Digest::from_bytes(self.sha256.finalize().into())),
            size: self.size,
            content: Fingerprint::from_bytes(*self.blake3.finalize().as_bytes()),
        })
    }

    fn flush_if_full(&mut self) -> Result<(), LayerError> {
        if self.archive.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), LayerError> {
        let Digesting { archive, content, sha256, blake3, .. } = self;
        // From outside of the pool this would wait for a free thread of it, and those may all wait
        // for us: whoever compresses what is being packed does.
        if archive.len() >= BLOCK_BYTES && rayon::current_thread_index().is_some() {
            rayon::join(
                || sha256.update(&archive[..]),
                || {
                    blake3.update(content);
                },
            );
        } else {
            sha256.update(&archive[..]);
            blake3.update(content);
        }
        self.out.write_all(&self.archive).map_err(|source| LayerError::Write { source })?;
        self.size += self.archive.len() as u64;
        self.archive.clear();
        self.content.clear();
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
