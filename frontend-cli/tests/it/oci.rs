//! Reads OCI image archives into plain data, to compare them with what a test expects.
//!
//! Written against the image specification and tar alone, so that a mistake of our own packing code
//! cannot hide behind the same mistake in reading.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// An image of one platform.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) configuration: Value,
    /// The layers from the base upwards.
    pub(crate) layers: Vec<Layer>,
}

/// The entries of one layer by name; directories have no trailing slash.
pub(crate) type Layer = BTreeMap<String, Entry>;

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: &'static str,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds since 1970.
    pub(crate) mtime: u64,
    /// Of links: where to.
    pub(crate) target: Option<String>,
    pub(crate) device: Option<(u32, u32)>,
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
}

impl Image {
    /// Reads the only image of an OCI archive, and holds every blob to its digest on the way.
    pub(crate) fn read_archive(path: &Path) -> Image {
        let mut files = BTreeMap::new();
        let mut archive = tar::Archive::new(fs_err::File::open(path).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(name, content);
        }
        Image::from_files(|name| files.get(name).cloned())
    }

    /// As [`Image::read_archive`], with the layout behind a function from names to files.
    pub(crate) fn from_files(file: impl Fn(&str) -> Option<Vec<u8>>) -> Image {
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let name = format!("blobs/{}", digest.replace(':', "/"));
            let content = file(&name).unwrap_or_else(|| panic!("{name} is not in the layout"));
            assert_eq!(digest, sha256(&content), "{name} does not hold what its name says");
            assert_eq!(
                descriptor["size"].as_u64().unwrap(),
                content.len() as u64,
                "size of {name}"
            );
            content
        };
        let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
        assert!(file("oci-layout").is_some(), "the layout has no oci-layout file");
        let index = json(&file("index.json").expect("the layout has no index.json"));
        let manifests = index["manifests"].as_array().unwrap();
        assert_eq!(manifests.len(), 1, "one image expected: {index}");
        let mut manifest = json(&blob(&manifests[0]));
        if let Some(platforms) = manifest["manifests"].as_array() {
            manifest = json(&blob(&platforms[0]));
        }
        let configuration = json(&blob(&manifest["config"]));
        let empty = Vec::new();
        let descriptors = manifest["layers"].as_array().unwrap_or(&empty);
        let diff_ids = configuration["rootfs"]["diff_ids"].as_array().unwrap_or(&empty);
        assert_eq!(descriptors.len(), diff_ids.len(), "as many layers as diff ids");
        let layers = descriptors
            .iter()
            .zip(diff_ids)
            .map(|(descriptor, diff_id)| {
                let tar = plain(descriptor["mediaType"].as_str().unwrap(), blob(descriptor));
                assert_eq!(diff_id.as_str().unwrap(), sha256(&tar), "diff id of {descriptor}");
                read_layer(&tar)
            })
            .collect();
        let history = configuration["history"].as_array().unwrap_or(&empty);
        let full = history.iter().filter(|entry| entry["empty_layer"] != true).count();
        assert_eq!(full, descriptors.len(), "as many layers as full history entries: {history:?}");
        Image { configuration, layers }
    }
}

fn plain(media_type: &str, blob: Vec<u8>) -> Vec<u8> {
    if media_type.ends_with("+gzip") {
        let mut tar = Vec::new();
        flate2::read::MultiGzDecoder::new(blob.as_slice()).read_to_end(&mut tar).unwrap();
        tar
    } else {
        assert!(media_type.ends_with(".tar"), "a layer of an unexpected kind: {media_type}");
        blob
    }
}

/// The entries of a layer's tar.
pub(crate) fn read_layer(tar: &[u8]) -> Layer {
    let mut layer = Layer::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = text(&entry.path_bytes());
        let name = name.strip_suffix('/').unwrap_or(&name).to_owned();
        let xattrs = match entry.pax_extensions().unwrap() {
            Some(extensions) => extensions
                .map(|extension| extension.unwrap())
                .filter_map(|extension| {
                    let name = extension.key().ok()?.strip_prefix("SCHILY.xattr.")?;
                    Some((name.to_owned(), extension.value_bytes().to_vec()))
                })
                .collect(),
            None => BTreeMap::new(),
        };
        let target = entry.link_name_bytes().map(|target| text(&target));
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header();
        let kind = match header.entry_type() {
            tar::EntryType::Regular | tar::EntryType::GNUSparse => "file",
            tar::EntryType::Directory => "dir",
            tar::EntryType::Symlink => "symlink",
            tar::EntryType::Link => "hardlink",
            tar::EntryType::Fifo => "fifo",
            tar::EntryType::Char => "char",
            tar::EntryType::Block => "block",
            other => panic!("{name} has the type {other:?}"),
        };
        let device = matches!(kind, "char" | "block").then(|| {
            (header.device_major().unwrap().unwrap(), header.device_minor().unwrap().unwrap())
        });
        let read = Entry {
            kind,
            mode: header.mode().unwrap() & 0o7777,
            uid: header.uid().unwrap(),
            gid: header.gid().unwrap(),
            mtime: header.mtime().unwrap(),
            target: if matches!(kind, "symlink" | "hardlink") { target } else { None },
            device,
            content,
            xattrs,
        };
        let twice = layer.insert(name.clone(), read);
        assert!(twice.is_none(), "{name} is twice in one layer");
    }
    layer
}

/// Bytes as text, what is not UTF-8 as `\xff`.
fn text(bytes: &[u8]) -> String {
    bytes
        .utf8_chunks()
        .map(|chunk| {
            let invalid: String =
                chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
            chunk.valid().to_owned() + &invalid
        })
        .collect()
}

/// The digest of `bytes` as OCI writes it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
