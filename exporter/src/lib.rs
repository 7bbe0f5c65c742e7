//! A solved image, to anywhere.
//!
//! ```text
//! snapshots + configuration ─assemble─► image in the store ─┬─ push ──► registry
//!        rootfs tar ─import─►                               ├─ save ──► OCI layout, docker archive
//!   docker archive, ─load───►                               │
//!   OCI layout                             snapshots ───────┴─ rootfs ► tar, directory
//! ```
//!
//! Nothing is packed or compressed before something asks for it: an image in the local store lists
//! its own layers by DiffId, and their content is in the snapshots. A layer that was compressed
//! once stays in the blob store, and the index remembers it.
//!
//! Nothing here mounts: file trees are read layer by layer, the highest first.

mod archive;
mod assemble;
mod background;
mod bundle;
mod clash;
mod destination;
mod error;
mod import;
mod layers;
mod load;
mod local;
mod push;
mod stop;
mod tarball;
mod walk;

pub use archive::{ArchiveFormat, ArchiveOptions, SaveImage, Saved, index, save, save_directory};
pub use assemble::{AssembleOptions, assemble, assemble_far, assemble_on};
pub use background::BackgroundPacker;
pub use bundle::{bundle, inline_bundle};
pub use clash::first_clash;
pub use destination::Destination;
pub use error::ExportError;
pub use import::import;
pub use layers::LayerForm;
pub use load::{Loaded, load_archive, load_directory, load_layout, load_path};
pub use local::{LocalMode, LocalOptions, write_local};
pub use push::{PushOptions, PushProgress, push, push_index};
pub use tarball::{write_tar, write_tars};
