//! Cache mounts as blobs, and back.
//!
//! A mount travels as one tar, cut into [segments](super::segments): of a mount that changed, only
//! those are compressed and sent in which something changed. Coming in, it is unpacked beside and renamed; a mount that is here already is newer
//! than any bundle, and stays as it is.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::BundleError;
use super::document::{Blob, MAX_SEGMENTS, MOUNT_TYPE, Mount};
use super::segments::Segments;
use crate::error::LayerError;
use crate::image::document::descriptor;
use crate::layer::{Compression, UnpackLimits, compress, decompressor, pack_directory, unpack};
use crate::lock::{LockMode, open_lock_file, try_lock};
use crate::oci::{DiffId, Digest, MediaType};
use crate::state::{Store, file_error, is_there};

/// Cache mounts hold what package managers compressed already.
const COMPRESSION: Compression = Compression::Zstd(3);
/// What the index calls a segment that is compressed so.
const SEGMENT_KIND: &str = "cache mount zstd-3";

/// What became of the mounts of a store.
#[derive(Debug, Default)]
pub struct PackedMounts {
    /// Those whose blobs are in the store now.
    pub mounts: Vec<Mount>,
    /// The ids of those that a step works in, or that cannot be read, and why.
    pub left_out: Vec<(String, String)>,
}

/// Packs every cache mount that nobody has for himself just now. Reads all of them: call it from a
/// blocking task.
pub fn pack_mounts(store: &Store) -> Result<PackedMounts, BundleError> {
    let base = store.cache_mounts_dir();
    let mut names = Vec::new();
    for entry in fs_err::read_dir(&base).map_err(file_error("list", &base))? {
        let name = entry.map_err(file_error("list", &base))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if super::document::is_mount_name(&name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    let mut packed = PackedMounts::default();
    for name in names {
        let dir = base.join(&name);
        let data = dir.join("data");
        let id = dir.join("id");
        let id = match fs_err::read_to_string(&id) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(file_error("read", &id)(source).into()),
        };
        if !is_there(&data)? {
            continue;
        }
        let path = dir.join("lock");
        let lock = open_lock_file(&path)?;
        if !try_lock(&lock, &path, LockMode::Shared)? {
            packed.left_out.push((id, "a step works in it".to_owned()));
            continue;
        }
        match pack_mount(store, &name, &id, &data) {
            Ok(mount) => packed.mounts.push(mount),
            // Files may go away under our hands where others share it.
            Err(error) => packed.left_out.push((id, error.to_string())),
        }
    }
    Ok(packed)
}

fn pack_mount(store: &Store, name: &str, id: &str, data: &Path) -> Result<Mount, BundleError> {
    let failed = |source| BundleError::Layer { source: Box::new(source) };
    let metadata = fs_err::metadata(data).map_err(file_error("read", data))?;
    let (reader, mut pipe) = std::io::pipe().map_err(file_error("make a pipe for", data))?;
    let (segments, found) = std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let packed = pack_directory(data, &mut pipe);
            let _ = pipe.flush();
            packed
        });
        // It takes the reader along when it ends: a packer that still writes fails then.
        let segments = pack_segments(store, Segments::new(reader));
        let packed = packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let segments = segments?;
        packed.map_err(failed).map(|packed| (segments, packed))
    })?;
    Ok(Mount {
        name: name.to_owned(),
        id: id.to_owned(),
        diff_id: found.diff_id,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mode: metadata.mode() & 0o7777,
        segments,
    })
}

/// The blobs of segments. What was compressed once is not compressed again.
fn pack_segments(
    store: &Store,
    mut segments: Segments<impl Read>,
) -> Result<Vec<Blob>, BundleError> {
    let failed = |source| BundleError::Layer { source: Box::new(source) };
    let mut blobs = Vec::new();
    let mut segment = Vec::new();
    while segments.next(&mut segment).map_err(|source| failed(LayerError::Read { source }))? {
        if blobs.len() == MAX_SEGMENTS {
            let reason = format!("it has more than {MAX_SEGMENTS} segments");
            return Err(BundleError::Refused { reason });
        }
        let plain = DiffId(Digest::of(&segment));
        let known = store.index().layer_blob(&plain, SEGMENT_KIND)?;
        let blob = match known {
            Some(blob) if store.blobs().holds(&blob)? => blob,
            _ => {
                let mut writer = store.blobs().writer()?;
                compress(COMPRESSION, &mut segment.as_slice(), &mut writer).map_err(failed)?;
                let (digest, size) = writer.commit()?;
                let blob = descriptor(MediaType::from(MOUNT_TYPE), size, &digest);
                store.index().put_layer_blob(&plain, SEGMENT_KIND, &blob)?;
                blob
            }
        };
        blobs.push(Blob::of(&blob)?);
    }
    Ok(blobs)
}

/// Whether a cache mount of this name has to be fetched: there is none yet.
pub fn wants_mount(store: &Store, mount: &Mount) -> Result<bool, BundleError> {
    Ok(!is_there(&store.cache_mounts_dir().join(&mount.name).join("data"))?)
}

/// Makes a cache mount of its segments, which must be in the store. `false` if a step was faster.
/// Blocking.
pub fn unpack_mount(store: &Store, mount: &Mount) -> Result<bool, BundleError> {
    let failed = |source| BundleError::Layer { source: Box::new(source) };
    let segments = Joined { store: store.clone(), open: None, rest: mount.segments.clone() };
    let mut tar = decompressor(Some(&MediaType::ImageLayerZstd), segments).map_err(failed)?;
    let active = store.snapshots().prepare(None)?;
    let found = unpack(&mut tar, &active, &UnpackLimits::default()).map_err(failed)?;
    if found != mount.diff_id {
        return Err(BundleError::DiffId { expected: mount.diff_id.0, found: found.0 });
    }
    let root = active.upper();
    let mode = std::fs::Permissions::from_mode(mount.mode & 0o7777);
    fs_err::set_permissions(root, mode).map_err(file_error("change the mode of", root))?;
    let metadata = fs_err::metadata(root).map_err(file_error("read", root))?;
    if (metadata.uid(), metadata.gid()) != (mount.uid, mount.gid) {
        // With a single id there is nobody else to give it to.
        let _ = std::os::unix::fs::chown(root, Some(mount.uid), Some(mount.gid));
    }
    let dir = store.cache_mounts_dir().join(&mount.name);
    fs_err::create_dir_all(&dir).map_err(file_error("make", &dir))?;
    let path = dir.join("lock");
    let lock = open_lock_file(&path)?;
    let data = dir.join("data");
    if !try_lock(&lock, &path, LockMode::Exclusive)? || is_there(&data)? {
        return Ok(false);
    }
    let id = dir.join("id");
    fs_err::write(&id, &mount.id).map_err(file_error("write", &id))?;
    fs_err::rename(root, &data).map_err(file_error("make", &data))?;
    Ok(true)
}

/// The segments of a mount one after the other: frames of zstd are one stream.
struct Joined {
    store: Store,
    open: Option<fs_err::File>,
    rest: Vec<Blob>,
}

impl Read for Joined {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if let Some(file) = &mut self.open {
                match file.read(buffer)? {
                    0 if !buffer.is_empty() => self.open = None,
                    read => return Ok(read),
                }
            }
            if self.rest.is_empty() {
                return Ok(0);
            }
            let next = self.rest.remove(0);
            let file = self.store.blobs().open(&next.digest);
            self.open = Some(file.map_err(std::io::Error::other)?);
        }
    }
}
