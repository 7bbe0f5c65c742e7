//! The name table: `content/index.json`.
//!
//! One descriptor per name and platform, so that any tool that reads OCI layouts finds the images
//! under their full names. What no tool but ours asks for lives in further annotations: the digest
//! of the configuration (the image's id, so that a lookup by id opens no manifest), the digest of
//! the index the image was pulled through, and the repositories that have those of its layers which
//! were never fetched.
//!
//! Readers take no lock: the file is only ever replaced whole. Writers hold an exclusive `flock` on
//! the `content` directory itself, which needs no file of its own.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oci_spec::image::{Descriptor, ImageIndex, ImageIndexBuilder, MediaType};

use super::document::{self, digest_of};
use super::{Image, ImageError};
use crate::lock::{LockMode, lock_within};
use crate::oci::{Digest, ImageName, Platform};

/// The name as `skopeo` and `podman` look for it.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The name as containerd writes it.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const CONFIG: &str = "io.strake.image.config";
const INDEX: &str = "io.strake.image.index";
/// Repositories, with a space between them.
const PLACES: &str = "io.strake.image.places";

/// Writers hold the lock for a few milliseconds; who waits longer than this sits behind a stopped
/// process.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// A table of this many bytes holds some 100,000 names.
const TABLE_LIMIT: u64 = 64 << 20;

/// One row: an image, and the name and platform it is known under.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) name: Option<ImageName>,
    pub(super) platform: Platform,
    pub(super) manifest: Digest,
    pub(super) config: Digest,
    pub(super) index: Option<Digest>,
    /// Repositories that have its layers.
    pub(super) places: Vec<ImageName>,
    descriptor: Descriptor,
}

impl Entry {
    pub(super) fn new(image: &Image, size: u64) -> Entry {
        let media_type = image.manifest.media_type().clone().unwrap_or(MediaType::ImageManifest);
        Entry {
            name: None,
            platform: platform_of(image),
            manifest: image.manifest_digest,
            config: image.config_digest,
            index: None,
            places: Vec::new(),
            descriptor: document::descriptor(media_type, size, &image.manifest_digest),
        }
    }

    /// Whether a lookup of `name` means this row. A digest decides alone; the tag beside it is
    /// decoration, as it is for Docker.
    pub(super) fn is_named(&self, name: &ImageName) -> bool {
        let Some(own) = &self.name else { return false };
        match name.digest() {
            Some(digest) => {
                own.registry() == name.registry()
                    && own.repository() == name.repository()
                    && (self.manifest == *digest || self.index == Some(*digest))
            }
            None => own == name,
        }
    }

    fn read(descriptor: &Descriptor) -> Option<Entry> {
        let annotation = |key| descriptor.annotations().as_ref()?.get(key).map(String::as_str);
        let platform = descriptor.platform().as_ref()?;
        Some(Entry {
            name: annotation(REF_NAME).and_then(|name| name.parse().ok()),
            platform: Platform {
                os: platform.os().to_string(),
                architecture: platform.architecture().to_string(),
                variant: platform.variant().clone(),
                os_version: platform.os_version().clone(),
            },
            manifest: digest_of(descriptor).ok()?,
            config: annotation(CONFIG)?.parse().ok()?,
            index: annotation(INDEX).and_then(|digest| digest.parse().ok()),
            places: annotation(PLACES)
                .into_iter()
                .flat_map(|places| places.split(' '))
                .filter_map(|place| place.parse::<ImageName>().ok())
                .map(|place| place.without_reference())
                .collect(),
            descriptor: descriptor.clone(),
        })
    }

    fn write(&self) -> Descriptor {
        let mut annotations = HashMap::from([(CONFIG.to_owned(), self.config.to_string())]);
        if let Some(name) = &self.name {
            annotations.insert(REF_NAME.to_owned(), name.to_string());
            annotations.insert(CONTAINERD_NAME.to_owned(), name.to_string());
        }
        if let Some(index) = &self.index {
            annotations.insert(INDEX.to_owned(), index.to_string());
        }
        if !self.places.is_empty() {
            let places: Vec<String> = self.places.iter().map(ToString::to_string).collect();
            annotations.insert(PLACES.to_owned(), places.join(" "));
        }
        let mut platform = oci_spec::image::Platform::default();
        platform.set_os(self.platform.os.as_str().into());
        platform.set_architecture(self.platform.architecture.as_str().into());
        platform.set_variant(self.platform.variant.clone());
        platform.set_os_version(self.platform.os_version.clone());
        let mut descriptor = self.descriptor.clone();
        descriptor.set_annotations(Some(annotations));
        descriptor.set_platform(Some(platform));
        descriptor
    }
}

