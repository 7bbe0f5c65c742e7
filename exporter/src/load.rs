//! Archives of images come in: what `docker save`, `podman save`, `skopeo copy` and we write.
//!
//! An archive is read once, from front to back, because it may come through a pipe. Blobs go to the
//! store as they pass, each held to the digest in its name; the few documents that say what they
//! are stay in memory until the end. Names in an archive are only ever compared, never opened, so
//! there is nowhere to escape to.
//!
//! An image becomes visible when everything it refers to is there and every layer is what its
//! configuration says it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;

use cache::Store;
use cache::image::document::{
    self, CONFIG_LIMIT, DOCUMENT_LIMIT, digest_of, digest_of_reader, write_manifest,
};
use cache::image::{Document, Image};
use cache::layer::decompressor;
use cache::oci::{Descriptor, DiffId, Digest, ImageConfiguration, ImageName, MediaType};
use serde::Deserialize;

use crate::ExportError;
use crate::assemble::manifest;

/// The most files an archive may have; a large one has some hundreds.
const ENTRIES: usize = 100_000;
/// The most that is kept in memory of documents, in bytes.
const DOCUMENTS: usize = 64 << 20;

/// An image that was loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image, now in the store.
    pub image: Image,
    /// The names the archive has for it. They are given in the store already.
    pub names: Vec<ImageName>,
}

/// Loads whatever stands at a path: an archive, or a directory with an OCI layout.
pub fn load_path(store: &Store, path: &Path) -> Result<Vec<Loaded>, ExportError> {
    let failed = |source| ExportError::Read { path: path.to_owned(), source };
    if fs_err::metadata(path).map_err(failed)?.is_dir() {
        return load_directory(store, path);
    }
    load_archive(store, fs_err::File::open(path).map_err(failed)?)
}

/// Loads the images of a docker archive or an OCI layout archive: tar, plain or compressed with
/// gzip or zstd. CPU-bound.
pub fn load_archive(
    store: &Store,
    archive: impl Read + Send + 'static,
) -> Result<Vec<Loaded>, ExportError> {
    let (start, archive) = sniff(archive)?;
    let tar = decompressor(Some(&start.media_type()), archive)
        .map_err(|source| ExportError::ReadArchive { source: std::io::Error::other(source) })?;
    let contents = read_archive(store, tar)?;
    finish(store, &contents)
}

/// Loads the images of a directory with an OCI layout.
pub fn load_directory(store: &Store, directory: &Path) -> Result<Vec<Loaded>, ExportError> {
    finish(store, &read_directory(store, directory)?)
}

/// Brings images of a directory with an OCI layout into the store without giving them the names
/// they have there: all platforms of what `tag` (`org.opencontainers.image.ref.name`, or the tag of
/// a full name there) and `digest` (of a manifest or an index) leave. Empty if that is nothing.
pub fn load_layout(
    store: &Store,
    directory: &Path,
    tag: Option<&str>,
    digest: Option<&Digest>,
) -> Result<Vec<Image>, ExportError> {
    let contents = read_directory(store, directory)?;
    let Some(bytes) = contents.documents.get("index.json") else {
        let reason = "there is no index.json of an OCI layout in it".to_owned();
        return Err(ExportError::NotAnArchive { reason });
    };
    let Document::Index(index) =
        Document::parse(bytes, None).map_err(|error| bad("index.json", &error.to_string()))?
    else {
        return Err(bad("index.json", "it is no index"));
    };
    let mut images: Vec<Image> = Vec::new();
    let mut checked = BTreeSet::new();
    for entry in index.manifests() {
        if tag.is_some_and(|tag| !is_tagged(entry, tag)) {
            continue;
        }
        for (manifest, index) in manifests(store, entry)? {
            let own = document_digest(&manifest)?;
            if digest.is_some_and(|wanted| own != *wanted && index != Some(*wanted))
                || images.iter().any(|image| image.manifest_digest == own)
            {
                continue;
            }
            images.extend(layout_image(store, &manifest, &mut checked)?);
        }
    }
    Ok(images)
}

