//! A build cache that travels: records, the layers of their results, and cache mounts.
//!
//! Everywhere a bundle is the same three things; only the [`Place`] differs:
//!
//! ```text
//! manifest    an OCI image manifest: config = the document, layers = every blob
//! document    JSON, zstd: layers (each on an earlier one), records, cache mounts   [`document`]
//! blobs       layers as tars, and cache mounts as pieces of tars, compressed
//! ```
//!
//! Reading costs the manifest and the document. The blobs of a layer are fetched when a step needs
//! its files and not before: [`Imported`] hands out names of trees that are not here yet, and makes
//! them on demand. Bytes are believed when their digest is right, files when their DiffId is too;
//! that a record's key leads to its result is believed because the place is trusted, as there is no
//! way to check it short of doing the work again.

pub mod document;
mod error;
pub(crate) mod far;
mod imported;
pub mod inline;
mod local;
pub mod mounts;
mod place;
mod registry;
mod s3;
mod segments;

pub use error::BundleError;
pub use far::Bases;
pub use imported::{Elsewhere, Imported, Tree};
pub use local::LocalPlace;
pub use place::{Fetched, Place, Placed, manifest_of};
pub use registry::RegistryPlace;
pub use s3::{S3Place, S3Prefixes, S3Writing};
