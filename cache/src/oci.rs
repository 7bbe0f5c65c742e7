//! The words of the OCI specifications, as far as strake speaks them.
//!
//! Manifest, index and descriptor are `oci-spec`'s types. Identity ([`Digest`], [`DiffId`],
//! [`ChainId`]), names ([`ImageName`]) and [`Platform`] are our own, because they are keys of ours;
//! so is [`ImageConfiguration`], because `oci-spec`'s loses the fields that Docker adds
//! (health check, ONBUILD, SHELL) and every field it does not know.

mod configuration;
mod digest;
mod name;
mod platform;

pub use configuration::{ContainerConfig, Healthcheck, HistoryEntry, ImageConfiguration, RootFs};
pub use digest::{ChainId, DiffId, Digest, DigestError};
pub(crate) use digest::{decode_hex, encode_hex, hex_digits};
pub use name::{ImageName, ImageNameError};
pub use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType, OciLayout};
pub use platform::{Platform, PlatformError};
