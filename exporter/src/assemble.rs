//! The end of a build: a file tree and a configuration become an image.
//!
//! No layer is packed for this beyond what its DiffId needs, and none is written. Layers that come
//! from the base keep their descriptors, so that pulled layers keep their compressed blobs.

use std::collections::BTreeMap;

use cache::Store;
use cache::bundle::Tree;
use cache::image::Image;
use cache::image::document::{self, write_manifest};
use cache::image::unpack::created;
use cache::oci::{DiffId, Digest, HistoryEntry, ImageConfiguration, MediaType, RootFs};
use cache::snapshot::{LayerDigests, Snapshot};
use jiff::Timestamp;
use oci_spec::image::{Descriptor, ImageManifestBuilder};
use rayon::prelude::*;

use crate::ExportError;

/// What a layer without a step of its own is called in the history; BuildKit's word.
const FILLER: &str = "buildkit.exporter.image.v0";
/// The time of an image that nothing dates.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// What else there is to say about an image.
#[derive(Debug, Clone, Default)]
pub struct AssembleOptions {
    /// `SOURCE_DATE_EPOCH`, in seconds: no time in the image is later than this, and the image
    /// itself is dated so.
    pub source_date_epoch: Option<i64>,
    /// What made a layer that has no entry in the history, if that is known.
    pub unrecorded: Option<String>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// Makes the image and stores it, untagged.
///
/// `config` is what the build says about the image: with the base's history in front, and new
/// entries without `created` unless they are to have a certain one. DiffIds, missing times and
/// missing history entries are filled in here. `rootfs` is the final tree, `None` for an image
/// without layers; computing the digests of new layers is CPU-bound, so call this from a blocking
/// task.
pub fn assemble(
    store: &Store,
    rootfs: Option<&Snapshot>,
    base: Option<&Image>,
    config: ImageConfiguration,
    options: &AssembleOptions,
) -> Result<Image, ExportError> {
    let stack = stack(rootfs);
    // Threads are for hashing; to read a small file of each layer takes less than to start them.
    let digests: Vec<LayerDigests> = if stack.iter().all(|snapshot| snapshot.knows_layer()) {
        stack.iter().map(|snapshot| snapshot.layer()).collect::<Result<_, _>>()?
    } else {
        stack.par_iter().map(|snapshot| snapshot.layer()).collect::<Result<_, _>>()?
    };
    if let Some(rootfs) = rootfs {
        // From now on the image's DiffIds find this tree.
        rootfs.chain()?;
    }
    let layers = stack.iter().zip(&digests).enumerate().map(|(number, (snapshot, digests))| {
        let blob = base_layer(base, number, &digests.diff_id).unwrap_or_else(|| plain(digests));
        (digests.diff_id, snapshot.created(), blob)
    });
    put(store, layers.collect(), config, options)
}

/// As [`assemble`], of a tree that is not here: the manifest lists its layers as they travel. They
/// need not be here either.
pub fn assemble_far(
    store: &Store,
    tree: &Tree,
    base: Option<&Image>,
    config: ImageConfiguration,
    options: &AssembleOptions,
) -> Result<Image, ExportError> {
    let mut layers = Vec::new();
    for (number, (layer, blob)) in tree.layers.iter().enumerate() {
        let blob = match base_layer(base, number, &layer.diff_id) {
            Some(own) if own.digest() == blob.digest() || store.blobs().holds(&own)? => own,
            _ => blob.clone(),
        };
        layers.push((layer.diff_id, layer.created.as_str(), blob));
    }
    put(store, layers, config, options)
}

/// As [`assemble`], of the tree of `base` as it is, which need not be here: the image has the same
/// layers.
pub fn assemble_on(
    store: &Store,
    base: &Image,
    config: ImageConfiguration,
    options: &AssembleOptions,
) -> Result<Image, ExportError> {
    let diff_ids = &base.config.rootfs.diff_ids;
    let times: Vec<String> = (0..diff_ids.len()).map(|number| created(base, number)).collect();
    let listed = base.manifest.layers();
    let layers = diff_ids.iter().zip(listed).zip(&times).enumerate();
    let layers = layers.map(|(number, ((diff_id, listed), time))| {
        let blob = base_layer(Some(base), number, diff_id).unwrap_or_else(|| listed.clone());
        (*diff_id, time.as_str(), blob)
    });
    put(store, layers.collect(), config, options)
}

/// Completes the configuration with these layers, bottom first, and stores the image.
fn put(
    store: &Store,
    layers: Vec<(DiffId, &str, Descriptor)>,
    mut config: ImageConfiguration,
    options: &AssembleOptions,
) -> Result<Image, ExportError> {
    let times: Vec<&str> = layers.iter().map(|(_, created, _)| *created).collect();
    date(&mut config, &times, options.unrecorded.as_deref());
    let diff_ids: Vec<DiffId> = layers.iter().map(|(diff_id, ..)| *diff_id).collect();
    let layers = layers.into_iter().map(|(.., blob)| blob).collect();
    if let Some(epoch) = options.source_date_epoch {
        clamp(&mut config, epoch)?;
    }
    config.rootfs = RootFs { diff_ids, ..RootFs::default() };
    // Leftovers of Docker's classic builder: the container a step ran in.
    for field in ["container", "container_config", "docker_version"] {
        config.extra.remove(field);
    }
    let config = serde_json::to_vec(&config).expect("text keys and plain values always serialise");
    let manifest = manifest(&config, layers, &options.annotations);
    Ok(store.images().put(&write_manifest(&manifest), &config)?)
}

/// A snapshot and all below it, bottom first.
pub(crate) fn stack(rootfs: Option<&Snapshot>) -> Vec<&Snapshot> {
    let mut stack: Vec<_> = std::iter::successors(rootfs, |snapshot| snapshot.parent()).collect();
    stack.reverse();
    stack
}

/// An OCI manifest of a configuration and layers.
pub(crate) fn manifest(
    config: &[u8],
    layers: Vec<Descriptor>,
    annotations: &BTreeMap<String, String>,
) -> oci_spec::image::ImageManifest {
    let config =
        document::descriptor(MediaType::ImageConfig, config.len() as u64, &Digest::of(config));
    let mut manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers)
        .build()
        .expect("every required field is set");
    if !annotations.is_empty() {
        manifest.set_annotations(Some(annotations.clone().into_iter().collect()));
    }
    manifest
}

