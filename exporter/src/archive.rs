//! Archives of images: OCI layouts, and archives for `docker load`.
//!
//! Both are OCI image layouts; the one for Docker also has the `manifest.json` that Docker, podman
//! and skopeo look for. Archives are deterministic: the same images give the same bytes.
//!
//! ```text
//! oci-layout
//! blobs/sha256/<hex>      layers, configurations, manifests
//! index.json              one descriptor per image and name
//! manifest.json           for Docker only
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use cache::Store;
use cache::image::Image;
use cache::image::document::{self, CONFIG_LIMIT, DOCUMENT_LIMIT, write_index, write_manifest};
use cache::layer::pack;
use cache::oci::{Descriptor, Digest, ImageName, MediaType};
use oci_spec::image::ImageIndexBuilder;
use serde::Serialize;

use crate::assemble::manifest;
use crate::layers::{Layer, LayerForm, layers};
use crate::{Destination, ExportError};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// For whom an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ArchiveFormat {
    /// An OCI image layout.
    #[default]
    Oci,
    /// An OCI image layout that `docker load` reads too.
    Docker,
}

/// How an archive is made.
#[derive(Debug, Clone, Default)]
pub struct ArchiveOptions {
    /// For whom it is.
    pub format: ArchiveFormat,
    /// The form of its layers.
    pub form: LayerForm,
    /// Annotations added to every manifest; with any, the manifest gets another digest.
    pub annotations: BTreeMap<String, String>,
    /// Whether the images are the platforms of one: the names, which are those of the first, then
    /// stand for an index of all, in the order given.
    pub index: bool,
}

/// An image to be saved, and the names it has in the archive.
#[derive(Debug, Clone, Copy)]
pub struct SaveImage<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its names there; may be empty.
    pub names: &'a [ImageName],
}

/// What was saved.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// The manifest of each image, in the order they were given. Its digest differs from the local
    /// one if layers were compressed for the archive.
    pub manifests: Vec<Descriptor>,
}

/// Writes images as a tar archive. CPU-bound.
pub fn save(
    store: &Store,
    images: &[SaveImage<'_>],
    options: &ArchiveOptions,
    destination: Destination<'_>,
) -> Result<Saved, ExportError> {
    // Compressing comes first, so that a stream is not held up in the middle.
    let prepared = prepare(store, images, options)?;
    destination.write(|out| {
        let mut tar = tar::Builder::new(out);
        tar.mode(tar::HeaderMode::Deterministic);
        let mut sink = Sink::Tar(Box::new(tar));
        let saved = write(store, &prepared, options, &mut sink)?;
        sink.finish()?;
        Ok(saved)
    })
}

/// Writes images as a directory. It may exist; blobs it has already are left alone, and its
/// `index.json` is replaced at the end.
pub fn save_directory(
    store: &Store,
    images: &[SaveImage<'_>],
    options: &ArchiveOptions,
    directory: &Path,
) -> Result<Saved, ExportError> {
    let prepared = prepare(store, images, options)?;
    let blobs = directory.join("blobs/sha256");
    fs_err::create_dir_all(&blobs).map_err(|source| ExportError::Write { path: blobs, source })?;
    write(store, &prepared, options, &mut Sink::Directory(directory.to_owned()))
}

/// An image whose documents are as the archive will have them.
struct Prepared<'a> {
    image: &'a Image,
    names: &'a [ImageName],
    layers: Vec<Layer>,
    config: Vec<u8>,
    manifest: Vec<u8>,
    descriptor: Descriptor,
}

fn prepare<'a>(
    store: &Store,
    images: &[SaveImage<'a>],
    options: &ArchiveOptions,
) -> Result<Vec<Prepared<'a>>, ExportError> {
    images
        .iter()
        .map(|SaveImage { image, names }| {
            let layers = layers(store, image, options.form, &BTreeSet::new())?;
            let config = store.blobs().read(&image.config_digest, CONFIG_LIMIT)?;
            let bytes = match own_manifest(store, image, &layers, options)? {
                Some(bytes) => bytes,
                None => {
                    let descriptors = layers.iter().map(|layer| layer.descriptor().clone());
                    write_manifest(&manifest(&config, descriptors.collect(), &options.annotations))
                }
            };
            let descriptor = document::descriptor(
                MediaType::ImageManifest,
                bytes.len() as u64,
                &Digest::of(&bytes),
            );
            Ok(Prepared { image, names, layers, config, manifest: bytes, descriptor })
        })
        .collect()
}

