//! What can go wrong on the way out, and on the way in.

use std::path::PathBuf;

use cache::image::{DocumentError, ImageError};
use cache::oci::Digest;
use cache::remote::RemoteError;
use cache::{LayerError, StoreError};
use thiserror::Error;

/// Why an image could not be made, written or read.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image store failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The registry failed.
    #[error(transparent)]
    Remote(Box<RemoteError>),
    /// A layer cannot be packed, compressed or read.
    #[error("cannot process layer {digest}")]
    Layer {
        /// Its digest: the DiffId, or the blob's where that is all there is.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: Box<LayerError>,
    },
    /// A layer's content is nowhere on this machine.
    #[error(
        "layer {number} of image {image} ({digest}) is not on this machine; pull the image first"
    )]
    LayerMissing {
        /// The image's id.
        image: Digest,
        /// Counted from 1, bottom first.
        number: usize,
        /// The layer's digest in the manifest.
        digest: Digest,
    },
    /// A layer's content has changed, or is not what the configuration promises.
    #[error("layer {expected} turned out to be {found}")]
    DiffId {
        /// The DiffId it should have.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// A time is not one of RFC 3339.
    #[error("`{text}` is not a time")]
    Time {
        /// What stands there.
        text: String,
        /// Why not.
        #[source]
        source: jiff::Error,
    },
    /// A file or directory cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// What.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file or directory cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// What.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// An archive on standard input, or another stream, cannot be read.
    #[error("cannot read the archive")]
    ReadArchive {
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// An archive is not one of images.
    #[error("this is no archive of images: {reason}")]
    NotAnArchive {
        /// What is missing or wrong.
        reason: String,
    },
    /// An archive says something impossible.
    #[error("the archive's {file} cannot be used: {reason}")]
    BadArchive {
        /// The file in the archive.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A manifest in an archive is not one.
    #[error("the archive's manifest {digest} cannot be used")]
    Document {
        /// Its digest.
        digest: Digest,
        /// Why not.
        #[source]
        source: DocumentError,
    },
    /// `mode=delete` on a directory that is somebody's home or system.
    #[error("{path} is not mirrored: {reason}")]
    Protected {
        /// The directory.
        path: PathBuf,
        /// What it is.
        reason: &'static str,
    },
}

impl From<RemoteError> for ExportError {
    fn from(error: RemoteError) -> ExportError {
        ExportError::Remote(Box::new(error))
    }
}

impl ExportError {
    pub(crate) fn layer(digest: Digest) -> impl FnOnce(LayerError) -> ExportError {
        move |source| ExportError::Layer { digest, source: Box::new(source) }
    }
}
