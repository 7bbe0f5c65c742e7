//! A local image goes to a registry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cache::Store;
use cache::image::Image;
use cache::image::document::{self, CONFIG_LIMIT, DOCUMENT_LIMIT, digest_of, write_manifest};
use cache::oci::{Descriptor, Digest, ImageName, MediaType};
use cache::remote::{PushBlob, PushManifest, PushTarget, Registries};

use crate::ExportError;
use crate::archive::{index_of, on_platform};
use crate::assemble::manifest;
use crate::layers::{Layer, LayerForm, layers};

/// How an image is pushed.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// The form of its layers. [`cache::layer::Compression::None`] pushes plain tars.
    pub form: LayerForm,
    /// Whether the name's tag is set, or the image is only reachable by its digest.
    pub target: PushTarget,
    /// Annotations of the manifest; with any, it gets another digest.
    pub annotations: BTreeMap<String, String>,
    /// Compressed layers that are where the image goes, and need not be here.
    pub there: BTreeSet<Digest>,
}

impl Default for PushOptions {
    fn default() -> Self {
        PushOptions {
            form: LayerForm::default(),
            target: PushTarget::Name,
            annotations: BTreeMap::new(),
            there: BTreeSet::new(),
        }
    }
}

/// Told how far a blob is: what it is, bytes sent, bytes in all.
pub type PushProgress<'a> = &'a (dyn Fn(&Descriptor, u64, u64) + Send + Sync);

/// Pushes an image under a name and answers with the manifest's digest there.
///
/// An image that was pulled and is whole goes as it came, with its digest. Otherwise layers that
/// are not compressed yet are compressed, once and at the same time, and the manifest is an OCI
/// one. What the registry has in another repository is mounted.
pub async fn push(
    store: &Store,
    registries: &Registries,
    image: &Image,
    name: &ImageName,
    options: &PushOptions,
    progress: PushProgress<'_>,
) -> Result<Digest, ExportError> {
    let manifest = push_image(store, registries, image, name, options, progress).await?;
    Ok(Digest::of(&manifest.bytes))
}

/// Pushes the platforms of an image and an index of them, in the order given, and answers with the
/// index's digest. Only the index gets the name's tag.
pub async fn push_index(
    store: &Store,
    registries: &Registries,
    images: &[&Image],
    name: &ImageName,
    options: &PushOptions,
    progress: PushProgress<'_>,
) -> Result<Digest, ExportError> {
    let by_digest = PushOptions { target: PushTarget::Digest, ..options.clone() };
    let mut manifests = Vec::new();
    for image in images {
        let manifest = push_image(store, registries, image, name, &by_digest, progress).await?;
        let descriptor = document::descriptor(
            manifest.media_type.as_str().into(),
            manifest.bytes.len() as u64,
            &Digest::of(&manifest.bytes),
        );
        manifests.push(on_platform(&descriptor, image));
    }
    let (_, bytes) = index_of(manifests);
    let index = PushManifest { media_type: MediaType::ImageIndex.to_string(), bytes };
    let unwatched = |_: usize, _: u64, _: u64| {};
    let digest =
        registries.push(name, &index, &[], store.blobs(), options.target, &unwatched).await?;
    Ok(digest)
}

async fn push_image(
    store: &Store,
    registries: &Registries,
    image: &Image,
    name: &ImageName,
    options: &PushOptions,
    progress: PushProgress<'_>,
) -> Result<PushManifest, ExportError> {
    let task = {
        let (store, image, options) = (store.clone(), image.clone(), options.clone());
        tokio::task::spawn_blocking(move || prepare(&store, &image, &options))
    };
    let prepared =
        task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let sources = Arc::new(mount_sources(store, name)?);
    let blobs: Vec<PushBlob> = prepared
        .blobs
        .iter()
        .map(|descriptor| PushBlob {
            descriptor: descriptor.clone(),
            mount_from: digest_of(descriptor).ok().and_then(|digest| sources.get(&digest).cloned()),
        })
        .collect();
    let report = |position: usize, done, all| progress(&prepared.blobs[position], done, all);
    registries
        .push(name, &prepared.manifest, &blobs, store.blobs(), options.target, &report)
        .await?;
    Ok(prepared.manifest)
}

