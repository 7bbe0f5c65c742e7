//! The images of this machine: names, manifests and configurations.
//!
//! `content/` is a valid OCI image layout, and its `index.json` is the name table: there is no
//! second place where a name could be stale. `skopeo inspect oci:<root>/content:<full name>` reads
//! it like any other.
//!
//! ```text
//! content/
//! ├── oci-layout
//! ├── index.json              one descriptor per (name, platform); without a name: an untagged image
//! └── blobs/sha256/<hex>      manifests, configurations, indexes, layers
//! ```
//!
//! A layer's blob may be absent, which the OCI layout allows: an image built here lists its layers
//! uncompressed, by DiffId, and their content is the snapshot it was built in. The blob appears
//! when a push or an archive asks for it. And layers of an image that came from a registry, or that
//! was built on such a one, may still lie there: see [`far`].
//!
//! Nothing here unpacks a layer except [`unpack`], and nothing here talks to a registry.

pub mod document;
pub mod far;
mod names;
mod remove;
pub mod unpack;

use std::path::PathBuf;

use oci_spec::image::ImageManifest;
use thiserror::Error;

use crate::blob::Blobs;
use crate::oci::{Digest, ImageConfiguration, ImageName, Platform};
use crate::state::StoreError;
use document::{CONFIG_LIMIT, DOCUMENT_LIMIT, digest_of};
pub use document::{Document, DocumentError};
use names::{Entry, NameTable, platform_of};
pub use remove::Removal;

/// Why the image store could not answer.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The blob store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name table cannot be read or written.
    #[error("cannot use the image table {path}")]
    NameTable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The name table is not an OCI index.
    #[error("the image table {path} is damaged")]
    MalformedNameTable {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        #[source]
        source: serde_json::Error,
    },
    /// Another process holds the lock for too long.
    #[error("another process keeps the image table {path} locked")]
    Locked {
        /// What is locked.
        path: PathBuf,
    },
    /// A manifest is not one.
    #[error("manifest {digest} cannot be read")]
    Manifest {
        /// The digest of the bytes.
        digest: Digest,
        /// Why not.
        #[source]
        source: DocumentError,
    },
    /// An image configuration is not one.
    #[error("image configuration {digest} cannot be read")]
    Configuration {
        /// The digest of the bytes.
        digest: Digest,
        /// What the parser found.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest does not belong to the configuration beside it.
    #[error("manifest {manifest} and configuration {config} do not belong together: {reason}")]
    Mismatch {
        /// The manifest's digest.
        manifest: Digest,
        /// The configuration's digest.
        config: Digest,
        /// The contradiction.
        reason: String,
    },
    /// The start of an id fits several images.
    #[error("`{prefix}` is the start of several image ids: {}", candidates.iter().map(Digest::short).collect::<Vec<_>>().join(", "))]
    AmbiguousId {
        /// What was asked for.
        prefix: String,
        /// The ids that start so, sorted.
        candidates: Vec<Digest>,
    },
    /// A layer's content is nowhere on this machine.
    #[error("layer {number} of image {image} ({digest}) is not on this machine")]
    LayerMissing {
        /// The image's id.
        image: Digest,
        /// Counted from 1, bottom first.
        number: usize,
        /// The layer's digest in the manifest.
        digest: Digest,
    },
    /// A layer is broken or hostile.
    #[error("cannot unpack layer {number} of image {image}")]
    Layer {
        /// The image's id.
        image: Digest,
        /// Counted from 1, bottom first.
        number: usize,
        /// What is wrong with it.
        #[source]
        source: Box<crate::layer::LayerError>,
    },
    /// A layer's content is not what the configuration promises.
    #[error(
        "layer {number} of image {image} unpacks to {found}, its configuration says {expected}"
    )]
    DiffId {
        /// The image's id.
        image: Digest,
        /// Counted from 1, bottom first.
        number: usize,
        /// The digest the configuration lists.
        expected: Digest,
        /// The digest of what the layer holds.
        found: Digest,
    },
}

