//! Layers: trees of changes as tar archives, and back.
use std::io::{Read, Write};

pub use crate::error::LayerError;
use crate::hash::Fingerprint;
use crate::oci::{DiffId, MediaType};
use crate::snapshot::{ActiveSnapshot, Snapshot};

/// What [`pack`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedLayer {
    /// sha256 of what was written.
    pub diff_id: DiffId,
    /// Bytes written.
    pub size: u64,
    /// Everything but modification times.
    pub content: Fingerprint,
}

/// Writes the changes of `snapshot` against its parent as a deterministic tar.
/// The content of a layer without entries.
pub(crate) fn empty_content() -> Fingerprint {
    todo!()
}

pub fn pack(snapshot: &Snapshot, out: &mut dyn Write) -> Result<PackedLayer, LayerError> {
    let _ = (snapshot, out);
    todo!()
}

/// How much of an archive is believed.
#[derive(Clone, Copy, Debug)]
pub struct UnpackLimits {
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
    /// Files, directories, links, whiteouts.
    pub entries: u64,
    /// Directories above a file.
    pub depth: usize,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        UnpackLimits { bytes: 256 << 30, entries: 4_000_000, depth: 1024 }
    }
}

/// Writes the entries of an uncompressed layer into `into`.
pub fn unpack(
    tar: &mut dyn Read,
    into: &ActiveSnapshot,
    limits: &UnpackLimits,
) -> Result<DiffId, LayerError> {
    let _ = (tar, into, limits);
    todo!()
}

/// Decompresses a layer: by its media type or, without one, by its first bytes.
pub fn decompressor(
    media_type: Option<&MediaType>,
    reader: impl Read + Send + 'static,
) -> Result<Box<dyn Read + Send>, LayerError> {
    let _ = (media_type, reader);
    todo!()
}

/// How a layer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// Levels 0 to 12 (libdeflate's); 6 is usual.
    Gzip(u32),
    /// Levels 1 to 22; 3 is usual.
    Zstd(i32),
}

/// Compresses everything from `input` to `output`; the bytes do not depend on the number of threads.
pub fn compress(
    compression: Compression,
    input: &mut dyn Read,
    output: &mut dyn Write,
) -> Result<(), LayerError> {
    let _ = (compression, input, output);
    todo!()
}
