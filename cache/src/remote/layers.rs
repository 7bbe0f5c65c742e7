//! Layers of images that lie in one of several repositories.

use std::collections::BTreeSet;

use futures_util::future::{join_all, try_join_all};

use super::{Registries, RemoteError};
use crate::image::document::{digest_of, layer_type};
use crate::image::far::layers_absent;
use crate::image::unpack::layers_needed;
use crate::image::{Image, ImageError};
use crate::oci::{Descriptor, Digest, ImageName, MediaType};
use crate::state::Store;

/// Told how far a layer is: what it is, bytes so far, bytes in all.
pub type LayerProgress<'a> = &'a (dyn Fn(&Descriptor, u64, u64) + Send + Sync);

impl Registries {
    /// Brings layers of an image here, each from the first of the image's places that gives it. Of
    /// an image for which none is known, `name` is one.
    ///
    /// # Errors
    /// [`RemoteError::LayerUnavailable`] and [`RemoteError::LayerNowhere`].
    pub async fn fetch_layers(
        &self,
        store: &Store,
        image: &Image,
        layers: &[Descriptor],
        name: Option<&ImageName>,
        progress: LayerProgress<'_>,
    ) -> Result<(), RemoteError> {
        if layers.is_empty() {
            return Ok(());
        }
        let mut places = store.images().places(&image.manifest_digest)?;
        if places.is_empty() {
            places.extend(name.map(ImageName::without_reference));
        }
        let places = &places;
        let fetches = layers.iter().map(|layer| async move {
            let digest = digest_of(layer)
                .map_err(|source| ImageError::Manifest { digest: image.manifest_digest, source })?;
            let report = |done: u64, all: u64| progress(layer, done, all);
            self.fetch_from(places, layer, digest, store, &report).await
        });
        try_join_all(fetches).await.map(drop)
    }

    async fn fetch_from(
        &self,
        places: &[ImageName],
        layer: &Descriptor,
        digest: Digest,
        store: &Store,
        progress: super::Progress<'_>,
    ) -> Result<(), RemoteError> {
        let mut first = None;
        for place in places {
            match self.fetch_layer(place, layer, store.blobs(), progress).await {
                Ok(()) => return Ok(()),
                // What is wrong here is wrong with every place.
                Err(error @ (RemoteError::Store(_) | RemoteError::Image(_))) => return Err(error),
                Err(error) => first = first.or(Some(error)),
            }
        }
        let size = layer.size();
        Err(match first {
            None => RemoteError::LayerNowhere { digest, size },
            Some(source) => RemoteError::LayerUnavailable {
                digest,
                size,
                places: places.to_vec(),
                source: Box::new(source),
            },
        })
    }

    /// Brings here what is missing for passing an image on, as it is or in another form; not the
    /// layers of `there`.
    pub async fn fetch_to_send(
        &self,
        store: &Store,
        image: &Image,
        there: &BTreeSet<Digest>,
        progress: LayerProgress<'_>,
    ) -> Result<(), RemoteError> {
        let mut absent = layers_absent(store, image)?;
        absent.retain(|layer| !digest_of(layer).is_ok_and(|digest| there.contains(&digest)));
        match self.fetch_layers(store, image, &absent, None, progress).await {
            // The files are here. Who packs them finds out whether that gives the same layers.
            Err(_) if layers_needed(store, image)?.is_empty() => Ok(()),
            fetched => fetched,
        }
    }

    /// Brings here what of an image's layers must be sent to push it to all of these names: not what
    /// the registries have, some of which is `known`, or can mount. Answers with those that are
    /// there, and not here.
    pub async fn fetch_for_push(
        &self,
        store: &Store,
        image: &Image,
        names: &[ImageName],
        known: &BTreeSet<Digest>,
        progress: LayerProgress<'_>,
    ) -> Result<BTreeSet<Digest>, RemoteError> {
        let mut there = known.clone();
        let mut absent = layers_absent(store, image)?;
        absent.retain(|layer| !digest_of(layer).is_ok_and(|digest| known.contains(&digest)));
        if !absent.is_empty() {
            let places = store.images().places(&image.manifest_digest)?;
            let had = absent.iter().map(|layer| self.is_at_all(names, layer, &places));
            let had = join_all(had).await;
            let had: Vec<Descriptor> = absent
                .into_iter()
                .zip(had)
                .filter(|(_, had)| *had)
                .map(|(layer, _)| layer)
                .collect();
            there.extend(had.iter().filter_map(|layer| digest_of(layer).ok()));
        }
        self.fetch_to_send(store, image, &there, progress).await?;
        Ok(there)
    }

    /// Whether every one of the repositories has a layer, if need be from one of `places`.
    async fn is_at_all(
        &self,
        names: &[ImageName],
        layer: &Descriptor,
        places: &[ImageName],
    ) -> bool {
        // What is not compressed is compressed for a push.
        let kind = layer_type(layer.media_type()).filter(|kind| *kind != MediaType::ImageLayer);
        if kind.is_none() || names.is_empty() {
            return false;
        }
        let asked = names.iter().map(|name| {
            let near = places.iter().find(|place| place.registry() == name.registry());
            self.has_or_mounts(name, layer, near)
        });
        // A registry that does not answer says so when the image is pushed.
        let had = try_join_all(asked).await.unwrap_or_default();
        !had.is_empty() && had.into_iter().all(|had| had)
    }
}
