//! How far the packing of a layer had come, so that a later one need not begin anew.
//!
//! A COPY that is done again makes a layer of which nearly every file is a hard link to the same
//! file of the last result. Up to the first difference its archive is that of the last one, byte for
//! byte, and what was hashed then need not be read again. So each packing leaves beside the snapshot,
//! for every few megabytes, how far the walk was and the state of the hashes there:
//!
//! ```text
//! snapshots-v1/<id>/checkpoints
//!     magic · records (names, trace, size, state of sha256, content of the chunk) · blake3
//! ```
//!
//! Which checkpoint the layers share is found without reading a file: the [`Trace`] of a walk is a
//! hash of everything that decides what is packed — of a regular file its inode and its `stat`,
//! since files of snapshots never change — and both layers stand on the same parent.

use rustix::fs::{FileType, Stat};
use sha2::Sha256;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};

use crate::hash::Fingerprint;
use crate::tree::Metadata;

const MAGIC: &[u8; 8] = b"STRKPAK1";
/// What is written of a state of sha256.
const STATE: usize = size_of::<SerializedState<Sha256>>();
const RECORD: usize = 8 + 32 + 8 + STATE + 32;
/// A layer of more chunks than this goes on without: 64 GiB, three megabytes of records.
const LIMIT: usize = 16_384;

/// The end of one chunk of a layer.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// How many names the walk had met.
    pub(super) names: u64,
    /// What they were.
    pub(super) trace: Fingerprint,
    /// Bytes of the archive.
    pub(super) size: u64,
    /// sha256 of them, unfinished.
    pub(super) sha256: SerializedState<Sha256>,
    /// The content of the chunk.
    pub(super) content: Fingerprint,
}

impl Checkpoint {
    pub(super) fn hasher(&self) -> Option<Sha256> {
        Sha256::deserialize(&self.sha256).ok()
    }
}

/// As they are stored; nothing if there are too many.
pub(crate) fn encode(checkpoints: &[Checkpoint]) -> Option<Vec<u8>> {
    if checkpoints.is_empty() || checkpoints.len() > LIMIT {
        return None;
    }
    let mut bytes = Vec::with_capacity(MAGIC.len() + checkpoints.len() * RECORD + 32);
    bytes.extend(MAGIC);
    for checkpoint in checkpoints {
        bytes.extend(checkpoint.names.to_le_bytes());
        bytes.extend(checkpoint.trace.as_bytes());
        bytes.extend(checkpoint.size.to_le_bytes());
        bytes.extend(checkpoint.sha256.iter());
        bytes.extend(checkpoint.content.as_bytes());
    }
    let sum = Fingerprint::of(&bytes);
    bytes.extend(sum.as_bytes());
    Some(bytes)
}

/// Reads what [`encode`] wrote; `None` if it is anything else.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Checkpoint>> {
    let (body, sum) = bytes.split_last_chunk::<32>()?;
    let (records, rest) = body.strip_prefix(MAGIC)?.as_chunks::<RECORD>();
    if Fingerprint::of(body).as_bytes() != sum || !rest.is_empty() || records.len() > LIMIT {
        return None;
    }
    let record = |record: &[u8; RECORD]| {
        let (names, rest) = record.split_first_chunk::<8>()?;
        let (trace, rest) = rest.split_first_chunk::<32>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (sha256, content) = rest.split_first_chunk::<STATE>()?;
        Some(Checkpoint {
            names: u64::from_le_bytes(*names),
            trace: Fingerprint::from_bytes(*trace),
            size: u64::from_le_bytes(*size),
            sha256: SerializedState::<Sha256>::try_from(&sha256[..]).ok()?,
            content: Fingerprint::from_bytes(*content.first_chunk()?),
        })
    };
    records.iter().map(record).collect()
}

/// Where a walk stands.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    pub(super) names: u64,
    pub(super) trace: Fingerprint,
}

/// What a walk through a tree of changes has met so far.
pub(super) struct Trace {
    mark: Mark,
    bytes: Vec<u8>,
}

impl Trace {
    pub(super) fn new() -> Self {
        let mark = Mark { names: 0, trace: Fingerprint::of(b"strake packed names v1") };
        Trace { mark, bytes: Vec::new() }
    }

    /// Meets a name. `metadata` is that of a directory, `link` where a symbolic link points.
    pub(super) fn add(&mut self, path: &[u8], stat: &Stat, metadata: &Metadata, link: &[u8]) {
        let bytes = &mut self.bytes;
        bytes.clear();
        bytes.extend(self.mark.trace.as_bytes());
        // A directory may be a new one and yet the same.
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let (inode, size) = if is_directory { (0, 0) } else { (stat.st_ino, stat.st_size as u64) };
        for number in [stat.st_dev, inode, size, stat.st_rdev, metadata.xattrs.len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(stat.st_mtime.to_le_bytes());
        bytes.extend(stat.st_mtime_nsec.to_le_bytes());
        for number in [stat.st_mode, stat.st_uid, stat.st_gid, metadata.uid, metadata.gid] {
            bytes.extend(number.to_le_bytes());
        }
        let mut part = |part: &[u8]| {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        };
        part(path);
        part(link);
        for xattr in &metadata.xattrs {
            part(&xattr.name);
            part(&xattr.value);
        }
        self.mark = Mark { names: self.mark.names + 1, trace: Fingerprint::of(bytes) };
    }

    pub(super) fn mark(&self) -> Mark {
        self.mark
    }

    pub(super) fn names(&self) -> u64 {
        self.mark.names
    }
}