fn is_tagged(entry: &Descriptor, tag: &str) -> bool {
    let name = entry
        .annotations()
        .as_ref()
        .and_then(|annotations| annotations.get("org.opencontainers.image.ref.name"));
    name.is_some_and(|name| name == tag || name.rsplit_once(':').is_some_and(|(_, own)| own == tag))
}

fn read_directory(store: &Store, directory: &Path) -> Result<Contents, ExportError> {
    let mut contents = Contents::default();
    for name in ["oci-layout", "index.json", "manifest.json"] {
        let path = directory.join(name);
        match fs_err::File::open(&path) {
            Ok(file) => contents.keep(name.to_owned(), file)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(ExportError::Read { path, source }),
        }
    }
    let blobs = directory.join("blobs/sha256");
    let failed = |source| ExportError::Read { path: blobs.clone(), source };
    let listing = match fs_err::read_dir(&blobs) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(contents);
        }
        listing => listing.map_err(failed)?,
    };
    for entry in listing.take(ENTRIES) {
        let entry = entry.map_err(failed)?;
        let name = format!("blobs/sha256/{}", entry.file_name().to_string_lossy());
        let Some(digest) = blob_name(&name) else { continue };
        // A link of the layout is followed: its bytes have to have the digest all the same.
        let file = fs_err::File::open(entry.path())
            .map_err(|source| ExportError::Read { path: entry.path(), source })?;
        let size = file.metadata().map_err(failed)?.len();
        contents.store_verified(store, name, &digest, size, file)?;
    }
    Ok(contents)
}

/// What an archive turned out to hold.
#[derive(Default)]
struct Contents {
    /// Documents by name, normalised.
    documents: BTreeMap<String, Vec<u8>>,
    /// Files that are blobs of the store now, by name.
    blobs: BTreeMap<String, (Digest, u64)>,
    /// Links by name, as old versions of `docker save` make for layers that occur twice.
    links: BTreeMap<String, String>,
}

impl Contents {
    fn keep(&mut self, name: String, file: impl Read) -> Result<(), ExportError> {
        let mut bytes = Vec::new();
        let limit = DOCUMENT_LIMIT.max(CONFIG_LIMIT);
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| ExportError::ReadArchive { source })?;
        let held: usize = self.documents.values().map(Vec::len).sum();
        if bytes.len() as u64 > limit || held + bytes.len() > DOCUMENTS {
            return Err(bad(&name, "it is too large for what it is"));
        }
        self.documents.insert(name, bytes);
        Ok(())
    }

    fn store_verified(
        &mut self,
        store: &Store,
        name: String,
        digest: &Digest,
        size: u64,
        file: impl Read,
    ) -> Result<(), ExportError> {
        if !store.images().hold(digest)? {
            let expected = document::descriptor(MediaType::Other(String::new()), size, digest);
            let mut writer = store.blobs().writer()?;
            copy(file, &mut writer)?;
            writer.commit_verified(&expected)?;
        }
        self.blobs.insert(name, (*digest, size));
        Ok(())
    }

    /// A document by name, wherever it is.
    fn document(&self, store: &Store, name: &str) -> Result<Option<Vec<u8>>, ExportError> {
        if let Some(bytes) = self.documents.get(name) {
            return Ok(Some(bytes.clone()));
        }
        match self.blob(name) {
            Some((digest, _)) => Ok(Some(store.blobs().read(&digest, CONFIG_LIMIT)?)),
            None => Ok(None),
        }
    }

    fn blob(&self, name: &str) -> Option<(Digest, u64)> {
        let mut name = name;
        // A link may point to a link; a ring of them points nowhere.
        for _ in 0..8 {
            if let Some(blob) = self.blobs.get(name) {
                return Some(*blob);
            }
            name = self.links.get(name)?;
        }
        None
    }
}

