//! What images, kept containers and volumes occupy: what is never cache.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::usage::{Links, Usage};
use super::{GcError, Object, Survey};
use crate::image::NamedImage;
use crate::image::document::digest_of;
use crate::oci::Digest;
use crate::snapshot::SnapshotId;
use crate::state::{Store, StoreError, file_error};

/// An image with what it occupies, in bytes of disk.
#[derive(Clone, Debug)]
pub struct ImageUsage {
    /// The image, under one of its names.
    pub image: NamedImage,
    /// Its trees and blobs.
    pub size: u64,
    /// What of it other images have as well.
    pub shared: u64,
    /// What it has, for [`images_size`].
    objects: BTreeMap<Object, u64>,
}

/// A directory of the user's in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeUsage {
    /// Its name.
    pub name: String,
    /// Bytes of disk.
    pub size: u64,
}

/// Every image, a row for each name. `survey` has the sizes of the trees.
pub fn image_usage(store: &Store, survey: &Survey) -> Result<Vec<ImageUsage>, GcError> {
    let sizes: BTreeMap<SnapshotId, (u64, Option<SnapshotId>)> = survey
        .entries
        .iter()
        .filter_map(|entry| match entry.object {
            Object::Snapshot(id) => Some((id, (entry.size, entry.parent))),
            _ => None,
        })
        .collect();
    let mut images = Vec::new();
    for row in store.images().list()? {
        let mut objects = BTreeMap::new();
        let mut blobs = vec![row.manifest];
        blobs.extend(row.index);
        if let Some(image) = store.images().by_manifest(&row.manifest)? {
            let descriptors = image.manifest.layers().iter().chain([image.manifest.config()]);
            blobs.extend(descriptors.filter_map(|blob| digest_of(blob).ok()));
            let mut next = super::survey::unpacked_tree(store, &image)?.map(|(id, _)| id);
            while let Some(id) = next {
                let (size, parent) = sizes.get(&id).copied().unwrap_or_default();
                // A damaged `info` could lead in a circle.
                let is_new = objects.insert(Object::Snapshot(id), size).is_none();
                next = parent.filter(|_| is_new);
            }
        }
        for digest in blobs {
            objects.insert(Object::Blob(digest), blob_size(store, &digest)?);
        }
        let size = objects.values().sum();
        images.push(ImageUsage { image: row, size, shared: 0, objects });
    }
    // Names of one image do not share it.
    let mut owners: BTreeMap<Object, BTreeSet<Digest>> = BTreeMap::new();
    for usage in &images {
        for object in usage.objects.keys() {
            owners.entry(object.clone()).or_default().insert(usage.image.id);
        }
    }
    for usage in &mut images {
        let common = usage.objects.iter().filter(|(object, _)| owners[*object].len() > 1);
        usage.shared = common.map(|(_, size)| size).sum();
    }
    Ok(images)
}

/// What these images occupy together, everything counted once.
pub fn images_size<'a>(images: impl Iterator<Item = &'a ImageUsage>) -> u64 {
    let objects: BTreeMap<&Object, u64> = images
        .flat_map(|usage| usage.objects.iter().map(|(object, size)| (object, *size)))
        .collect();
    objects.values().sum()
}

/// What the changes of a kept container occupy.
pub fn kept_size(store: &Store, id: &SnapshotId) -> Result<u64, GcError> {
    Ok(size_of(store.snapshots().directory(id))?)
}

/// The volumes, by name.
pub fn volumes(store: &Store) -> Result<Vec<VolumeUsage>, GcError> {
    let dir = store.volumes_dir();
    let mut volumes = Vec::new();
    for entry in fs_err::read_dir(&dir).map_err(file_error("list", &dir))? {
        let entry = entry.map_err(file_error("list", &dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        volumes.push(VolumeUsage { name, size: size_of(entry.path())? });
    }
    volumes.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(volumes)
}

fn blob_size(store: &Store, digest: &Digest) -> Result<u64, StoreError> {
    size_of(store.blobs().path(digest))
}

/// Bytes of disk of everything at `path`; nothing if it is not there.
fn size_of(path: PathBuf) -> Result<u64, StoreError> {
    let mut links = Links::default();
    let usage = Usage::of(vec![path], &mut links)?;
    Ok(links.count(&usage))
}
