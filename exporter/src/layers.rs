//! An image's layers, in the form somebody asks for.
//!
//! A layer is a blob that was pulled or loaded, a blob it was compressed to before, or the changes
//! of a snapshot. Compressing costs the most of a push, so its result is kept: the index remembers
//! which blob a DiffId became in which form.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use cache::Store;
use cache::image::Image;
use cache::image::document::{self, digest_of, layer_type};
use cache::image::unpack::layer_blob;
use cache::layer::{Compression, compress, decompressor, pack};
use cache::oci::{ChainId, Descriptor, DiffId, Digest, MediaType};
use cache::snapshot::{LayerDigests, Snapshot};

use crate::ExportError;
use crate::stop::Stop;

/// In which form layers leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerForm {
    /// How layers are compressed that are not compressed yet.
    pub compression: Compression,
    /// Whether layers that came compressed in another way are compressed anew.
    pub force: bool,
}

impl Default for LayerForm {
    fn default() -> Self {
        LayerForm { compression: Compression::Gzip(6), force: false }
    }
}

impl LayerForm {
    pub(crate) fn media_type(&self) -> MediaType {
        match self.compression {
            Compression::None => MediaType::ImageLayer,
            Compression::Gzip(_) => MediaType::ImageLayerGzip,
            Compression::Zstd(_) => MediaType::ImageLayerZstd,
        }
    }

    pub(crate) fn kind(&self) -> String {
        match self.compression {
            Compression::None => "tar".to_owned(),
            Compression::Gzip(level) => format!("gzip-{level}"),
            Compression::Zstd(level) => format!("zstd-{level}"),
        }
    }
}

/// One layer, ready to leave.
#[derive(Debug, Clone)]
pub(crate) enum Layer {
    /// A blob of the store.
    Blob(Descriptor),
    /// The changes of a snapshot, uncompressed: packed on the way.
    Packed { descriptor: Descriptor, snapshot: Snapshot },
}

impl Layer {
    pub(crate) fn descriptor(&self) -> &Descriptor {
        match self {
            Layer::Blob(descriptor) | Layer::Packed { descriptor, .. } => descriptor,
        }
    }
}

/// Where the content of a layer is now.
pub(crate) enum Source {
    Blob(Box<Descriptor>),
    Snapshot(Snapshot, LayerDigests),
}

/// The layers of an image in the wanted form, bottom first. Compresses what is not there in this
/// form, several layers at the same time; CPU-bound. Blobs of `elsewhere` are as good as here where
/// they are taken as they are.
pub(crate) fn layers(
    store: &Store,
    image: &Image,
    form: LayerForm,
    elsewhere: &BTreeSet<Digest>,
) -> Result<Vec<Layer>, ExportError> {
    // Threads of their own, not the pool's: they wait for pipes, and the pool is what compresses.
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let mut open =
        sources(store, image, elsewhere)?.into_iter().zip(&image.config.rootfs.diff_ids).peekable();
    let mut layers = Vec::new();
    while open.peek().is_some() {
        let done: Vec<Result<Layer, ExportError>> = std::thread::scope(|scope| {
            let started: Vec<_> = open
                .by_ref()
                .take(at_once)
                .map(|(source, diff_id)| {
                    scope.spawn(move || in_form(store, source, *diff_id, form, &Stop::default()))
                })
                .collect();
            let joined = started.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            joined.collect()
        });
        layers.extend(done.into_iter().collect::<Result<Vec<_>, _>>()?);
    }
    Ok(layers)
}

fn sources(
    store: &Store,
    image: &Image,
    elsewhere: &BTreeSet<Digest>,
) -> Result<Vec<Source>, ExportError> {
    let diff_ids = &image.config.rootfs.diff_ids;
    // The snapshots are looked up at most once, and only if a blob is missing.
    let mut stack: Option<Vec<Snapshot>> = None;
    let mut sources = Vec::with_capacity(diff_ids.len());
    for number in 0..diff_ids.len() {
        if let Some(blob) = layer_blob(store, image, number)? {
            sources.push(Source::Blob(Box::new(blob)));
            continue;
        }
        let listed = &image.manifest.layers()[number];
        if digest_of(listed).is_ok_and(|digest| elsewhere.contains(&digest)) {
            sources.push(Source::Blob(Box::new(listed.clone())));
            continue;
        }
        if stack.is_none() {
            stack = Some(unpacked(store, diff_ids)?);
        }
        let snapshot = stack.as_ref().and_then(|stack| stack.get(number));
        let Some(snapshot) = snapshot else {
            let descriptor = &image.manifest.layers()[number];
            return Err(ExportError::LayerMissing {
                image: image.config_digest,
                number: number + 1,
                digest: digest_of(descriptor).unwrap_or(diff_ids[number].0),
            });
        };
        sources.push(Source::Snapshot(snapshot.clone(), snapshot.layer()?));
    }
    Ok(sources)
}

