//! Removing an image, and the blobs nothing else needs.
//!
//! Another process may be about to rely on a blob that it found in the store a moment ago, before
//! it has written the manifest that refers to it. So a blob is only removed when it is unreferenced
//! *and* has not been used for [`GRACE`]; [`Images::hold`] renews it. Both sides take the name
//! table's lock, so "is it still there" and "remove it" cannot cross.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use super::document::digest_of;
use super::names::lock;
use super::{DOCUMENT_LIMIT, Document, Image, ImageError, Images};
use crate::oci::{Digest, ImageName};
use crate::state::{StoreError, file_error};

/// Long enough for a pull of the largest layer over a slow line.
const GRACE: Duration = Duration::from_secs(60 * 60);

/// What went when an image was removed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Removal {
    /// The names that were taken away.
    pub untagged: Vec<ImageName>,
    /// The blobs that were removed; younger ones stay until the next garbage collection.
    pub blobs: Vec<Digest>,
    /// The bytes they held.
    pub bytes: u64,
}

impl Images {
    /// Removes an image under all its names, and those of its blobs that no other image refers to.
    pub fn remove(&self, image: &Image) -> Result<Removal, ImageError> {
        self.remove_unused_for(image, GRACE)
    }

    fn remove_unused_for(&self, image: &Image, grace: Duration) -> Result<Removal, ImageError> {
        let mut removal = Removal::default();
        self.names.update(|entries| {
            let mut indexes = BTreeSet::new();
            entries.retain(|entry| {
                if entry.manifest != image.manifest_digest {
                    return true;
                }
                removal.untagged.extend(entry.name.clone());
                indexes.extend(entry.index);
                false
            });
            let own = [image.manifest_digest, image.config_digest].into_iter();
            let layers = image.manifest.layers().iter().filter_map(|layer| digest_of(layer).ok());
            let mut unused: BTreeSet<Digest> = own.chain(layers).chain(indexes).collect();
            let kept =
                entries.iter().flat_map(|entry| entry.index.into_iter().chain([entry.manifest]));
            for digest in self.reachable_from(kept)? {
                unused.remove(&digest);
            }
            removal.blobs.extend(unused);
            Ok(())
        })?;
        // The name is gone, so nobody finds the image any more; the table is locked again for the
        // blobs alone.
        let _lock = lock(&self.content)?;
        let reachable = self.reachable()?;
        let now = SystemTime::now();
        for digest in std::mem::take(&mut removal.blobs) {
            let path = self.blobs.path(&digest);
            let modified = match fs_err::metadata(&path).and_then(|metadata| metadata.modified()) {
                Ok(modified) => modified,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(source) => return Err(file_error("look for", &path)(source).into()),
            };
            let rested = now.duration_since(modified).unwrap_or_default() >= grace;
            if reachable.contains(&digest) || !rested {
                continue;
            }
            let size = self.blobs.size(&digest)?.unwrap_or_default();
            self.blobs.remove(&digest)?;
            removal.bytes += size;
            removal.blobs.push(digest);
        }
        Ok(removal)
    }

    /// Takes these manifests out of the name table, with all their names; no blob is removed.
    pub(crate) fn forget(&self, manifests: &BTreeSet<Digest>) -> Result<(), ImageError> {
        self.names.update(|entries| {
            entries.retain(|entry| !manifests.contains(&entry.manifest));
            Ok(())
        })
    }

    /// The name table as it stands: names and manifests, whether these are here or not.
    pub(crate) fn rows(&self) -> Result<Vec<(Option<ImageName>, Digest)>, ImageError> {
        let rows = self.names.rows()?;
        Ok(rows.entries.iter().map(|entry| (entry.name.clone(), entry.manifest)).collect())
    }

    /// Every blob that an image of the table refers to: indexes, manifests, configurations and
    /// layers (whose blobs need not be here). What garbage collection must keep.
    pub fn reachable(&self) -> Result<BTreeSet<Digest>, ImageError> {
        let rows = self.names.rows()?;
        let roots =
            rows.entries.iter().flat_map(|entry| entry.index.into_iter().chain([entry.manifest]));
        self.reachable_from(roots.chain(rows.foreign_roots()))
    }

    /// Whether the blob is here, and a promise that [`Images::remove`] of any process leaves it
    /// alone for the next hour.
    pub fn hold(&self, digest: &Digest) -> Result<bool, ImageError> {
        let _lock = lock(&self.content)?;
        let path = self.blobs.path(digest);
        let touched = fs_err::OpenOptions::new()
            .read(true)
            .open(&path)
            .and_then(|file| file.file().set_modified(SystemTime::now()));
        match touched {
            Ok(()) => Ok(self.blobs.contains(digest)?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(source) => Err(file_error("touch", &path)(source).into()),
        }
    }

    fn reachable_from(
        &self,
        roots: impl Iterator<Item = Digest>,
    ) -> Result<BTreeSet<Digest>, ImageError> {
        let mut reachable = BTreeSet::new();
        for root in roots {
            if !reachable.insert(root) {
                continue;
            }
            let bytes = match self.blob(&root, DOCUMENT_LIMIT) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(ImageError::Store(StoreError::WrongDigest { .. })) => continue,
                Err(error) => return Err(error),
            };
            // An unreadable manifest refers to nothing that could be used through it. An index
            // keeps only itself: its other platforms were never fetched.
            if let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, None) {
                let descriptors = manifest.layers().iter().chain([manifest.config()]);
                reachable.extend(descriptors.filter_map(|blob| digest_of(blob).ok()));
            }
        }
        Ok(reachable)
    }
}
