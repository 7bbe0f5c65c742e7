//! What can go wrong with a cache that is elsewhere.

use std::path::PathBuf;

use thiserror::Error;

use crate::error::StoreError;
use crate::image::DocumentError;
use crate::oci::Digest;
use crate::remote::RemoteError;

/// Why a bundle could not be read, written or used. None of it may end a build.
#[derive(Debug, Error)]
pub enum BundleError {
    /// There is nothing there.
    #[error("there is no build cache at {place}")]
    Missing {
        /// The place in the user's words.
        place: String,
    },
    /// The document contradicts itself or asks too much.
    #[error("the cache's index is refused: {reason}")]
    Refused {
        /// What is wrong.
        reason: String,
    },
    /// A manifest is malformed.
    #[error("the cache's manifest cannot be read")]
    Document {
        /// What is wrong.
        #[source]
        source: Box<DocumentError>,
    },
    /// It is a manifest of something else.
    #[error("{place} holds no build cache of strake's")]
    NotACache {
        /// The place in the user's words.
        place: String,
    },
    /// The registry failed.
    #[error(transparent)]
    Remote(Box<RemoteError>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of a local cache.
    #[error("cannot {attempt} `{}`", path.display())]
    File {
        /// A verb.
        attempt: &'static str,
        /// Its object.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A layer cannot be unpacked.
    #[error("a layer of the cache cannot be unpacked")]
    Layer {
        /// What is wrong with it.
        #[source]
        source: Box<crate::LayerError>,
    },
    /// A layer's files are not what was promised.
    #[error("a layer of the cache unpacks to {found}, not to {expected}")]
    DiffId {
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// It takes too long.
    #[error("{place} did not answer within {seconds} seconds")]
    Slow {
        /// The place in the user's words.
        place: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A place failed before in this build.
    #[error("{place} failed before and is not asked any more")]
    GivenUp {
        /// The place in the user's words.
        place: String,
    },
}

impl From<RemoteError> for BundleError {
    fn from(error: RemoteError) -> Self {
        BundleError::Remote(Box::new(error))
    }
}