/// The snapshots of the highest stack that is unpacked, bottom first.
fn unpacked(store: &Store, diff_ids: &[DiffId]) -> Result<Vec<Snapshot>, ExportError> {
    for count in (1..=diff_ids.len()).rev() {
        let chain = ChainId::of(&diff_ids[..count]).expect("at least one layer");
        if let Some(top) = store.snapshots().unpacked(&chain)? {
            let stack = crate::assemble::stack(Some(&top));
            return Ok(stack.into_iter().cloned().collect());
        }
    }
    Ok(Vec::new())
}

pub(crate) fn in_form(
    store: &Store,
    source: Source,
    diff_id: DiffId,
    form: LayerForm,
    stop: &Stop,
) -> Result<Layer, ExportError> {
    if let Source::Blob(blob) = &source {
        let own = layer_type(blob.media_type()).unwrap_or_else(|| blob.media_type().clone());
        let compressed = own != MediaType::ImageLayer;
        if own == form.media_type() || (compressed && !form.force) {
            let mut descriptor =
                document::descriptor(own, blob.size(), &blob_digest(blob, diff_id)?);
            descriptor.set_urls(blob.urls().clone());
            return Ok(Layer::Blob(descriptor));
        }
    }
    if let Some(known) = store.index().layer_blob(&diff_id, &form.kind())?
        && store.blobs().contains(&blob_digest(&known, diff_id)?)?
    {
        return Ok(Layer::Blob(known));
    }
    if let (Source::Snapshot(snapshot, digests), Compression::None) = (&source, form.compression) {
        if digests.diff_id != diff_id {
            return Err(ExportError::DiffId { expected: diff_id.0, found: digests.diff_id.0 });
        }
        let descriptor = document::descriptor(MediaType::ImageLayer, digests.size, &diff_id.0);
        return Ok(Layer::Packed { descriptor, snapshot: snapshot.clone() });
    }
    let mut writer = store.blobs().writer()?;
    let mut out = stop.guard(&mut writer);
    compress_source(store, source, diff_id, form.compression, &mut out)?;
    let (digest, size) = writer.commit()?;
    let descriptor = document::descriptor(form.media_type(), size, &digest);
    store.index().put_layer_blob(&diff_id, &form.kind(), &descriptor)?;
    Ok(Layer::Blob(descriptor))
}

fn compress_source(
    store: &Store,
    source: Source,
    diff_id: DiffId,
    compression: Compression,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    match source {
        Source::Blob(blob) => {
            let mut tar = open(store, &blob, diff_id)?;
            compress(compression, &mut tar, out).map_err(ExportError::layer(diff_id.0))
        }
        Source::Snapshot(snapshot, _) => {
            let pipe = |source| ExportError::Layer {
                digest: diff_id.0,
                source: Box::new(cache::LayerError::Read { source }),
            };
            let (mut reader, mut writer) = std::io::pipe().map_err(pipe)?;
            std::thread::scope(|scope| {
                let packing = scope.spawn(move || pack(&snapshot, &mut writer));
                let compressed = compress(compression, &mut reader, out);
                // Lets a packer that is still writing fail instead of wait.
                drop(reader);
                let packed =
                    packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                compressed.map_err(ExportError::layer(diff_id.0))?;
                let found = packed.map_err(ExportError::layer(diff_id.0))?.diff_id;
                if found != diff_id {
                    return Err(ExportError::DiffId { expected: diff_id.0, found: found.0 });
                }
                Ok(())
            })
        }
    }
}

/// The uncompressed layer of a blob.
pub(crate) fn open(
    store: &Store,
    blob: &Descriptor,
    diff_id: DiffId,
) -> Result<Box<dyn Read + Send>, ExportError> {
    let file = store.blobs().open(&blob_digest(blob, diff_id)?)?;
    decompressor(layer_type(blob.media_type()).as_ref(), file)
        .map_err(ExportError::layer(diff_id.0))
}

fn blob_digest(blob: &Descriptor, layer: DiffId) -> Result<Digest, ExportError> {
    digest_of(blob).map_err(|source| ExportError::Document { digest: layer.0, source })
}