/// The image's own manifest, if the archive's would say the same: then the digest stays.
fn own_manifest(
    store: &Store,
    image: &Image,
    layers: &[Layer],
    options: &ArchiveOptions,
) -> Result<Option<Vec<u8>>, ExportError> {
    let same = image.manifest.media_type() == &Some(MediaType::ImageManifest)
        && options.annotations.is_empty()
        && image.manifest.layers().iter().zip(layers).all(|(listed, layer)| {
            listed.digest() == layer.descriptor().digest()
                && listed.media_type() == layer.descriptor().media_type()
        });
    if !same || !store.blobs().contains(&image.manifest_digest)? {
        return Ok(None);
    }
    Ok(Some(store.blobs().read(&image.manifest_digest, DOCUMENT_LIMIT)?))
}

fn write(
    store: &Store,
    images: &[Prepared<'_>],
    options: &ArchiveOptions,
    sink: &mut Sink<'_>,
) -> Result<Saved, ExportError> {
    sink.bytes("oci-layout", LAYOUT)?;
    sink.directory("blobs")?;
    sink.directory("blobs/sha256")?;
    let mut written = BTreeSet::new();
    for image in images {
        for layer in &image.layers {
            if written.insert(layer.descriptor().digest().to_string()) {
                write_layer(store, layer, sink)?;
            }
        }
        for bytes in [&image.config, &image.manifest] {
            let digest = Digest::of(bytes);
            if written.insert(digest.to_string()) {
                sink.bytes(&blob_path(&digest.to_string()), bytes)?;
            }
        }
    }
    if options.format == ArchiveFormat::Docker {
        sink.bytes("manifest.json", &docker_manifest(images))?;
    }
    let entries = match (options.index, images) {
        (true, [first, ..]) => {
            let platforms = images.iter().map(|image| on_platform(&image.descriptor, image.image));
            let (descriptor, bytes) = index_of(platforms.collect());
            sink.bytes(&blob_path(descriptor.digest().as_ref()), &bytes)?;
            entries(&descriptor, first)
        }
        _ => images
            .iter()
            .flat_map(|image| entries(&on_platform(&image.descriptor, image.image), image))
            .collect(),
    };
    let (_, index) = index_of(entries);
    sink.bytes("index.json", &index)?;
    Ok(Saved { manifests: images.iter().map(|image| image.descriptor.clone()).collect() })
}

fn write_layer(store: &Store, layer: &Layer, sink: &mut Sink<'_>) -> Result<(), ExportError> {
    let descriptor = layer.descriptor();
    let path = blob_path(descriptor.digest().as_ref());
    let digest = document::digest_of(descriptor)
        .expect("the descriptors of prepared layers are made from digests");
    match layer {
        Layer::Blob(_) => {
            let mut file = store.blobs().open(&digest)?;
            sink.file(&path, descriptor.size(), |out| {
                std::io::copy(&mut file, out)
                    .map(drop)
                    .map_err(|source| ExportError::Write { path: PathBuf::from(&path), source })
            })
        }
        Layer::Packed { snapshot, .. } => sink.file(&path, descriptor.size(), |out| {
            let packed = pack(snapshot, out).map_err(ExportError::layer(digest))?;
            match packed.diff_id.0 == digest {
                true => Ok(()),
                false => Err(ExportError::DiffId { expected: digest, found: packed.diff_id.0 }),
            }
        }),
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// The index of an image's platforms as they are in the store, in the order given: its descriptor
/// and its bytes.
pub fn index(images: &[&Image]) -> (Descriptor, Vec<u8>) {
    let own = |image: &&Image| {
        let size = write_manifest(&image.manifest).len() as u64;
        let descriptor =
            document::descriptor(MediaType::ImageManifest, size, &image.manifest_digest);
        on_platform(&descriptor, image)
    };
    index_of(images.iter().map(own).collect())
}

/// An index, and its descriptor.
pub(crate) fn index_of(manifests: Vec<Descriptor>) -> (Descriptor, Vec<u8>) {
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .build()
        .expect("every required field is set");
    let bytes = write_index(&index);
    let digest = Digest::of(&bytes);
    (document::descriptor(MediaType::ImageIndex, bytes.len() as u64, &digest), bytes)
}

/// The descriptor of an image's manifest, with what the image is for.
pub(crate) fn on_platform(descriptor: &Descriptor, image: &Image) -> Descriptor {
    let own = image.config.platform();
    let mut platform = oci_spec::image::Platform::default();
    platform.set_os(own.os.as_str().into());
    platform.set_architecture(own.architecture.as_str().into());
    platform.set_variant(own.variant);
    platform.set_os_version(own.os_version);
    let mut descriptor = descriptor.clone();
    descriptor.set_platform(Some(platform));
    descriptor
}

/// The index entries of an image: one for each name, or one without.
fn entries(descriptor: &Descriptor, image: &Prepared<'_>) -> Vec<Descriptor> {
    let entry = |name: Option<&ImageName>| {
        let mut annotations = HashMap::new();
        if let Some(name) = name {
            annotations.insert("io.containerd.image.name".to_owned(), name.to_string());
            let tag = name.tag().map(str::to_owned);
            let reference = tag.or_else(|| name.digest().map(ToString::to_string));
            annotations.insert(
                "org.opencontainers.image.ref.name".to_owned(),
                reference.unwrap_or_default(),
            );
        }
        if let Some(created) = &image.image.config.created {
            annotations.insert("org.opencontainers.image.created".to_owned(), created.clone());
        }
        let mut descriptor = descriptor.clone();
        descriptor.set_annotations(Some(annotations));
        descriptor
    };
    match image.names {
        [] => vec![entry(None)],
        names => names.iter().map(|name| entry(Some(name))).collect(),
    }
}

fn docker_manifest(images: &[Prepared<'_>]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        config: String,
        repo_tags: Option<Vec<String>>,
        layers: Vec<String>,
    }
    let entries: Vec<Entry> = images
        .iter()
        .map(|image| {
            let tags: Vec<_> = image
                .names
                .iter()
                .filter(|name| name.tag().is_some())
                .map(|name| name.familiar())
                .collect();
            let layers = image.layers.iter();
            Entry {
                config: blob_path(&image.image.config_digest.to_string()),
                repo_tags: (!tags.is_empty()).then_some(tags),
                layers: layers
                    .map(|layer| blob_path(layer.descriptor().digest().as_ref()))
                    .collect(),
            }
        })
        .collect();
    serde_json::to_vec(&entries).expect("text and lists always serialise")
}

/// Where files of a layout are written.
enum Sink<'a> {
    Tar(Box<tar::Builder<&'a mut dyn Write>>),
    Directory(PathBuf),
}

impl Sink<'_> {
    fn directory(&mut self, path: &str) -> Result<(), ExportError> {
        let Sink::Tar(tar) = self else { return Ok(()) };
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        tar.append_data(&mut header, format!("{path}/"), std::io::empty())
            .map_err(|source| ExportError::Write { path: path.into(), source })
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.file(path, bytes.len() as u64, |out| {
            let failed = |source| ExportError::Write { path: path.into(), source };
            out.write_all(bytes).map_err(failed)
        })
    }

    /// Lets `write` write a file of exactly `size` bytes.
    fn file(
        &mut self,
        path: &str,
        size: u64,
        write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        match self {
            Sink::Tar(tar) => {
                let failed = |source| ExportError::Write { path: path.into(), source };
                let mut header = header(tar::EntryType::Regular, 0o644, size);
                header.set_path(path).map_err(failed)?;
                header.set_cksum();
                let out = tar.get_mut();
                out.write_all(header.as_bytes()).map_err(failed)?;
                let mut counted = Counted { out, written: 0 };
                write(&mut counted)?;
                let Counted { out, written } = counted;
                if written != size {
                    let reason = format!("{written} bytes came where {size} were announced");
                    return Err(failed(std::io::Error::other(reason)));
                }
                let padding = (512 - size % 512) % 512;
                out.write_all(&[0; 512][..padding as usize]).map_err(failed)
            }
            Sink::Directory(directory) => {
                let path = directory.join(path);
                let is_blob = path.parent().is_some_and(|parent| parent.ends_with("blobs/sha256"));
                if is_blob && fs_err::metadata(&path).is_ok_and(|known| known.len() == size) {
                    return Ok(());
                }
                Destination::File(&path).write(write)
            }
        }
    }

    fn finish(self) -> Result<(), ExportError> {
        let Sink::Tar(mut tar) = self else { return Ok(()) };
        tar.finish().map_err(|source| ExportError::Write { path: "the archive".into(), source })
    }
}

/// A header that says nothing about this machine or moment.
fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

struct Counted<'a, 'b> {
    out: &'a mut &'b mut dyn Write,
    written: u64,
}

impl Write for Counted<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