/// One image for one platform, read completely.
#[derive(Debug, Clone)]
pub struct Image {
    /// What a registry knows it by.
    pub manifest_digest: Digest,
    /// The layers and the configuration, as descriptors.
    pub manifest: ImageManifest,
    /// The image's id.
    pub config_digest: Digest,
    /// How to run it, and how it was made.
    pub config: ImageConfiguration,
}

/// A row of the image list.
#[derive(Debug, Clone)]
pub struct NamedImage {
    /// The name; `None` for an untagged image.
    pub name: Option<ImageName>,
    /// What the image is for.
    pub platform: Platform,
    /// The image's id: the digest of its configuration.
    pub id: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The digest of the multi-platform index it was pulled through.
    pub index: Option<Digest>,
    /// When it was made (RFC 3339).
    pub created: Option<String>,
    /// The sum of its layers in bytes, as the manifest lists them: compressed for a pulled layer,
    /// uncompressed for one built here.
    pub size: u64,
}

/// The local image store.
#[derive(Debug)]
pub struct Images {
    content: PathBuf,
    blobs: Blobs,
    names: NameTable,
}

impl Images {
    /// The images of the layout `content`, whose blobs are `blobs`.
    pub(crate) fn new(content: PathBuf, blobs: Blobs) -> Images {
        Images { names: NameTable::new(content.clone()), content, blobs }
    }

    /// The image of this name for this platform.
    ///
    /// A name with a digest finds the image whose manifest, or whose index, has that digest.
    pub fn get(&self, name: &ImageName, platform: &Platform) -> Result<Option<Image>, ImageError> {
        let rows = self.names.rows()?;
        let fits = |entry: &&Entry| entry.is_named(name) && platform.matches(&entry.platform);
        let exact = |entry: &&Entry| fits(entry) && entry.platform == *platform;
        let entry = rows.entries.iter().find(exact).or_else(|| rows.entries.iter().find(fits));
        entry.map_or(Ok(None), |entry| self.load(&entry.manifest))
    }

    /// All platforms this name is known for.
    pub fn platforms(&self, name: &ImageName) -> Result<Vec<Platform>, ImageError> {
        let rows = self.names.rows()?;
        let named = rows.entries.iter().filter(|entry| entry.is_named(name));
        Ok(named.map(|entry| entry.platform.clone()).collect())
    }

    /// The image whose id (configuration digest), or else whose manifest digest, starts with
    /// `prefix`: lower-case hexadecimal, with or without `sha256:`.
    ///
    /// Text that cannot be the start of a digest finds nothing. Fails with
    /// [`ImageError::AmbiguousId`] if several images start so.
    pub fn by_id(&self, prefix: &str) -> Result<Option<Image>, ImageError> {
        let hex = prefix.strip_prefix("sha256:").unwrap_or(prefix);
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if hex.is_empty() || hex.len() > 64 || !hex.bytes().all(is_hex) {
            return Ok(None);
        }
        let rows = self.names.rows()?;
        for column in [|entry: &Entry| entry.config, |entry: &Entry| entry.manifest] {
            let fits = |entry: &&Entry| column(entry).hex().starts_with(hex);
            let mut candidates: Vec<_> = rows.entries.iter().filter(fits).map(column).collect();
            candidates.sort();
            candidates.dedup();
            match candidates.as_slice() {
                [] => {}
                [one] => {
                    let entry = rows.entries.iter().find(|entry| column(entry) == *one);
                    return entry.map_or(Ok(None), |entry| self.load(&entry.manifest));
                }
                _ => return Err(ImageError::AmbiguousId { prefix: prefix.to_owned(), candidates }),
            }
        }
        Ok(None)
    }

    /// What a user's `text` means: an image name, or else the start of an id.
    pub fn find(&self, text: &str, platform: &Platform) -> Result<Option<Image>, ImageError> {
        if let Ok(name) = text.parse::<ImageName>()
            && let Some(image) = self.get(&name, platform)?
        {
            return Ok(Some(image));
        }
        self.by_id(text)
    }

