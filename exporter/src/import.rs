//! A root file system becomes an image with one layer.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use cache::Store;
use cache::image::Image;
use cache::image::document::{self, write_manifest};
use cache::image::unpack::unpack_image;
use cache::layer::decompressor;
use cache::oci::{DiffId, HistoryEntry, ImageConfiguration, RootFs};

use crate::ExportError;
use crate::assemble::manifest;
use crate::load::{copy, hash, sniff};

/// Makes an image of a tar archive (plain, gzip or zstd) with a root file system.
///
/// `config` is what the image is to be like, platform included; its layers and history are set
/// here, its `created` is kept and dates the layer. `message` becomes the layer's comment. The
/// archive is unpacked at once, so that one that is broken or hostile makes no image. CPU-bound.
pub fn import(
    store: &Store,
    archive: impl Read + Send + 'static,
    mut config: ImageConfiguration,
    message: Option<&str>,
) -> Result<Image, ExportError> {
    let (start, archive) = sniff(archive)?;
    let mut writer = store.blobs().writer()?;
    copy(archive, &mut writer)?;
    writer.flush().map_err(|source| ExportError::ReadArchive { source })?;
    let (digest, size) = writer.commit()?;
    let media_type = start.media_type();
    let file = store.blobs().open(&digest)?;
    let tar = decompressor(Some(&media_type), file).map_err(ExportError::layer(digest))?;
    let diff_id = DiffId(hash(tar)?);
    let layer = document::descriptor(media_type, size, &digest);
    config.rootfs = RootFs { diff_ids: vec![diff_id], ..RootFs::default() };
    config.history = vec![HistoryEntry {
        created: config.created.clone(),
        comment: Some(message.unwrap_or("Imported from -").to_owned()),
        ..HistoryEntry::default()
    }];
    let config = serde_json::to_vec(&config).expect("text keys and plain values always serialise");
    let bytes = write_manifest(&manifest(&config, vec![layer], &BTreeMap::new()));
    // Before anybody can find the image.
    unpack_image(store, &Image::from_documents(&bytes, &config)?)?;
    Ok(store.images().put(&bytes, &config)?)
}
