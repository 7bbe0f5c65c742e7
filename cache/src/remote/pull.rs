//! From a registry: names to images, descriptors to blobs.

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode};

use super::auth::Scope;
use super::call::Call;
use super::error::address;
use super::transfer::Transfer;
use super::transport::{Host, read_body};
use super::{Registries, RemoteError};
use crate::blob::Blobs;
use crate::image::document::{self, CONFIG_LIMIT, DOCUMENT_LIMIT, digest_of};
use crate::image::{Document, DocumentError, Image};
use crate::oci::{Descriptor, Digest, ImageIndex, ImageManifest, ImageName, Platform};
use crate::state::Store;

/// Told how far a blob is: bytes so far, bytes in all.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// An image as a registry has it. Manifest, configuration and index are in the store; layers are
/// not.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The image.
    pub image: Image,
    /// The digest of the multi-platform index the name stands for, where it stands for one.
    pub index: Option<Digest>,
}

impl Registries {
    /// Finds out what a name means for a platform and stores the image's documents, but no layer.
    ///
    /// # Errors
    /// [`RemoteError::NotFound`], [`RemoteError::NoPlatform`] (also for an image that is for one
    /// platform only, another one), and everything the way there can bring.
    pub async fn resolve(
        &self,
        name: &ImageName,
        platform: &Platform,
        into: &Blobs,
    ) -> Result<Resolved, RemoteError> {
        let host = self.transport.host(name.registry()).await?;
        let reference = match (name.digest(), name.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let (bytes, document) = self.document(&host, name, &reference, None).await?;
        let failed = |source| RemoteError::Document { name: Box::new(name.clone()), source };
        let (index, manifest_bytes, manifest) = match document {
            Document::Manifest(manifest) => (None, bytes, manifest),
            Document::Index(index) => {
                let chosen = choose(name, &index, platform)?;
                let digest = digest_of(chosen).map_err(failed)?.to_string();
                let (manifest_bytes, inner) =
                    self.document(&host, name, &digest, Some(chosen)).await?;
                let Document::Manifest(manifest) = inner else {
                    let reason = "an index stands where a manifest should".to_owned();
                    return Err(failed(DocumentError::Confused { reason }));
                };
                (Some(into.put(&bytes)?), manifest_bytes, manifest)
            }
        };
        self.check_is_an_image(name, &manifest)?;
        let config = self.small_blob(&host, name, manifest.config(), into).await?;
        let image = Image::from_documents(&manifest_bytes, &config)?;
        let own = image.config.platform();
        if !image.config.architecture.is_empty() && !platform.matches(&own) {
            let (name, wanted) = (Box::new(name.clone()), Box::new(platform.clone()));
            return Err(RemoteError::NoPlatform { name, wanted, offered: vec![own] });
        }
        into.put(&config)?;
        into.put(&manifest_bytes)?;
        Ok(Resolved { image, index })
    }

    /// The digest a name has now, without reading what it names.
    ///
    /// `None` if the registry does not say; [`Registries::resolve`] then tells.
    pub async fn digest(&self, name: &ImageName) -> Result<Option<Digest>, RemoteError> {
        let host = self.transport.host(name.registry()).await?;
        let reference = match (name.digest(), name.tag()) {
            (Some(digest), _) => return Ok(Some(*digest)),
            (None, tag) => tag.unwrap_or("latest"),
        };
        let scopes = [Scope::pull(name.repository())];
        let url = host.url(&format!("{}/manifests/{reference}", name.repository()));
        let call =
            Call::new(Method::HEAD, url, name.repository(), &scopes).accept(&Document::ACCEPTED);
        let response = self.transport.send(&host, &call).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(not_found(&host, name));
        }
        let response = self.transport.expect(&host, response, &[StatusCode::OK]).await?;
        Ok(header_digest(response.headers()))
    }

    /// Brings a blob into the store, unless it is there.
    ///
    /// A transfer that breaks goes on where it broke. Who asks for a blob that is on its way to
    /// this process already waits for it. Only bytes of the promised size and digest become
    /// visible.
    pub async fn fetch_layer(
        &self,
        name: &ImageName,
        descriptor: &Descriptor,
        into: &Blobs,
        progress: Progress<'_>,
    ) -> Result<(), RemoteError> {
        let failed = |source| RemoteError::Document { name: Box::new(name.clone()), source };
        let digest = digest_of(descriptor).map_err(failed)?;
        let lock = {
            let mut underway =
                self.underway.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            underway.retain(|_, lock| std::sync::Arc::strong_count(lock) > 1);
            underway.entry(digest).or_default().clone()
        };
        let _alone = lock.lock().await;
        if into.contains(&digest)? {
            progress(descriptor.size(), descriptor.size());
            return Ok(());
        }
        let host = self.transport.host(name.registry()).await?;
        let _permit = host.blobs.acquire().await.expect("the semaphore is never closed");
        let transfer = Transfer::new(&self.transport, &host, name, &digest, descriptor);
        transfer.store(descriptor, into, progress).await
    }

    /// Pulls an image with all its layers and names it in the local store.
    ///
    /// `progress` is told the layer's position (from 0), its bytes so far and its bytes in all.
    pub async fn pull(
        &self,
        store: &Store,
        name: &ImageName,
        platform: &Platform,
        progress: &(dyn Fn(usize, u64, u64) + Send + Sync),
    ) -> Result<Resolved, RemoteError> {
        let resolved = self.resolve(name, platform, store.blobs()).await?;
        let layers = resolved.image.manifest.layers().iter().enumerate();
        let fetches = layers.map(|(position, layer)| async move {
            let digest = digest_of(layer)
                .map_err(|source| RemoteError::Document { name: Box::new(name.clone()), source })?;
            // Nobody's `rmi` may take it away before it is part of a named image.
            store.images().hold(&digest)?;
            let report = |done, all| progress(position, done, all);
            self.fetch_layer(name, layer, store.blobs(), &report).await
        });
        futures_util::future::try_join_all(fetches).await?;
        store.images().tag_pulled(&resolved.image, name, resolved.index)?;
        Ok(resolved)
    }

