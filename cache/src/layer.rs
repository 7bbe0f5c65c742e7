//! Layers: trees of changes as tar archives, and back.
//!
//! [`pack`] and [`unpack`] are each other's inverse: what one writes, the other makes into the same
//! tree, and packing that gives the same bytes. On disk a tree of changes has overlayfs' form with
//! `userxattr`; in an archive it has the form of OCI's image-spec `layer.md`:
//!
//! | change | on disk | in the archive |
//! |---|---|---|
//! | deleted | character device 0:0 | an empty file `.wh.<name>` |
//! | hides what is below | `user.overlay.opaque=y` | read: `.wh..wh..opq`; written: `.wh.` for each |
//! | owner that cannot be set | `user.strake.owner` | the owner |
//! | device that cannot be made | an empty file with `user.strake.device` | the device |

pub mod archive;
mod checkpoint;
mod compress;
mod digesting;
mod hashing;
mod header;
mod input;
mod pack;
mod pending;
mod reading;
mod resume;
mod unpack;

use rustix::io::Errno;

pub use crate::error::LayerError;
use crate::hash::Fingerprint;
use crate::oci::DiffId;
pub(crate) use checkpoint::{decode as read_checkpoints, encode as write_checkpoints};
pub use compress::{Compression, compress, decompressor};
pub(crate) use pack::digest;
pub use pack::{pack, pack_directory};
pub use unpack::unpack;

/// Names that start so are deletions.
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The mark of a directory that hides what is below it.
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
/// Other names of AUFS, which wrote the first layers: they mean nothing.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

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

/// How much of an archive is believed.
#[derive(Clone, Copy, Debug)]
pub struct UnpackLimits {
    /// Bytes of the uncompressed archive, and of the files in it with their holes.
    pub bytes: u64,
    /// Headers of any kind.
    pub entries: u64,
    /// Directories above a file.
    pub depth: usize,
}

impl Default for UnpackLimits {
    /// Twenty times what the largest images of this world have.
    fn default() -> Self {
        UnpackLimits { bytes: 256 << 30, entries: 4_000_000, depth: 512 }
    }
}

/// The content of a layer without entries.
pub(crate) fn empty_content() -> Fingerprint {
    digesting::empty_content()
}

/// A path from an archive as it may be shown.
fn printable(path: &[u8]) -> String {
    const SHOWN: usize = 256;
    match path.get(..SHOWN) {
        Some(start) => format!("{}…", start.escape_ascii()),
        None => path.escape_ascii().to_string(),
    }
}

fn tree_error(attempt: &'static str, path: &[u8], errno: Errno) -> LayerError {
    LayerError::Tree { attempt, name: printable(path), source: errno.into() }
}
