//! From an image's layers to a stack of snapshots.
//!
//! Only what is not there yet is unpacked, from the highest layer that is. Layers must be written
//! one after the other, because each is a change of the one below; but reading and decompressing
//! needs no order, so the next layer is inflated while this one is written.

use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::document::digest_of;
use super::{Image, ImageError};
use crate::layer::{LayerError, UnpackLimits, decompressor, unpack};
use crate::oci::{ChainId, Descriptor, DiffId, Digest};
use crate::snapshot::{CommitInfo, Snapshot};
use crate::state::Store;

/// Bytes per block that a decompressor hands over.
const BLOCK: usize = 256 << 10;
/// Blocks a decompressor may be ahead: 8 MiB per layer.
const AHEAD: usize = 32;
/// Layers being inflated at the same time as one is written.
const LAYERS_AHEAD: usize = 2;

/// The layers whose blobs must be fetched before [`unpack_image`] can succeed, bottom first.
///
/// Empty if the image is unpacked already, or everything needed for that is on this machine.
pub fn layers_needed(store: &Store, image: &Image) -> Result<Vec<Descriptor>, ImageError> {
    let (unpacked, _) = highest_unpacked(store, image)?;
    let mut needed = Vec::new();
    for (number, descriptor) in image.manifest.layers().iter().enumerate().skip(unpacked) {
        if layer_blob(store, image, number)?.is_none() {
            needed.push(descriptor.clone());
        }
    }
    Ok(needed)
}

/// The file tree of an image; `None` for an image without layers.
///
/// Unpacks what is not unpacked yet. Every layer is held to its DiffId before its snapshot becomes
/// visible. Blocking and CPU-bound: call it from a blocking task.
pub fn unpack_image(store: &Store, image: &Image) -> Result<Option<Snapshot>, ImageError> {
    let diff_ids = &image.config.rootfs.diff_ids;
    let (first, mut below) = highest_unpacked(store, image)?;
    let mut inflaters = std::collections::VecDeque::new();
    let mut next = first;
    for number in first..diff_ids.len() {
        while next < diff_ids.len() && inflaters.len() < LAYERS_AHEAD {
            inflaters.push_back(inflate(store, image, next)?);
            next += 1;
        }
        let mut tar = inflaters.pop_front().expect("one is ahead of every layer");
        let snapshot = unpack_layer(store, image, number, &mut tar, below.as_ref())?;
        below = Some(snapshot);
    }
    Ok(below)
}

fn unpack_layer(
    store: &Store,
    image: &Image,
    number: usize,
    tar: &mut dyn Read,
    below: Option<&Snapshot>,
) -> Result<Snapshot, ImageError> {
    let diff_ids = &image.config.rootfs.diff_ids;
    let failed = |source| ImageError::Layer {
        image: image.config_digest,
        number: number + 1,
        source: Box::new(source),
    };
    let active = store.snapshots().prepare(below.map(Snapshot::id))?;
    let found = unpack(tar, &active, &UnpackLimits::default()).map_err(failed)?;
    let expected = diff_ids[number];
    if found != expected {
        return Err(ImageError::DiffId {
            image: image.config_digest,
            number: number + 1,
            expected: expected.0,
            found: found.0,
        });
    }
    let created = created(image, number);
    let chain = ChainId::of(&diff_ids[..=number]);
    Ok(active.commit(CommitInfo {
        created,
        chain,
        diff_id: Some(expected),
        ..CommitInfo::default()
    })?)
}

/// How many layers, from the bottom, are unpacked already; and the snapshot of the highest.
fn highest_unpacked(store: &Store, image: &Image) -> Result<(usize, Option<Snapshot>), ImageError> {
    let diff_ids = &image.config.rootfs.diff_ids;
    for count in (1..=diff_ids.len()).rev() {
        let chain = ChainId::of(&diff_ids[..count]).expect("at least one layer");
        if let Some(snapshot) = store.snapshots().unpacked(&chain)? {
            return Ok((count, Some(snapshot)));
        }
    }
    Ok((0, None))
}