struct Prepared {
    manifest: PushManifest,
    /// Layers and configuration, each once.
    blobs: Vec<Descriptor>,
}

fn prepare(store: &Store, image: &Image, options: &PushOptions) -> Result<Prepared, ExportError> {
    if let Some(manifest) = as_it_came(store, image, options)? {
        let listed = image.manifest.layers().iter().chain([image.manifest.config()]);
        return Ok(Prepared { manifest, blobs: once(listed.cloned()) });
    }
    let mut descriptors = Vec::new();
    for layer in layers(store, image, options.form, &options.there)? {
        descriptors.push(match layer {
            Layer::Blob(descriptor) => descriptor,
            Layer::Packed { descriptor, snapshot } => store_packed(store, &descriptor, &snapshot)?,
        });
    }
    let config = store.blobs().read(&image.config_digest, CONFIG_LIMIT)?;
    let manifest = manifest(&config, descriptors, &options.annotations);
    let listed = manifest.layers().iter().chain([manifest.config()]);
    let blobs = once(listed.cloned());
    let bytes = write_manifest(&manifest);
    let media_type = MediaType::ImageManifest.to_string();
    Ok(Prepared { manifest: PushManifest { media_type, bytes }, blobs })
}

/// The image's own manifest, if every layer it lists is here and in a form to be pushed.
fn as_it_came(
    store: &Store,
    image: &Image,
    options: &PushOptions,
) -> Result<Option<PushManifest>, ExportError> {
    for layer in image.manifest.layers() {
        let plain = document::layer_type(layer.media_type()) == Some(MediaType::ImageLayer);
        let there = digest_of(layer).is_ok_and(|digest| options.there.contains(&digest));
        if plain || !(there || store.blobs().holds(layer)?) {
            return Ok(None);
        }
    }
    if options.form.force
        || !options.annotations.is_empty()
        || !store.blobs().contains(&image.manifest_digest)?
    {
        return Ok(None);
    }
    let bytes = store.blobs().read(&image.manifest_digest, DOCUMENT_LIMIT)?;
    let media_type = image.manifest.media_type().clone().unwrap_or(MediaType::ImageManifest);
    Ok(Some(PushManifest { media_type: media_type.to_string(), bytes }))
}

/// A plain layer is pushed from a blob, so that a broken upload can begin anew.
pub(crate) fn store_packed(
    store: &Store,
    descriptor: &Descriptor,
    snapshot: &cache::snapshot::Snapshot,
) -> Result<Descriptor, ExportError> {
    let digest = digest_of(descriptor).expect("a prepared layer's descriptor has a digest");
    let mut writer = store.blobs().writer()?;
    cache::layer::pack(snapshot, &mut writer).map_err(ExportError::layer(digest))?;
    writer.commit_verified(descriptor)?;
    Ok(descriptor.clone())
}

fn once(descriptors: impl Iterator<Item = Descriptor>) -> Vec<Descriptor> {
    let mut seen = BTreeSet::new();
    descriptors.filter(|blob| seen.insert(blob.digest().to_string())).collect()
}

/// Repositories of the same registry, by the blobs that local images of theirs have.
fn mount_sources(
    store: &Store,
    target: &ImageName,
) -> Result<BTreeMap<Digest, String>, ExportError> {
    let mut sources = BTreeMap::new();
    for row in store.images().list()? {
        let Some(name) = row.name.filter(|name| {
            name.registry() == target.registry() && name.repository() != target.repository()
        }) else {
            continue;
        };
        let Some(image) = store.images().by_manifest(&row.manifest)? else { continue };
        let blobs = image.manifest.layers().iter().filter_map(|layer| digest_of(layer).ok());
        for digest in blobs {
            sources.entry(digest).or_insert_with(|| name.repository().to_owned());
        }
    }
    Ok(sources)
}