fn read_archive(store: &Store, tar: impl Read) -> Result<Contents, ExportError> {
    let failed = |source| ExportError::ReadArchive { source };
    let mut contents = Contents::default();
    let mut archive = tar::Archive::new(tar);
    for (count, entry) in archive.entries().map_err(failed)?.enumerate() {
        let entry = entry.map_err(failed)?;
        if count >= ENTRIES {
            return Err(bad("listing", "it has more than 100,000 files"));
        }
        let Some(name) = normal(&entry.path_bytes()) else { continue };
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().and_then(|target| {
                let target = String::from_utf8(target.into_owned()).ok()?;
                let base = if kind.is_symlink() { parent(&name) } else { "" };
                normal(format!("{base}/{target}").as_bytes())
            });
            if let Some(target) = target {
                contents.links.insert(name, target);
            }
            continue;
        }
        if !kind.is_file() {
            continue;
        }
        if let Some(digest) = blob_name(&name) {
            let size = entry.size();
            contents.store_verified(store, name, &digest, size, entry)?;
        } else if name.ends_with(".json") || name == "oci-layout" || name == "repositories" {
            contents.keep(name, entry)?;
        } else if name.ends_with(".tar") || name.ends_with(".tar.gz") || name.ends_with("/layer") {
            let mut writer = store.blobs().writer()?;
            copy(entry, &mut writer)?;
            let blob = writer.commit()?;
            contents.blobs.insert(name, blob);
        }
    }
    Ok(contents)
}

fn finish(store: &Store, contents: &Contents) -> Result<Vec<Loaded>, ExportError> {
    let tags = docker_entries(contents)?;
    let has_layout = contents.documents.contains_key("oci-layout")
        && contents.documents.contains_key("index.json");
    let found = match (has_layout, &tags) {
        (true, tags) => from_layout(store, contents, tags.as_deref().unwrap_or_default())?,
        (false, Some(entries)) => from_docker(store, contents, entries)?,
        (false, None) => {
            let reason = "there is neither a manifest.json nor an OCI layout in it".to_owned();
            return Err(ExportError::NotAnArchive { reason });
        }
    };
    if found.is_empty() {
        return Err(ExportError::NotAnArchive { reason: "it holds no image".to_owned() });
    }
    // All or nothing: names are given when every image is right.
    for (loaded, index) in &found {
        for name in &loaded.names {
            store.images().tag_pulled(&loaded.image, name, *index)?;
        }
    }
    Ok(found.into_iter().map(|(loaded, _)| loaded).collect())
}

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

fn docker_entries(contents: &Contents) -> Result<Option<Vec<DockerEntry>>, ExportError> {
    let Some(bytes) = contents.documents.get("manifest.json") else { return Ok(None) };
    serde_json::from_slice(bytes)
        .map(Some)
        .map_err(|error| bad("manifest.json", &error.to_string()))
}

fn names(entry: &DockerEntry) -> Result<Vec<ImageName>, ExportError> {
    let tags = entry.repo_tags.iter().flatten();
    tags.map(|tag| tag.parse().map_err(|error| bad("manifest.json", &format!("{error}")))).collect()
}

type Found = Vec<(Loaded, Option<Digest>)>;

fn from_docker(
    store: &Store,
    contents: &Contents,
    entries: &[DockerEntry],
) -> Result<Found, ExportError> {
    let mut found = Vec::new();
    for entry in entries {
        let missing = |name: &str| bad("manifest.json", &format!("`{name}` is not in the archive"));
        let config_name = normal(entry.config.as_bytes()).unwrap_or_default();
        let config =
            contents.document(store, &config_name)?.ok_or_else(|| missing(&entry.config))?;
        // `docker save` and skopeo name the file after its digest.
        let stem = config_name.strip_suffix(".json").unwrap_or(&config_name);
        if let Ok(named) = format!("sha256:{stem}").parse::<Digest>()
            && named != Digest::of(&config)
        {
            return Err(bad(&config_name, "its content has another digest"));
        }
        let parsed: ImageConfiguration = serde_json::from_slice(&config)
            .map_err(|error| bad(&config_name, &error.to_string()))?;
        let files = entry.layers.as_deref().unwrap_or_default();
        let diff_ids = &parsed.rootfs.diff_ids;
        if files.len() != diff_ids.len() {
            let reason = format!("{} layers, but {} diff_ids", files.len(), diff_ids.len());
            return Err(bad("manifest.json", &reason));
        }
        let mut layers = Vec::new();
        for (file, diff_id) in files.iter().zip(diff_ids) {
            let (digest, size) = normal(file.as_bytes())
                .and_then(|name| contents.blob(&name))
                .ok_or_else(|| missing(file))?;
            let media_type = sniff(store.blobs().open(&digest)?)?.0.media_type();
            let layer = document::descriptor(media_type, size, &digest);
            check_layer(store, &layer, *diff_id)?;
            layers.push(layer);
        }
        let bytes = write_manifest(&manifest(&config, layers, &BTreeMap::new()));
        let image = store.images().put(&bytes, &config)?;
        found.push((Loaded { image, names: names(entry)? }, None));
    }
    Ok(found)
}