/// The base's own descriptor of a layer, under its OCI name.
fn base_layer(base: Option<&Image>, number: usize, diff_id: &DiffId) -> Option<Descriptor> {
    let base = base?;
    if base.config.rootfs.diff_ids.get(number) != Some(diff_id) {
        return None;
    }
    let mut descriptor = base.manifest.layers().get(number)?.clone();
    if let MediaType::Other(_) = descriptor.media_type() {
        descriptor.set_media_type(document::layer_type(descriptor.media_type())?);
    }
    Some(descriptor)
}

fn plain(digests: &LayerDigests) -> Descriptor {
    document::descriptor(MediaType::ImageLayer, digests.size, &digests.diff_id.0)
}

/// Brings the history in step with the layers and dates what has no date.
///
/// A layer's entry is from when its snapshot was made. An entry without a layer has the time of the
/// layer before it, or, before the first new layer, of that one: an image's own metadata is not as
/// old as its base.
fn date(config: &mut ImageConfiguration, times: &[&str], unrecorded: Option<&str>) {
    let history = &mut config.history;
    let mut with_layer = 0;
    for entry in history.iter_mut() {
        if entry.empty_layer != Some(true) {
            with_layer += 1;
            if with_layer > times.len() {
                entry.empty_layer = Some(true);
            }
        }
    }
    for time in times.iter().skip(with_layer) {
        history.push(HistoryEntry {
            created: Some((*time).to_owned()),
            created_by: unrecorded.map(str::to_owned),
            comment: Some(FILLER.to_owned()),
            ..HistoryEntry::default()
        });
    }
    let first_new = history.iter().position(|entry| entry.created.is_none());
    let mut layers = times.iter();
    for entry in history.iter_mut().filter(|entry| entry.empty_layer != Some(true)) {
        let time = layers.next();
        if entry.created.is_none() {
            entry.created = time.map(|time| (*time).to_owned());
        }
    }
    let Some(first_new) = first_new else {
        config.created =
            history.last().and_then(|entry| entry.created.clone()).or(config.created.take());
        return;
    };
    let (old, new) = history.split_at_mut(first_new);
    let mut time = new
        .iter()
        .find_map(|entry| entry.created.clone())
        .or_else(|| old.iter().rev().find_map(|entry| entry.created.clone()))
        .unwrap_or_else(|| EPOCH.to_owned());
    for entry in new {
        match &entry.created {
            Some(own) => time.clone_from(own),
            None => entry.created = Some(time.clone()),
        }
    }
    config.created = Some(time);
}