/// When a layer was made (from 0, bottom first), by the history; the image's own time where the
/// history is silent.
pub fn created(image: &Image, number: usize) -> String {
    let mut steps = image.config.history.iter().filter(|step| step.empty_layer != Some(true));
    steps
        .nth(number)
        .and_then(|step| step.created.clone())
        .or_else(|| image.config.created.clone())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

fn layer_digest(image: &Image, descriptor: &Descriptor) -> Result<Digest, ImageError> {
    digest_of(descriptor)
        .map_err(|source| ImageError::Manifest { digest: image.manifest_digest, source })
}

/// The blob that holds a layer: the one the manifest names, or another form of it.
pub fn layer_blob(
    store: &Store,
    image: &Image,
    number: usize,
) -> Result<Option<Descriptor>, ImageError> {
    let descriptor = &image.manifest.layers()[number];
    if store.blobs().contains(&layer_digest(image, descriptor)?)? {
        return Ok(Some(descriptor.clone()));
    }
    let diff_id: DiffId = image.config.rootfs.diff_ids[number];
    let forms = store.index().layer_blobs(&diff_id)?;
    for (_, form) in forms {
        if store.blobs().holds(&form)? {
            return Ok(Some(form));
        }
    }
    Ok(None)
}

/// Starts inflating a layer on a thread of its own.
fn inflate(store: &Store, image: &Image, number: usize) -> Result<Inflater, ImageError> {
    let missing = || ImageError::LayerMissing {
        image: image.config_digest,
        number: number + 1,
        digest: layer_digest(image, &image.manifest.layers()[number])
            .unwrap_or(image.manifest_digest),
    };
    let blob = layer_blob(store, image, number)?.ok_or_else(missing)?;
    let file = store.blobs().open(&layer_digest(image, &blob)?)?;
    let media_type = super::document::layer_type(blob.media_type());
    let reader = decompressor(media_type.as_ref(), file).map_err(|source| ImageError::Layer {
        image: image.config_digest,
        number: number + 1,
        source: Box::new(source),
    })?;
    let (sender, receiver) = sync_channel(AHEAD);
    std::thread::Builder::new()
        .name("inflate".to_owned())
        .spawn(move || pump(reader, &sender))
        .map_err(|source| ImageError::Layer {
            image: image.config_digest,
            number: number + 1,
            source: Box::new(LayerError::Read { source }),
        })?;
    Ok(Inflater { blocks: receiver, block: Vec::new(), read: 0, ended: false })
}

/// Ends at the end, at an error, or when nobody listens any more.
fn pump(mut reader: Box<dyn Read + Send>, blocks: &SyncSender<std::io::Result<Vec<u8>>>) {
    loop {
        let mut block = vec![0; BLOCK];
        let mut filled = 0;
        let result = loop {
            match reader.read(&mut block[filled..]) {
                Ok(0) => break Ok(true),
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if filled == BLOCK {
                break Ok(false);
            }
        };
        block.truncate(filled);
        let ended = !matches!(result, Ok(false));
        if filled > 0 && blocks.send(Ok(block)).is_err() {
            return;
        }
        match result {
            // An empty block is the honest end, as opposed to a thread that died.
            Ok(true) => drop(blocks.send(Ok(Vec::new()))),
            Ok(false) => {}
            Err(error) => drop(blocks.send(Err(error))),
        }
        if ended {
            return;
        }
    }
}

/// The reading end of an inflating thread.
struct Inflater {
    blocks: Receiver<std::io::Result<Vec<u8>>>,
    block: Vec<u8>,
    read: usize,
    ended: bool,
}

impl Read for Inflater {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.read == self.block.len() {
            if self.ended {
                return Ok(0);
            }
            let dead = || std::io::Error::other("the decompressing thread died");
            self.block = self.blocks.recv().map_err(|_| dead())??;
            self.read = 0;
            self.ended = self.block.is_empty();
        }
        let count = buffer.len().min(self.block.len() - self.read);
        buffer[..count].copy_from_slice(&self.block[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}