fn from_layout(
    store: &Store,
    contents: &Contents,
    tags: &[DockerEntry],
) -> Result<Found, ExportError> {
    let bytes = &contents.documents["index.json"];
    let Document::Index(index) =
        Document::parse(bytes, None).map_err(|error| bad("index.json", &error.to_string()))?
    else {
        return Err(bad("index.json", "it is no index"));
    };
    let mut found: Found = Vec::new();
    let mut checked = BTreeSet::new();
    for entry in index.manifests() {
        let name = layout_name(entry);
        for (manifest, index) in manifests(store, entry)? {
            let Some(image) = layout_image(store, &manifest, &mut checked)? else { continue };
            let known = found
                .iter_mut()
                .find(|(known, _)| known.image.manifest_digest == image.manifest_digest);
            match known {
                Some((known, _)) => known.names.extend(name.clone()),
                None => {
                    let names = name.clone().into_iter().collect();
                    found.push((Loaded { image, names }, index));
                }
            }
        }
    }
    for (loaded, _) in &mut found {
        let hex = loaded.image.config_digest.hex();
        for entry in tags.iter().filter(|entry| entry.config.contains(&hex)) {
            loaded.names.extend(names(entry)?);
        }
        let mut seen = BTreeSet::new();
        loaded.names.retain(|name| seen.insert(name.clone()));
    }
    Ok(found)
}

/// The manifests an entry of a layout's index leads to, with the index between, if there is one.
/// Of a multi-platform image only those platforms that the layout holds.
fn manifests(
    store: &Store,
    entry: &Descriptor,
) -> Result<Vec<(Descriptor, Option<Digest>)>, ExportError> {
    let digest = document_digest(entry)?;
    let failed = |source| ExportError::Document { digest, source };
    if !store.blobs().contains(&digest)? {
        return Err(bad("index.json", &format!("{digest} is not in the archive")));
    }
    let bytes = store.blobs().read(&digest, DOCUMENT_LIMIT)?;
    let announced = entry.media_type().to_string();
    match Document::parse(&bytes, Some(&announced)).map_err(failed)? {
        Document::Manifest(_) => Ok(vec![(entry.clone(), None)]),
        Document::Index(inner) => {
            let mut here = Vec::new();
            for entry in inner.manifests() {
                if store.blobs().holds(entry)? {
                    here.push((entry.clone(), Some(digest)));
                }
            }
            Ok(here)
        }
    }
}

/// The image of a manifest; `None` for what is no image (an attestation).
fn layout_image(
    store: &Store,
    entry: &Descriptor,
    checked: &mut BTreeSet<(Digest, Digest)>,
) -> Result<Option<Image>, ExportError> {
    let digest = document_digest(entry)?;
    let failed = |source| ExportError::Document { digest, source };
    let bytes = store.blobs().read(&digest, DOCUMENT_LIMIT)?;
    let announced = entry.media_type().to_string();
    let Document::Manifest(manifest) = Document::parse(&bytes, Some(&announced)).map_err(failed)?
    else {
        return Err(bad(&digest.to_string(), "an index stands where a manifest should"));
    };
    let attestation =
        manifest.layers().iter().any(|layer| document::layer_type(layer.media_type()).is_none());
    if attestation || !document::is_config(manifest.config().media_type()) {
        return Ok(None);
    }
    let config_digest = document_digest(manifest.config())?;
    if !store.blobs().contains(&config_digest)? {
        return Err(bad(&digest.to_string(), &format!("{config_digest} is not in the archive")));
    }
    let config = store.blobs().read(&config_digest, CONFIG_LIMIT)?;
    let image = Image::from_documents(&bytes, &config)?;
    for (layer, diff_id) in image.manifest.layers().iter().zip(&image.config.rootfs.diff_ids) {
        let blob = document_digest(layer)?;
        if !store.blobs().contains(&blob)? {
            return Err(bad(&digest.to_string(), &format!("layer {blob} is not in the archive")));
        }
        if checked.insert((blob, diff_id.0)) {
            check_layer(store, layer, *diff_id)?;
        }
    }
    Ok(Some(store.images().put(&bytes, &config)?))
}

