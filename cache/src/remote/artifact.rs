//! What is no image: manifests with a configuration of another kind, one blob at a time.

use super::pull::choose;
use super::{PushBlob, PushManifest, PushTarget, Registries, RemoteError};
use crate::blob::Blobs;
use crate::image::document::digest_of;
use crate::image::{Document, DocumentError};
use crate::oci::{Descriptor, Digest, ImageManifest, ImageName, Platform};

impl Registries {
    /// The manifest that a name stands for on this platform, and its configuration of at most
    /// `limit` bytes, whatever that is.
    pub(crate) async fn artifact(
        &self,
        name: &ImageName,
        limit: u64,
    ) -> Result<(ImageManifest, Vec<u8>), RemoteError> {
        let failed = |source| RemoteError::Document { name: Box::new(name.clone()), source };
        let host = self.transport.host(name.registry()).await?;
        let reference = match (name.digest(), name.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let (_, document) = self.document(&host, name, &reference, None).await?;
        let manifest = match document {
            Document::Manifest(manifest) => manifest,
            Document::Index(index) => {
                let chosen = choose(name, &index, &Platform::host())?;
                let digest = digest_of(chosen).map_err(failed)?.to_string();
                match self.document(&host, name, &digest, Some(chosen)).await? {
                    (_, Document::Manifest(manifest)) => manifest,
                    (_, Document::Index(_)) => {
                        let reason = "an index stands where a manifest should".to_owned();
                        return Err(failed(DocumentError::Confused { reason }));
                    }
                }
            }
        };
        let config = self.bounded_blob(&host, name, manifest.config(), limit).await?;
        Ok((manifest, config))
    }

    /// Whether a repository has a blob, or can have it of `source`, a repository of the same
    /// registry, without anything being sent.
    pub async fn has_or_mounts(
        &self,
        name: &ImageName,
        blob: &Descriptor,
        source: Option<&ImageName>,
    ) -> Result<bool, RemoteError> {
        if self.has(name, blob).await? {
            return Ok(true);
        }
        let Some(source) = source.filter(|source| {
            source.registry() == name.registry() && source.repository() != name.repository()
        }) else {
            return Ok(false);
        };
        let failed = |source| RemoteError::Document { name: Box::new(name.clone()), source };
        let digest = digest_of(blob).map_err(failed)?;
        let host = self.transport.host(name.registry()).await?;
        // A registry that does not mount has begun an upload instead, which it forgets in time.
        Ok(self.begin(&host, name, &digest, Some(source.repository())).await?.is_none())
    }

    /// Whether a repository has a blob.
    pub(crate) async fn has(
        &self,
        name: &ImageName,
        blob: &Descriptor,
    ) -> Result<bool, RemoteError> {
        let failed = |source| RemoteError::Document { name: Box::new(name.clone()), source };
        let digest = digest_of(blob).map_err(failed)?;
        let host = self.transport.host(name.registry()).await?;
        self.has_blob(&host, name, &digest).await
    }

    /// Pushes one blob, unless it is there.
    pub(crate) async fn put_blob(
        &self,
        name: &ImageName,
        blob: &Descriptor,
        from: &Blobs,
    ) -> Result<(), RemoteError> {
        let host = self.transport.host(name.registry()).await?;
        let _permit = host.blobs.acquire().await.expect("the semaphore is never closed");
        let blob = PushBlob { descriptor: blob.clone(), mount_from: None };
        self.push_blob(&host, name, &blob, from, &|_, _| {}).await
    }

    /// Pushes a manifest whose blobs are there.
    pub(crate) async fn put_manifest(
        &self,
        name: &ImageName,
        manifest: &PushManifest,
    ) -> Result<Digest, RemoteError> {
        let host = self.transport.host(name.registry()).await?;
        self.push_manifest(&host, name, manifest, PushTarget::Name).await
    }
}
