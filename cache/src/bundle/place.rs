//! A blob store far away: all that a bundle needs of wherever it is kept.

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::Duration;

use futures_util::future::BoxFuture;
use oci_spec::image::ImageManifestBuilder;

use super::document::{DOCUMENT_TYPE, Document, PACKED_LIMIT};
use super::{BundleError, Imported};
use crate::blob::Blobs;
use crate::image::document::{descriptor, digest_of, write_manifest};
use crate::oci::{Descriptor, Digest, ImageManifest, ImageName, MediaType};
use crate::state::Store;

/// How long the manifest and the document of a bundle are waited for.
const DOCUMENT_PATIENCE: Duration = Duration::from_secs(60);
/// How long a blob is waited for, beside the time for its size.
const BLOB_PATIENCE: Duration = Duration::from_secs(60);
/// The slowest that is better than doing the work again, in bytes per second.
const LEAST_SPEED: u64 = 128 << 10;
/// Blobs on their way at the same time.
const AT_ONCE: usize = 6;

/// What a place has under its name.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The manifest.
    pub manifest: ImageManifest,
    /// Its configuration: a document, or an image's configuration with one in it.
    pub config: Vec<u8>,
}

/// What was put down.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    /// The manifest's digest.
    pub manifest: Digest,
    /// How many blobs were not there before.
    pub sent: usize,
}

/// Somewhere a bundle is kept. Its `Display` is the place in the user's words.
pub trait Place: Debug + std::fmt::Display + Send + Sync {
    /// The manifest under the place's name, and its configuration. Neither is believed to be right.
    fn documents(&self) -> BoxFuture<'_, Result<Fetched, BundleError>>;

    /// Brings a blob into the store. Only bytes of the promised size and digest become visible.
    fn fetch<'a>(
        &'a self,
        blob: &'a Descriptor,
        into: &'a Blobs,
    ) -> BoxFuture<'a, Result<(), BundleError>>;

    /// Whether the blob is there already, for as long as others that are put down now: a place that
    /// forgets what is old renews it.
    fn has<'a>(&'a self, blob: &'a Descriptor) -> BoxFuture<'a, Result<bool, BundleError>>;

    /// Puts down a blob that the store has and the place has not.
    fn put<'a>(
        &'a self,
        blob: &'a Descriptor,
        from: &'a Blobs,
    ) -> BoxFuture<'a, Result<(), BundleError>>;

    /// The repository of a registry that it is, from which blobs can be mounted.
    fn repository(&self) -> Option<&ImageName> {
        None
    }

    /// How many blobs are put down at the same time, if the user said so.
    fn parallel(&self) -> Option<usize> {
        None
    }

    /// Puts down the manifest, when everything it names is there.
    fn put_manifest<'a>(&'a self, manifest: &'a [u8]) -> BoxFuture<'a, Result<(), BundleError>>;
}

impl dyn Place {
    /// Reads the document, within a bounded time.
    pub async fn read(&self) -> Result<Document, BundleError> {
        let fetched = within(self, DOCUMENT_PATIENCE, self.documents()).await?;
        let config = fetched.manifest.config();
        if config.media_type().as_ref() == DOCUMENT_TYPE {
            return Document::unpack(&fetched.config);
        }
        super::inline::read(&fetched)?
            .ok_or_else(|| BundleError::NotACache { place: self.to_string() })
    }

    /// [`Place::fetch`] within the time that doing without would take.
    pub async fn fetch_in_time(&self, blob: &Descriptor, into: &Blobs) -> Result<(), BundleError> {
        if into.contains(&digest(blob)?)? {
            return Ok(());
        }
        let patience = BLOB_PATIENCE + Duration::from_secs(blob.size() / LEAST_SPEED);
        within(self, patience, self.fetch(blob, into)).await
    }

    /// Puts down a blob that the store has, unless it is there already; whether it was not.
    pub async fn send(&self, blob: &Descriptor, from: &Blobs) -> Result<bool, BundleError> {
        if within(self, BLOB_PATIENCE, self.has(blob)).await? {
            return Ok(false);
        }
        // Several share the way there.
        let speed = (LEAST_SPEED / self.parallel().unwrap_or(AT_ONCE) as u64).max(1);
        let patience = BLOB_PATIENCE + Duration::from_secs(blob.size() / speed);
        within(self, patience, self.put(blob, from)).await?;
        Ok(true)
    }

    /// Stores a document and whatever of its blobs is not there, the manifest last. A blob that the
    /// store has not got either is in one of the `imported` caches. Of blobs that are `known` to be
    /// there the place is not asked.
    pub async fn write(
        &self,
        document: &Document,
        store: &Store,
        imported: &Imported,
        known: &HashSet<Digest>,
    ) -> Result<Placed, BundleError> {
        use futures_util::stream::{StreamExt, TryStreamExt, iter};
        let packed = document.pack();
        if packed.len() as u64 > PACKED_LIMIT {
            let reason = format!("it has more than {PACKED_LIMIT} bytes");
            return Err(BundleError::Refused { reason });
        }
        let blobs = store.blobs();
        let config = blobs.put(&packed)?;
        let config = descriptor(MediaType::from(DOCUMENT_TYPE), packed.len() as u64, &config);
        let listed = document.blobs();
        let put = listed.iter().chain([&config]).map(|blob| async move {
            let digest = digest(blob)?;
            if known.contains(&digest) {
                return Ok(0);
            }
            if !blobs.contains(&digest)? {
                if within(self, BLOB_PATIENCE, self.has(blob)).await? {
                    return Ok(0);
                }
                imported.bring(store, blob).await?;
            }
            Ok::<usize, BundleError>(usize::from(self.send(blob, blobs).await?))
        });
        let put: Vec<_> = put.collect();
        let at_once = self.parallel().unwrap_or(AT_ONCE);
        let sent: Vec<usize> = iter(put).buffer_unordered(at_once).try_collect().await?;
        let manifest = manifest_of(config, listed);
        self.put_manifest(&manifest).await?;
        Ok(Placed { manifest: Digest::of(&manifest), sent: sent.into_iter().sum() })
    }
}

/// The manifest of a bundle.
pub fn manifest_of(config: Descriptor, blobs: Vec<Descriptor>) -> Vec<u8> {
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(blobs)
        .build()
        .expect("every required field is set");
    write_manifest(&manifest)
}

pub(super) fn digest(blob: &Descriptor) -> Result<Digest, BundleError> {
    digest_of(blob).map_err(|source| BundleError::Document { source: Box::new(source) })
}

async fn within<T>(
    place: &dyn Place,
    patience: Duration,
    work: impl Future<Output = Result<T, BundleError>>,
) -> Result<T, BundleError> {
    match tokio::time::timeout(patience, work).await {
        Ok(result) => result,
        Err(_) => Err(BundleError::Slow { place: place.to_string(), seconds: patience.as_secs() }),
    }
}