    /// The image with exactly this manifest digest, whether anything names it or not.
    pub fn by_manifest(&self, digest: &Digest) -> Result<Option<Image>, ImageError> {
        self.load(digest)
    }

    /// Stores an image's manifest and configuration and makes it known by its id, untagged.
    ///
    /// The layers may be absent. Fails if the manifest does not name this configuration, or the
    /// two do not list the same number of layers.
    pub fn put(&self, manifest: &[u8], config: &[u8]) -> Result<Image, ImageError> {
        let image = Image::from_documents(manifest, config)?;
        let size = manifest.len() as u64;
        self.names.update(|entries| {
            // Under the lock, so that no removal comes between finding them here and naming them.
            self.blobs.put(config)?;
            self.blobs.put(manifest)?;
            if !entries.iter().any(|entry| entry.manifest == image.manifest_digest) {
                entries.push(Entry::new(&image, size));
            }
            Ok(())
        })?;
        Ok(image)
    }

    /// Names an image. The image that had this name for the same platform becomes untagged.
    pub fn tag(&self, image: &Image, name: &ImageName) -> Result<(), ImageError> {
        self.tag_pulled(image, name, None)
    }

    /// As [`Images::tag`], remembering the index (multi-platform manifest list) the image was
    /// pulled through, whose blob stays with it.
    pub fn tag_pulled(
        &self,
        image: &Image,
        name: &ImageName,
        index: Option<Digest>,
    ) -> Result<(), ImageError> {
        let size = self.blobs.size(&image.manifest_digest)?.unwrap_or_default();
        let platform = platform_of(image);
        self.names.update(|entries| {
            let same = |entry: &Entry| entry.manifest == image.manifest_digest;
            let known = entries.iter().find(|entry| same(entry));
            let places = known.map(|entry| entry.places.clone()).unwrap_or_default();
            let known = known.and_then(|entry| entry.index);
            if let Some(entry) = entries
                .iter_mut()
                .find(|entry| entry.name.as_ref() == Some(name) && entry.platform == platform)
            {
                if same(entry) {
                    entry.index = index.or(entry.index);
                    return Ok(());
                }
                entry.name = None;
            }
            entries.retain(|entry| !(same(entry) && entry.name.is_none()));
            let mut entry = Entry::new(image, size);
            entry.name = Some(name.clone());
            entry.index = index.or(known);
            entry.places = places;
            entries.push(entry);
            keep_one_untagged(entries);
            Ok(())
        })
    }

    /// Takes a name away, for all platforms. The images stay, untagged where it was their last
    /// name. Answers whether there was such a name.
    pub fn untag(&self, name: &ImageName) -> Result<bool, ImageError> {
        self.names.update(|entries| {
            let mut found = false;
            for entry in entries.iter_mut().filter(|entry| entry.name.as_ref() == Some(name)) {
                entry.name = None;
                found = true;
            }
            keep_one_untagged(entries);
            Ok(found)
        })
    }

    /// The names of an image, in the order they were given.
    pub fn names(&self, image: &Image) -> Result<Vec<ImageName>, ImageError> {
        let rows = self.names.rows()?;
        let own = rows.entries.iter().filter(|entry| entry.manifest == image.manifest_digest);
        Ok(own.filter_map(|entry| entry.name.clone()).collect())
    }