fn clamp(config: &mut ImageConfiguration, epoch: i64) -> Result<(), ExportError> {
    let failed = |text: &str| {
        let text = text.to_owned();
        move |source| ExportError::Time { text, source }
    };
    let epoch = Timestamp::from_second(epoch).map_err(failed(&epoch.to_string()))?;
    for entry in &mut config.history {
        let Some(text) = &entry.created else { continue };
        let time: Timestamp = text.parse().map_err(failed(text))?;
        if time > epoch {
            entry.created = Some(epoch.to_string());
        }
    }
    config.created = Some(epoch.to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "2020-01-01T00:00:00Z";
    const FIRST: &str = "2024-01-01T00:00:01Z";
    const SECOND: &str = "2024-01-01T00:00:02Z";

    /// Entries are written as `layer` or `empty`, with a time where they have one.
    fn check(history: &[(&str, Option<&str>)], times: &[&str], expected: &[(&str, &str)]) {
        let entry = |(kind, created): &(&str, Option<&str>)| HistoryEntry {
            created: created.map(str::to_owned),
            empty_layer: (*kind == "empty").then_some(true),
            ..HistoryEntry::default()
        };
        let mut config = ImageConfiguration {
            history: history.iter().map(entry).collect(),
            ..ImageConfiguration::default()
        };
        date(&mut config, times, None);
        let found: Vec<_> = config
            .history
            .iter()
            .map(|entry| {
                let kind = if entry.empty_layer == Some(true) { "empty" } else { "layer" };
                (kind, entry.created.as_deref().unwrap_or("-"))
            })
            .collect();
        assert_eq!(found, expected);
        assert_eq!(config.created.as_deref(), expected.last().map(|(_, time)| *time));
    }

    #[test]
    fn entries_are_dated_by_their_layers() {
        check(
            &[
                ("layer", Some(OLD)),
                ("empty", None),
                ("layer", None),
                ("empty", None),
                ("layer", None),
            ],
            &[OLD, FIRST, SECOND],
            &[
                ("layer", OLD),
                ("empty", FIRST),
                ("layer", FIRST),
                ("empty", FIRST),
                ("layer", SECOND),
            ],
        );
    }

    #[test]
    fn metadata_alone_is_as_old_as_its_base() {
        check(&[("layer", Some(OLD)), ("empty", None)], &[OLD], &[("layer", OLD), ("empty", OLD)]);
        check(&[("empty", None)], &[], &[("empty", EPOCH)]);
    }

    #[test]
    fn layers_and_history_are_brought_in_step() {
        check(&[("layer", None)], &[FIRST, SECOND], &[("layer", FIRST), ("layer", SECOND)]);
        check(
            &[("layer", None), ("layer", Some(OLD)), ("empty", None)],
            &[FIRST],
            &[("layer", FIRST), ("empty", OLD), ("empty", OLD)],
        );
    }

    #[test]
    fn source_date_epoch_is_the_latest_time() {
        let entry = |created: &str| HistoryEntry {
            created: Some(created.to_owned()),
            ..HistoryEntry::default()
        };
        let mut config = ImageConfiguration {
            history: vec![entry(OLD), entry(SECOND)],
            ..ImageConfiguration::default()
        };
        clamp(&mut config, 1_600_000_000).unwrap();
        let times: Vec<_> = config.history.iter().map(|entry| entry.created.as_deref()).collect();
        assert_eq!(times, [Some(OLD), Some("2020-09-13T12:26:40Z")]);
        assert_eq!(config.created.as_deref(), Some("2020-09-13T12:26:40Z"));
    }
}