/// The platform an image's configuration says it is for.
pub(super) fn platform_of(image: &Image) -> Platform {
    image.config.platform()
}

/// The file, and what was read from it last.
#[derive(Debug)]
pub(super) struct NameTable {
    content: PathBuf,
    read: Mutex<Option<(Stamp, Arc<Rows>)>>,
}

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rows {
    /// Our rows, in the order of the file.
    pub(super) entries: Vec<Entry>,
    /// Rows another tool wrote, which are kept as they are.
    foreign: Vec<Descriptor>,
}

impl Rows {
    /// The manifests that foreign rows name.
    pub(super) fn foreign_roots(&self) -> impl Iterator<Item = Digest> {
        self.foreign.iter().filter_map(|descriptor| digest_of(descriptor).ok())
    }
}

/// Tells one version of the file from the next: every write makes a new inode.
type Stamp = (u64, u64, i64, i64);

impl NameTable {
    pub(super) fn new(content: PathBuf) -> NameTable {
        NameTable { content, read: Mutex::new(None) }
    }

    fn path(&self) -> PathBuf {
        self.content.join("index.json")
    }

    /// The rows of the file; none if there is no file yet.
    pub(super) fn rows(&self) -> Result<Arc<Rows>, ImageError> {
        let path = self.path();
        let failed = |source| ImageError::NameTable { path: path.clone(), source };
        let file = match fs_err::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        let stamp = stamp(&metadata);
        let mut read = self.read.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((known, rows)) = &*read
            && *known == stamp
        {
            return Ok(rows.clone());
        }
        let bytes = read_limited(file, metadata.len()).map_err(failed)?;
        let index: ImageIndex = serde_json::from_slice(&bytes)
            .map_err(|source| ImageError::MalformedNameTable { path: path.clone(), source })?;
        let mut rows = Rows::default();
        for descriptor in index.manifests() {
            match Entry::read(descriptor) {
                Some(entry) => rows.entries.push(entry),
                None => rows.foreign.push(descriptor.clone()),
            }
        }
        let rows = Arc::new(rows);
        *read = Some((stamp, rows.clone()));
        Ok(rows)
    }

    /// Changes the rows while no other process does. Nothing is written if `change` fails or
    /// changes nothing.
    pub(super) fn update<T>(
        &self,
        change: impl FnOnce(&mut Vec<Entry>) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let _lock = lock(&self.content)?;
        let before = self.rows()?;
        let mut rows = Rows::clone(&before);
        let answer = change(&mut rows.entries)?;
        if rows != *before || !self.path().exists() {
            self.replace(&rows)?;
        }
        Ok(answer)
    }

    fn replace(&self, rows: &Rows) -> Result<(), ImageError> {
        let path = self.path();
        let failed = |source| ImageError::NameTable { path: path.clone(), source };
        let index = ImageIndexBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageIndex)
            .manifests(
                rows.entries
                    .iter()
                    .map(Entry::write)
                    .chain(rows.foreign.iter().cloned())
                    .collect::<Vec<_>>(),
            )
            .build()
            .expect("every required field is set");
        let temporary = self.content.join(format!(".index.json.{}", std::process::id()));
        let mut file = fs_err::File::create(&temporary).map_err(failed)?;
        file.write_all(&document::write_index(&index))
            // A table that a power cut leaves empty would lose every name.
            .and_then(|()| file.sync_data())
            .and_then(|()| fs_err::rename(&temporary, &path))
            .map_err(|error| {
                let _ = fs_err::remove_file(&temporary);
                failed(error)
            })
    }
}

fn read_limited(file: fs_err::File, length: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    if length > TABLE_LIMIT {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "larger than 64 MiB"));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(TABLE_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// Takes the writers' lock; it is released when the file is closed, however the process ends.
pub(super) fn lock(content: &Path) -> Result<std::fs::File, ImageError> {
    let failed = |source| ImageError::NameTable { path: content.to_owned(), source };
    let directory = fs_err::File::open(content).map_err(failed)?.into_parts().0;
    match lock_within(&directory, content, LockMode::Exclusive, LOCK_PATIENCE)? {
        true => Ok(directory),
        false => Err(ImageError::Locked { path: content.to_owned() }),
    }
}