    /// Reads a manifest or index, and holds it to the digest it was asked for by.
    pub(super) async fn document(
        &self,
        host: &Host,
        name: &ImageName,
        reference: &str,
        promised: Option<&Descriptor>,
    ) -> Result<(Vec<u8>, Document), RemoteError> {
        let scopes = [Scope::pull(name.repository())];
        let url = host.url(&format!("{}/manifests/{reference}", name.repository()));
        let call = Call::new(Method::GET, url.clone(), name.repository(), &scopes)
            .accept(&Document::ACCEPTED);
        let response = self.transport.send(host, &call).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(not_found(host, name));
        }
        let response = self.transport.expect(host, response, &[StatusCode::OK]).await?;
        let declared = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let declared = declared.map(str::to_owned);
        // A tag has no digest of its own; what the registry says it sent is checked all the same.
        let expected =
            reference.parse::<Digest>().ok().or_else(|| header_digest(response.headers()));
        let bytes = read_body(response, DOCUMENT_LIMIT, self.transport.config.patience).await?;
        let found = Digest::of(&bytes);
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(RemoteError::Digest { address: address(&url), expected, found });
        }
        let failed = |source| RemoteError::Document { name: Box::new(name.clone()), source };
        let document = Document::parse(&bytes, declared.as_deref()).map_err(failed)?;
        if let Some(promised) = promised {
            let announced = promised.media_type().to_string();
            Document::parse(&bytes, Some(&announced)).map_err(failed)?;
        }
        Ok((bytes, document))
    }

    fn check_is_an_image(
        &self,
        name: &ImageName,
        manifest: &ImageManifest,
    ) -> Result<(), RemoteError> {
        let media_types = [manifest.config()]
            .into_iter()
            .filter(|config| !document::is_config(config.media_type()));
        let layers = manifest
            .layers()
            .iter()
            .filter(|layer| document::layer_type(layer.media_type()).is_none());
        match media_types.chain(layers).next() {
            None => Ok(()),
            Some(strange) => Err(RemoteError::Document {
                name: Box::new(name.clone()),
                source: DocumentError::NotAnImage { media_type: strange.media_type().to_string() },
            }),
        }
    }

    /// A blob that is small enough for memory: a configuration.
    async fn small_blob(
        &self,
        host: &Host,
        name: &ImageName,
        descriptor: &Descriptor,
        known: &Blobs,
    ) -> Result<Vec<u8>, RemoteError> {
        let failed = |source| RemoteError::Document { name: Box::new(name.clone()), source };
        let expected = digest_of(descriptor).map_err(failed)?;
        if known.contains(&expected)? {
            return Ok(known.read(&expected, CONFIG_LIMIT)?);
        }
        self.bounded_blob(host, name, descriptor, CONFIG_LIMIT).await
    }

    /// A verified blob of at most `limit` bytes.
    pub(super) async fn bounded_blob(
        &self,
        host: &Host,
        name: &ImageName,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, RemoteError> {
        let failed = |source| RemoteError::Document { name: Box::new(name.clone()), source };
        let expected = digest_of(descriptor).map_err(failed)?;
        let transfer = Transfer::new(&self.transport, host, name, &expected, descriptor);
        let mut attempt = 1;
        let bytes = loop {
            let response = transfer.request(0, 0).await?;
            match read_body(response, limit, self.transport.config.patience).await {
                Ok(bytes) => break bytes,
                Err(RemoteError::Connection { .. } | RemoteError::Stalled { .. })
                    if attempt < self.transport.config.attempts => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(self.transport.backoff(attempt)).await;
            attempt += 1;
        };
        let found = Digest::of(&bytes);
        if found != expected {
            return Err(RemoteError::Digest { address: address(transfer.url()), expected, found });
        }
        Ok(bytes)
    }
}

fn not_found(host: &Host, name: &ImageName) -> RemoteError {
    RemoteError::NotFound { registry: host.registry.clone(), name: Box::new(name.clone()) }
}

fn header_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// The entry of an index that serves a platform best: the very same one, else the newest variant
/// that fits.
pub(super) fn choose<'a>(
    name: &ImageName,
    index: &'a ImageIndex,
    wanted: &Platform,
) -> Result<&'a Descriptor, RemoteError> {
    let offered: Vec<(Platform, &Descriptor)> = index
        .manifests()
        .iter()
        .filter_map(|entry| {
            let platform = entry.platform().as_ref()?;
            let variant = platform.variant().as_deref();
            let (os, architecture) =
                (platform.os().to_string(), platform.architecture().to_string());
            let mut own = Platform::new(&os, &architecture, variant);
            own.os_version = platform.os_version().clone();
            // Attestations are filed under a platform that does not exist.
            (os != "unknown").then_some((own, entry))
        })
        .collect();
    let exact = offered.iter().find(|(own, _)| own == wanted);
    let fitting = offered.iter().filter(|(own, _)| wanted.matches(own));
    let best = exact.or_else(|| fitting.max_by(|one, other| one.0.variant.cmp(&other.0.variant)));
    match best {
        Some((_, entry)) => Ok(entry),
        None => Err(RemoteError::NoPlatform {
            name: Box::new(name.clone()),
            wanted: Box::new(wanted.clone()),
            offered: offered.into_iter().map(|(own, _)| own).collect(),
        }),
    }
}
