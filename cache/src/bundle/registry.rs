//! A bundle in a registry: an OCI image manifest under a name.

use std::fmt;

use futures_util::future::BoxFuture;

use super::BundleError;
use super::document::PACKED_LIMIT;
use super::place::{Fetched, Place};
use crate::blob::Blobs;
use crate::oci::{Descriptor, ImageName, MediaType};
use crate::remote::{PushManifest, Registries, RemoteError};

/// See the module.
#[derive(Debug, Clone)]
pub struct RegistryPlace {
    name: ImageName,
    registries: Registries,
}

impl fmt::Display for RegistryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl RegistryPlace {
    /// The bundle under a name. The patience is that of `registries`.
    pub fn new(name: ImageName, registries: Registries) -> RegistryPlace {
        RegistryPlace { name, registries }
    }
}

impl Place for RegistryPlace {
    fn documents(&self) -> BoxFuture<'_, Result<Fetched, BundleError>> {
        Box::pin(async {
            let found = self.registries.artifact(&self.name, PACKED_LIMIT).await;
            match found {
                Ok((manifest, config)) => Ok(Fetched { manifest, config }),
                Err(RemoteError::NotFound { .. }) => {
                    Err(BundleError::Missing { place: self.to_string() })
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    fn fetch<'a>(
        &'a self,
        blob: &'a Descriptor,
        into: &'a Blobs,
    ) -> BoxFuture<'a, Result<(), BundleError>> {
        Box::pin(async {
            Ok(self.registries.fetch_layer(&self.name, blob, into, &|_, _| {}).await?)
        })
    }

    fn has<'a>(&'a self, blob: &'a Descriptor) -> BoxFuture<'a, Result<bool, BundleError>> {
        Box::pin(async { Ok(self.registries.has(&self.name, blob).await?) })
    }

    fn put<'a>(
        &'a self,
        blob: &'a Descriptor,
        from: &'a Blobs,
    ) -> BoxFuture<'a, Result<(), BundleError>> {
        Box::pin(async { Ok(self.registries.put_blob(&self.name, blob, from).await?) })
    }

    fn repository(&self) -> Option<&ImageName> {
        Some(&self.name)
    }

    fn put_manifest<'a>(&'a self, manifest: &'a [u8]) -> BoxFuture<'a, Result<(), BundleError>> {
        Box::pin(async {
            let media_type = MediaType::ImageManifest.to_string();
            let manifest = PushManifest { media_type, bytes: manifest.to_vec() };
            self.registries.put_manifest(&self.name, &manifest).await?;
            Ok(())
        })
    }
}
