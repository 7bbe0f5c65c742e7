//! Layers of images that are not on this machine.
//!
//! A name is resolved to an image without its layers, and an image that is built on such a one
//! without needing a file of it has the same layers. Whoever needs them fetches them from where they
//! lie: the repositories that the name table has for the image, or else those of its own names.

use super::unpack::layer_blob;
use super::{Image, ImageError, Images};
use crate::oci::{ChainId, Descriptor, Digest, ImageName};
use crate::state::Store;

/// More places than this are not asked for one layer.
const MAX_PLACES: usize = 8;

impl Images {
    /// The repositories that have an image's layers, the first one to be asked first.
    pub fn places(&self, manifest: &Digest) -> Result<Vec<ImageName>, ImageError> {
        let noted = self.noted_places(manifest)?;
        if !noted.is_empty() {
            return Ok(noted);
        }
        let rows = self.names.rows()?;
        let own = rows.entries.iter().filter(|entry| entry.manifest == *manifest);
        Ok(merged(own.filter_map(|entry| entry.name.clone())))
    }

    /// Those of the repositories that were noted, whatever the image is called.
    pub(crate) fn noted_places(&self, manifest: &Digest) -> Result<Vec<ImageName>, ImageError> {
        let rows = self.names.rows()?;
        let own = rows.entries.iter().find(|entry| entry.manifest == *manifest);
        Ok(own.map(|entry| entry.places.clone()).unwrap_or_default())
    }

    /// Notes repositories that have layers of an image which are not here.
    pub fn add_places(&self, image: &Image, places: &[ImageName]) -> Result<(), ImageError> {
        self.names.update(|entries| {
            for entry in entries.iter_mut().filter(|one| one.manifest == image.manifest_digest) {
                entry.places = merged(entry.places.iter().chain(places).cloned());
            }
            Ok(())
        })
    }
}

/// Each repository once.
fn merged(names: impl Iterator<Item = ImageName>) -> Vec<ImageName> {
    let mut places: Vec<ImageName> = Vec::new();
    for name in names {
        let place = name.without_reference();
        if !places.contains(&place) && places.len() < MAX_PLACES {
            places.push(place);
        }
    }
    places
}

/// The listed layers whose bytes cannot be had on this machine, bottom first: neither a blob nor a
/// tree that was made here has them. To have the *files* of an image, ask
/// [`layers_needed`](super::unpack::layers_needed) instead.
pub fn layers_absent(store: &Store, image: &Image) -> Result<Vec<Descriptor>, ImageError> {
    let diff_ids = &image.config.rootfs.diff_ids;
    let mut absent = Vec::new();
    for (number, layer) in image.manifest.layers().iter().enumerate() {
        if layer_blob(store, image, number)?.is_some() {
            continue;
        }
        let chain = ChainId::of(&diff_ids[..=number]);
        let tree = match chain {
            Some(chain) => store.snapshots().unpacked(&chain)?,
            None => None,
        };
        let made_here = match tree {
            Some(tree) => tree.recorded_layer()?.is_some_and(|own| own.diff_id == diff_ids[number]),
            None => false,
        };
        if !made_here {
            absent.push(layer.clone());
        }
    }
    Ok(absent)
}

/// Whether the layers that are not here have a place where they could be fetched.
pub(crate) fn has_place(store: &Store, image: &Image) -> Result<bool, ImageError> {
    Ok(!store.images().noted_places(&image.manifest_digest)?.is_empty())
}
