//! A bundle in an S3-compatible store: blobs by digest, manifests by name.
//!
//! ```text
//! <prefix><manifests_prefix><name>       the manifest
//! <prefix><blobs_prefix>sha256:<hex>     the document, layers, cache mounts
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::BundleError;
use super::document::PACKED_LIMIT;
use super::place::{Fetched, Place, digest};
use crate::blob::Blobs;
use crate::image::Document;
use crate::image::document::DOCUMENT_LIMIT;
use crate::oci::{Descriptor, Digest};
use crate::remote::{RegistryConfig, S3, S3_LARGEST_OBJECT, S3Options};

/// See the module.
#[derive(Clone)]
pub struct S3Place {
    s3: Arc<S3>,
    bucket: String,
    /// Before blobs.
    blobs: String,
    /// Before names.
    manifests: String,
    /// The first is read, all are written.
    names: Vec<String>,
    writing: S3Writing,
}

/// How blobs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct S3Writing {
    /// How many go at the same time, if it matters to anybody.
    pub parallel: Option<usize>,
    /// A blob that was written this long ago is written anew when it is found.
    pub refresh: Duration,
}

impl Default for S3Writing {
    fn default() -> Self {
        S3Writing { parallel: None, refresh: Duration::from_secs(24 * 3600) }
    }
}

/// What of a bucket is the cache's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Prefixes {
    /// Before everything.
    pub prefix: String,
    /// Before blobs: `blobs/`.
    pub blobs: String,
    /// Before names: `manifests/`.
    pub manifests: String,
}

impl fmt::Display for S3Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}{}", self.bucket, self.manifests, self.names.join(";"))
    }
}

impl fmt::Debug for S3Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3Place").field(&self.to_string()).finish()
    }
}

impl S3Place {
    /// The bundle under these names of a bucket; the patience is that of `config`.
    ///
    /// # Errors
    /// [`BundleError::Remote`] if the endpoint is no address.
    pub fn new(
        options: &S3Options,
        prefixes: &S3Prefixes,
        names: Vec<String>,
        writing: S3Writing,
        config: RegistryConfig,
    ) -> Result<S3Place, BundleError> {
        Ok(S3Place {
            s3: Arc::new(S3::new(options, config)?),
            bucket: options.bucket.clone(),
            blobs: format!("{}{}", prefixes.prefix, prefixes.blobs),
            manifests: format!("{}{}", prefixes.prefix, prefixes.manifests),
            names,
            writing,
        })
    }

    fn blob(&self, digest: &Digest) -> String {
        format!("{}{digest}", self.blobs)
    }

    fn missing(&self) -> BundleError {
        BundleError::Missing { place: self.to_string() }
    }
}

impl Place for S3Place {
    fn documents(&self) -> BoxFuture<'_, Result<Fetched, BundleError>> {
        Box::pin(async {
            let name = self.names.first().ok_or_else(|| self.missing())?;
            let key = format!("{}{name}", self.manifests);
            let bytes = self.s3.get(&key, DOCUMENT_LIMIT).await?.ok_or_else(|| self.missing())?;
            let manifest = match Document::parse(&bytes, None) {
                Ok(Document::Manifest(manifest)) => manifest,
                Ok(Document::Index(_)) => {
                    return Err(BundleError::NotACache { place: self.to_string() });
                }
                Err(source) => return Err(BundleError::Document { source: Box::new(source) }),
            };
            let expected = digest(manifest.config())?;
            let config = self.s3.get(&self.blob(&expected), PACKED_LIMIT).await?;
            let config = config.ok_or_else(|| self.missing())?;
            let found = Digest::of(&config);
            if found != expected {
                return Err(crate::StoreError::WrongDigest { expected, found }.into());
            }
            Ok(Fetched { manifest, config })
        })
    }

    fn fetch<'a>(
        &'a self,
        blob: &'a Descriptor,
        into: &'a Blobs,
    ) -> BoxFuture<'a, Result<(), BundleError>> {
        Box::pin(async { Ok(self.s3.fetch(&self.blob(&digest(blob)?), blob, into).await?) })
    }

    fn has<'a>(&'a self, blob: &'a Descriptor) -> BoxFuture<'a, Result<bool, BundleError>> {
        Box::pin(async {
            let key = self.blob(&digest(blob)?);
            let Some(head) = self.s3.head(&key, blob.size()).await? else { return Ok(false) };
            match head.age {
                Some(age) if age > self.writing.refresh => {
                    Ok(self.s3.touch(&key, blob.size()).await?)
                }
                _ => Ok(true),
            }
        })
    }

    fn put<'a>(
        &'a self,
        blob: &'a Descriptor,
        from: &'a Blobs,
    ) -> BoxFuture<'a, Result<(), BundleError>> {
        Box::pin(async {
            let digest = digest(blob)?;
            let limit = S3_LARGEST_OBJECT;
            if blob.size() > limit {
                let reason = format!("{digest} has more than the {limit} bytes of an S3 object");
                return Err(BundleError::Refused { reason });
            }
            Ok(self.s3.put_file(&self.blob(&digest), &from.path(&digest), blob.size()).await?)
        })
    }

    fn parallel(&self) -> Option<usize> {
        self.writing.parallel
    }

    fn put_manifest<'a>(&'a self, manifest: &'a [u8]) -> BoxFuture<'a, Result<(), BundleError>> {
        Box::pin(async {
            for name in &self.names {
                self.s3.put(&format!("{}{name}", self.manifests), manifest).await?;
            }
            Ok(())
        })
    }
}