    /// Every image under every name, newest first; untagged ones too. Images whose manifest or
    /// configuration is gone or damaged are left out.
    pub fn list(&self) -> Result<Vec<NamedImage>, ImageError> {
        let rows = self.names.rows()?;
        let mut list = Vec::with_capacity(rows.entries.len());
        for entry in &rows.entries {
            let image = match self.load(&entry.manifest) {
                Ok(Some(image)) => image,
                Ok(None) => continue,
                // A disk that gives no answer says nothing of the image.
                Err(
                    error @ ImageError::Store(StoreError::File { .. } | StoreError::Busy { .. }),
                ) => {
                    return Err(error);
                }
                // One damaged image does not hide the others.
                Err(error) => {
                    tracing::warn!("image {} is damaged: {error}", entry.manifest);
                    continue;
                }
            };
            list.push(NamedImage {
                name: entry.name.clone(),
                platform: entry.platform.clone(),
                id: entry.config,
                manifest: entry.manifest,
                index: entry.index,
                size: image.manifest.layers().iter().map(|layer| layer.size()).sum(),
                created: image.config.created,
            });
        }
        list.sort_by(|one, other| {
            other.created.cmp(&one.created).then_with(|| {
                let text = |row: &NamedImage| row.name.as_ref().map(ToString::to_string);
                text(one).cmp(&text(other))
            })
        });
        Ok(list)
    }

    /// Reads manifest and configuration; `None` if either blob is not here.
    fn load(&self, manifest: &Digest) -> Result<Option<Image>, ImageError> {
        let Some(bytes) = self.blob(manifest, DOCUMENT_LIMIT)? else { return Ok(None) };
        let parsed = parse_manifest(*manifest, &bytes)?;
        let config = digest_of(parsed.config())
            .map_err(|source| ImageError::Manifest { digest: *manifest, source })?;
        let Some(config_bytes) = self.blob(&config, CONFIG_LIMIT)? else { return Ok(None) };
        Image::from_documents(&bytes, &config_bytes).map(Some)
    }

    fn blob(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, ImageError> {
        if !self.blobs.contains(digest)? {
            return Ok(None);
        }
        match self.blobs.read(digest, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NoBlob { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// An untagged image needs one row, and none beside a row with a name.
fn keep_one_untagged(entries: &mut Vec<Entry>) {
    let mut index = 0;
    while index < entries.len() {
        let superfluous = entries[index].name.is_none()
            && entries.iter().enumerate().any(|(other, entry)| {
                entry.manifest == entries[index].manifest && (entry.name.is_some() || other < index)
            });
        if superfluous {
            entries.remove(index);
        } else {
            index += 1;
        }
    }
}

fn parse_manifest(digest: Digest, bytes: &[u8]) -> Result<ImageManifest, ImageError> {
    let failed = |source| ImageError::Manifest { digest, source };
    match Document::parse(bytes, None).map_err(failed)? {
        Document::Manifest(manifest) if document::is_config(manifest.config().media_type()) => {
            Ok(manifest)
        }
        Document::Manifest(manifest) => Err(failed(DocumentError::NotAnImage {
            media_type: manifest.config().media_type().to_string(),
        })),
        Document::Index(_) => Err(failed(DocumentError::Confused {
            reason: "an index stands where a manifest should".to_owned(),
        })),
    }
}

impl Image {
    /// Puts an image together from its two documents, if they belong together.
    ///
    /// # Errors
    /// If the manifest is none, does not name this configuration, or the two do not list the same
    /// number of layers.
    pub fn from_documents(manifest: &[u8], config: &[u8]) -> Result<Image, ImageError> {
        let (manifest_digest, config_digest) = (Digest::of(manifest), Digest::of(config));
        let manifest = parse_manifest(manifest_digest, manifest)?;
        let mismatch = |reason| ImageError::Mismatch {
            manifest: manifest_digest,
            config: config_digest,
            reason,
        };
        if digest_of(manifest.config()).ok() != Some(config_digest) {
            return Err(mismatch(format!("the manifest names {}", manifest.config().digest())));
        }
        let config: ImageConfiguration = serde_json::from_slice(config)
            .map_err(|source| ImageError::Configuration { digest: config_digest, source })?;
        let (layers, diff_ids) = (manifest.layers().len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(mismatch(format!("{layers} layers, but {diff_ids} diff_ids")));
        }
        Ok(Image { manifest_digest, manifest, config_digest, config })
    }
}
