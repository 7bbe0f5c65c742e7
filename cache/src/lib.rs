//! Everything that is addressed by its content: blobs, layers, file trees, image names and the
//! solver's memory, here and in registries.
//!
//! ```text
//! oci ← hash ← blob ← {image, layer, snapshot} ← index · remote ← bundle
//! ```
//!
//! [`Store`] is the door: it owns the directory tree on disk (drawn in [`state`]) and hands out the
//! parts. Several processes share one store at all times; nothing half-written is ever visible to
//! another of them, and a process that was killed leaves nothing that the next one could mistake
//! for a result.
#![forbid(unsafe_code)]

mod error;
pub mod oci;

pub mod hash;

pub mod blob;
pub mod bundle;
pub mod gc;
pub mod image;
pub mod index;
pub mod layer;
mod lock;
pub mod remote;
pub mod snapshot;
pub mod state;
pub mod tree;

pub use error::{LayerError, StoreError};
pub use state::Store;