/// The name of a layout's entry: containerd's, or else a `ref.name` that is more than a tag.
fn layout_name(entry: &Descriptor) -> Option<ImageName> {
    let annotations = entry.annotations().as_ref()?;
    if let Some(name) = annotations.get("io.containerd.image.name") {
        return name.parse().ok();
    }
    let name = annotations.get("org.opencontainers.image.ref.name")?;
    name.contains([':', '/']).then(|| name.parse().ok()).flatten()
}

/// Holds a layer's content to the DiffId it should have.
fn check_layer(store: &Store, layer: &Descriptor, diff_id: DiffId) -> Result<(), ExportError> {
    let blob = document_digest(layer)?;
    let found = match document::layer_type(layer.media_type()) {
        Some(MediaType::ImageLayer) => blob,
        _ => hash(crate::layers::open(store, layer, diff_id)?)?,
    };
    match found == diff_id.0 {
        true => Ok(()),
        false => Err(ExportError::DiffId { expected: diff_id.0, found }),
    }
}

fn document_digest(descriptor: &Descriptor) -> Result<Digest, ExportError> {
    digest_of(descriptor).map_err(|error| bad("descriptor", &error.to_string()))
}

fn bad(file: &str, reason: &str) -> ExportError {
    let printable = |text: &str| text.chars().filter(|c| !c.is_control()).take(300).collect();
    ExportError::BadArchive { file: printable(file), reason: printable(reason) }
}

fn blob_name(name: &str) -> Option<Digest> {
    format!("sha256:{}", name.strip_prefix("blobs/sha256/")?).parse().ok()
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A name without `.`, `..` and doubled slashes; `None` if it is not UTF-8 or leads out.
fn normal(name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    for part in std::str::from_utf8(name).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// How a stream of bytes begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Start {
    Gzip,
    Zstd,
    Other,
}

impl Start {
    pub(crate) fn media_type(self) -> MediaType {
        match self {
            Start::Gzip => MediaType::ImageLayerGzip,
            Start::Zstd => MediaType::ImageLayerZstd,
            Start::Other => MediaType::ImageLayer,
        }
    }
}

/// Looks at the first bytes and puts them back.
pub(crate) fn sniff<R: Read + Send + 'static>(
    mut reader: R,
) -> Result<(Start, impl Read + Send + 'static), ExportError> {
    let mut first = Vec::with_capacity(4);
    Read::by_ref(&mut reader)
        .take(4)
        .read_to_end(&mut first)
        .map_err(|source| ExportError::ReadArchive { source })?;
    let start = match first.as_slice() {
        [0x1f, 0x8b, ..] => Start::Gzip,
        // A skippable frame may stand before the first real one.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Start::Zstd,
        _ => Start::Other,
    };
    Ok((start, std::io::Cursor::new(first).chain(reader)))
}

/// Copies everything, in large pieces.
pub(crate) fn copy(mut from: impl Read, to: &mut impl Write) -> Result<(), ExportError> {
    let failed = |source| ExportError::ReadArchive { source };
    let mut block = vec![0; 256 << 10];
    loop {
        match from.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&block[..count]).map_err(failed)?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// The sha256 of everything, which is a bounded amount: a bomb of a layer ends here.
pub(crate) fn hash(from: impl Read) -> Result<Digest, ExportError> {
    let limit = cache::layer::UnpackLimits::default().bytes;
    digest_of_reader(from, limit).map_err(|source| ExportError::ReadArchive { source })
}
