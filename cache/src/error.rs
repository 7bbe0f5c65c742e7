//! What can go wrong, by what was attempted on which object.

use std::io;
use std::path::PathBuf;

use crate::oci::{Digest, MediaType};
use crate::snapshot::SnapshotId;

/// Failures of the store itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store was written by a newer strake.
    #[error(
        "the store `{}` has layout version {found}; this strake knows version {supported} only",
        path.display()
    )]
    NewerVersion {
        /// The store's root.
        path: PathBuf,
        /// What its `state.json` says.
        found: u64,
        /// What this program can read.
        supported: u64,
    },
    /// The store uses something this strake has never heard of.
    #[error("the store `{}` uses `{feature}`, which this strake does not know", path.display())]
    UnknownFeature {
        /// The store's root.
        path: PathBuf,
        /// The word in its `state.json`.
        feature: String,
    },
    /// `state.json` is there and says nothing sensible.
    #[error("`{}` does not describe a store", path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// Why it could not be read as one.
        source: serde_json::Error,
    },
    /// Another process holds the store in a way that excludes us.
    #[error("another strake process is {doing} the store `{}`", path.display())]
    Busy {
        /// The store's root.
        path: PathBuf,
        /// `using` or `pruning`.
        doing: &'static str,
    },
    /// A file or directory of the store could not be made, read, renamed or removed.
    #[error("cannot {attempt} `{}`", path.display())]
    File {
        /// A verb.
        attempt: &'static str,
        /// Its object.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// There is no such blob.
    #[error("there is no blob {digest}")]
    NoBlob {
        /// Its name.
        digest: Digest,
    },
    /// A blob's bytes are not those that its name promises.
    #[error("blob {expected} has other content ({found})")]
    WrongDigest {
        /// What was promised.
        expected: Digest,
        /// What the bytes hash to.
        found: Digest,
    },
    /// A descriptor's digest is not a sha256.
    #[error("a descriptor names the digest `{digest}`")]
    BadDescriptor {
        /// The text in the descriptor.
        digest: String,
        /// Why it is none.
        source: crate::oci::DigestError,
    },
    /// A blob has another length than its descriptor promises.
    #[error("blob {digest} has {found} bytes instead of {expected}")]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// Bytes promised.
        expected: u64,
        /// Bytes received.
        found: u64,
    },
    /// A blob that should be held in memory is too big for that.
    #[error("blob {digest} has {size} bytes; at most {limit} were expected")]
    BlobTooBig {
        /// The blob.
        digest: Digest,
        /// Its bytes.
        size: u64,
        /// The caller's limit in bytes.
        limit: u64,
    },
    /// A snapshot that was named as a parent is gone.
    #[error("snapshot {id} is not in the store")]
    NoSnapshot {
        /// The snapshot.
        id: SnapshotId,
    },
    /// More layers than overlayfs can stack.
    #[error("snapshot {id} stands on more than {limit} layers, the most that overlayfs can stack")]
    TooManyLayers {
        /// The snapshot.
        id: SnapshotId,
        /// The kernel's limit.
        limit: usize,
    },
    /// The digests of a snapshot's layer could not be computed.
    #[error("cannot compute the digest of snapshot {id}")]
    LayerDigest {
        /// The snapshot.
        id: SnapshotId,
        /// Why its layer could not be packed.
        source: Box<LayerError>,
    },
    /// The index could not be read or written.
    #[error("cannot {attempt} the build index `{}`", path.display())]
    Index {
        /// A verb.
        attempt: &'static str,
        /// The database.
        path: PathBuf,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// A row of the index holds something unreadable.
    #[error("the build index holds an unreadable {what}")]
    IndexRow {
        /// What the row is.
        what: &'static str,
        /// Why it could not be read.
        source: serde_json::Error,
    },
}

/// Failures with layers and archives: mostly somebody else's bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The archive breaks the rules of its format.
    #[error("malformed archive at byte {offset}: {reason}")]
    Malformed {
        /// Where the offending header starts, in bytes of the uncompressed archive.
        offset: u64,
        /// Which rule.
        reason: String,
    },
    /// The archive could not be read or decompressed.
    #[error("cannot read the archive")]
    Read {
        /// The reader's answer.
        source: io::Error,
    },
    /// The archive is bigger than allowed.
    #[error("the archive holds more than {limit} {what}")]
    TooBig {
        /// `bytes`, `entries`, …
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// An entry's name or target cannot be one.
    #[error("archive entry `{name}`: {reason}")]
    Entry {
        /// The entry, unprintable bytes escaped.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry could not be made in the snapshot, or one of the snapshot could not be read.
    #[error("cannot {attempt} `{name}`")]
    Tree {
        /// A verb.
        attempt: &'static str,
        /// The path below the root of the tree, unprintable bytes escaped.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A name that layers use for deletions stands in the tree as a file of its own.
    #[error("`{name}` cannot be stored in a layer: names that start with `.wh.` mean deletions")]
    ReservedName {
        /// The path below the root of the tree.
        name: String,
    },
    /// The packed or compressed bytes could not be written where they should go.
    #[error("cannot write the archive")]
    Write {
        /// The writer's answer.
        source: io::Error,
    },
    /// Nobody here can decompress that.
    #[error("layers of media type `{media_type}` are not supported")]
    UnsupportedMediaType {
        /// The media type of the descriptor.
        media_type: MediaType,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
