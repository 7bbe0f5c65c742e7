//! What a bundle knows, as one small document.
//!
//! ```text
//! layers        [{parent: an earlier layer's number, diff_id, content, created, blob}]
//! records       [{key, op, name, created, outputs: [{layer, content}], ingredients}]
//! split_mounts  [{name, id, segments: [blob], …}]
//! ```
//!
//! A layer stands on one with a smaller number, so there are no cycles to look for. The document is
//! foreign: it has a largest size, packed and unpacked, and largest counts, and whatever it names
//! must be in it.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::BundleError;
use crate::hash::Fingerprint;
use crate::image::document;
use crate::index::{CacheKey, Ingredient};
use crate::oci::{ChainId, Descriptor, DiffId, Digest, MediaType};
use crate::snapshot::chain_content;

/// The media type of the document.
pub const DOCUMENT_TYPE: &str = "application/vnd.strake.cache.v1+json+zstd";
/// The media type of a packed cache mount.
pub const MOUNT_TYPE: &str = "application/vnd.strake.cache-mount.v1.tar+zstd";
/// The field of an image's configuration that holds the document of an inline cache, in base64.
pub const INLINE_FIELD: &str = "strake.cache.v1";

/// The largest document that is read, in bytes as it travels.
pub const PACKED_LIMIT: u64 = 32 << 20;
/// The largest document that is read, in bytes of JSON.
const JSON_LIMIT: u64 = 256 << 20;
/// A Dockerfile has tens of steps; a store that travels whole has some thousands.
const MAX_RECORDS: usize = 100_000;
/// Layers, and cache mounts.
const MAX_LAYERS: usize = 20_000;
/// Of all cache mounts together.
pub(super) const MAX_SEGMENTS: usize = 16_000;
/// Outputs of one record.
const MAX_OUTPUTS: usize = 64;
/// What can be stacked here.
const MAX_DEPTH: usize = 499;
/// Texts are records of instructions, not books.
const ZSTD_LEVEL: i32 = 3;

const VERSION: u32 = 1;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    version: u32,
    /// Bottom first: a layer's parent has a smaller number.
    pub layers: Vec<Layer>,
    /// What was built.
    pub records: Vec<Entry>,
    /// Cache mounts. Those who do not know of them read the rest.
    #[serde(rename = "split_mounts", default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Cache mounts as they were once: they become mounts of one segment.
    #[serde(rename = "mounts", default, skip_serializing)]
    whole_mounts: Vec<WholeMount>,
}

/// One layer of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The number of the layer below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<usize>,
    /// Of the uncompressed tar.
    pub diff_id: DiffId,
    /// [`crate::snapshot::LayerDigests::content`] at home.
    pub content: Fingerprint,
    /// RFC 3339.
    pub created: String,
    /// How it travels; `None` in an inline cache: the image's layer of the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Blob>,
}

/// A blob of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// The type by the OCI specification.
    pub media_type: String,
    /// Of what travels.
    pub digest: Digest,
    /// Bytes that travel.
    pub size: u64,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is found by.
    pub key: CacheKey,
    /// The operation alone.
    pub op: Fingerprint,
    /// The step as people see it.
    pub name: String,
    /// RFC 3339.
    pub created: String,
    /// The numbers of the highest layers of its trees; `None` is an empty tree.
    pub outputs: Vec<Option<usize>>,
    /// What the key was made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingredients: Vec<Ingredient>,
}

/// One cache mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The directory's name below `cache-mounts/`: 32 hex digits, and a number for further copies.
    pub name: String,
    /// The id in the user's words.
    pub id: String,
    /// Of the uncompressed tar.
    pub diff_id: DiffId,
    /// Owner of the directory itself.
    pub uid: u32,
    /// Owner of the directory itself.
    pub gid: u32,
    /// Permissions of the directory itself.
    pub mode: u32,
    /// How it travels: the pieces of the tar, each compressed, in their order.
    pub segments: Vec<Blob>,
}

/// A cache mount in one blob.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct WholeMount {
    name: String,
    id: String,
    diff_id: DiffId,
    uid: u32,
    gid: u32,
    mode: u32,
    blob: Blob,
}

impl From<WholeMount> for Mount {
    fn from(whole: WholeMount) -> Mount {
        let WholeMount { name, id, diff_id, uid, gid, mode, blob } = whole;
        Mount { name, id, diff_id, uid, gid, mode, segments: vec![blob] }
    }
}

impl Blob {
    /// The blob of a descriptor.
    pub fn of(descriptor: &Descriptor) -> Result<Blob, BundleError> {
        let digest = document::digest_of(descriptor)
            .map_err(|source| BundleError::Document { source: Box::new(source) })?;
        let media_type = descriptor.media_type().to_string();
        Ok(Blob { media_type, digest, size: descriptor.size() })
    }

    /// As others see it.
    pub fn descriptor(&self) -> Descriptor {
        let media_type = MediaType::from(self.media_type.as_str());
        document::descriptor(media_type, self.size, &self.digest)
    }
}

impl Default for Document {
    fn default() -> Self {
        Document {
            version: VERSION,
            layers: Vec::new(),
            records: Vec::new(),
            mounts: Vec::new(),
            whole_mounts: Vec::new(),
        }
    }
}

impl Document {
    /// The document as it travels: the same content is the same bytes.
    pub fn pack(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("plain data always serialises");
        zstd::encode_all(json.as_slice(), ZSTD_LEVEL).expect("memory can be read and written")
    }

    /// Reads a document that somebody else wrote.
    ///
    /// # Errors
    /// [`BundleError::Refused`] says what is wrong with it.
    pub fn unpack(bytes: &[u8]) -> Result<Document, BundleError> {
        if bytes.len() as u64 > PACKED_LIMIT {
            return Err(refused(format!("it has more than {PACKED_LIMIT} bytes")));
        }
        let reader = zstd::Decoder::new(bytes).map_err(|error| refused(error.to_string()))?;
        let mut json = Vec::new();
        reader
            .take(JSON_LIMIT + 1)
            .read_to_end(&mut json)
            .map_err(|error| refused(error.to_string()))?;
        if json.len() as u64 > JSON_LIMIT {
            return Err(refused(format!("it unpacks to more than {JSON_LIMIT} bytes")));
        }
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let version: Version =
            serde_json::from_slice(&json).map_err(|error| refused(error.to_string()))?;
        if version.version != VERSION {
            let found = version.version;
            return Err(refused(format!("it has version {found}, not {VERSION}")));
        }
        let mut document: Document =
            serde_json::from_slice(&json).map_err(|error| refused(error.to_string()))?;
        let whole = std::mem::take(&mut document.whole_mounts);
        document.mounts.extend(whole.into_iter().map(Mount::from));
        document.check()?;
        Ok(document)
    }

    fn check(&self) -> Result<(), BundleError> {
        if self.records.len() > MAX_RECORDS {
            return Err(refused(format!("it has more than {MAX_RECORDS} records")));
        }
        if self.layers.len() > MAX_LAYERS || self.mounts.len() > MAX_LAYERS {
            return Err(refused(format!("it has more than {MAX_LAYERS} layers")));
        }
        let mut depths: Vec<usize> = Vec::with_capacity(self.layers.len());
        for (number, layer) in self.layers.iter().enumerate() {
            let depth = match layer.parent {
                None => 1,
                Some(parent) => match depths.get(parent) {
                    Some(depth) => depth + 1,
                    None => {
                        return Err(refused(format!(
                            "layer {number} stands on layer {parent}, which is not before it"
                        )));
                    }
                },
            };
            if depth > MAX_DEPTH {
                return Err(refused(format!("more than {MAX_DEPTH} layers are stacked")));
            }
            depths.push(depth);
            if let Some(blob) = &layer.blob {
                let media_type = MediaType::from(blob.media_type.as_str());
                if document::layer_type(&media_type).is_none() {
                    return Err(refused(format!("`{}` is no layer", blob.media_type)));
                }
            }
        }
        for record in &self.records {
            let known = |layer: &Option<usize>| layer.is_none_or(|n| n < self.layers.len());
            if record.outputs.len() > MAX_OUTPUTS || !record.outputs.iter().all(known) {
                return Err(refused(format!("the record of `{}` names no layer", record.name)));
            }
        }
        for mount in &self.mounts {
            if !is_mount_name(&mount.name) {
                return Err(refused(format!("`{}` is no cache mount", mount.name)));
            }
        }
        if self.mounts.iter().map(|mount| mount.segments.len()).sum::<usize>() > MAX_SEGMENTS {
            return Err(refused(format!("its mounts have more than {MAX_SEGMENTS} segments")));
        }
        Ok(())
    }

    /// Every blob that layers and mounts name, each once, in their order.
    pub fn blobs(&self) -> Vec<Descriptor> {
        let mut seen = std::collections::BTreeSet::new();
        let layers = self.layers.iter().filter_map(|layer| layer.blob.as_ref());
        layers
            .chain(self.mounts.iter().flat_map(|mount| &mount.segments))
            .filter(|blob| seen.insert(blob.digest))
            .map(Blob::descriptor)
            .collect()
    }

    /// The numbers of a layer and those below it, bottom first.
    pub fn stack(&self, top: usize) -> Vec<usize> {
        let mut stack: Vec<usize> =
            std::iter::successors(Some(top), |number| self.layers[*number].parent).collect();
        stack.reverse();
        stack
    }

    /// Layers alone, each on the one before.
    pub(super) fn of_stack(layers: impl Iterator<Item = Layer>) -> Document {
        let layers = layers.enumerate();
        let layers = layers.map(|(number, layer)| Layer { parent: number.checked_sub(1), ..layer });
        Document { layers: layers.collect(), ..Document::default() }
    }

    /// The chain of the tree that ends with each layer.
    pub(super) fn chains(&self) -> Vec<ChainId> {
        let mut chains: Vec<ChainId> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            chains.push(ChainId::on(layer.parent.map(|parent| chains[parent]), layer.diff_id));
        }
        chains
    }

    /// The content of the tree that ends with a layer.
    pub(super) fn content(&self, top: usize) -> Fingerprint {
        chain_content(self.stack(top).into_iter().map(|number| self.layers[number].content))
    }
}

/// Whether a text can be the name of a cache mount's directory, and so leads nowhere else.
pub(super) fn is_mount_name(name: &str) -> bool {
    let (hash, copy) = name.split_once('-').unwrap_or((name, "0"));
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let number = copy.len() <= 4 && !copy.is_empty() && copy.bytes().all(|b| b.is_ascii_digit());
    hash.len() == 32 && hash.bytes().all(hex) && number
}

fn refused(reason: String) -> BundleError {
    BundleError::Refused { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(parent: Option<usize>) -> Layer {
        let content = Fingerprint::of(b"x");
        let created = "2024-01-01T00:00:00Z".to_owned();
        Layer { parent, diff_id: DiffId::empty(), content, created, blob: None }
    }

    fn entry(output: usize) -> Entry {
        Entry {
            key: CacheKey(Fingerprint::of(b"k")),
            op: Fingerprint::of(b"o"),
            name: "RUN x".to_owned(),
            created: String::new(),
            outputs: vec![Some(output)],
            ingredients: Vec::new(),
        }
    }

    fn check(document: &Document, expected: Option<&str>) {
        let found = Document::unpack(&document.pack());
        match expected {
            None => assert_eq!(&found.unwrap(), document),
            Some(reason) => {
                let error = found.unwrap_err().to_string();
                assert!(error.contains(reason), "{error}");
            }
        }
    }

    #[test]
    fn a_document_comes_back_as_it_went() {
        let layers = vec![layer(None), layer(Some(0)), layer(Some(0))];
        check(&Document { layers, records: vec![entry(2)], ..Document::default() }, None);
    }

    #[test]
    fn a_document_that_does_not_hold_together_is_refused() {
        let layers = |layers: Vec<Layer>| Document { layers, ..Document::default() };
        check(&layers(vec![layer(Some(0))]), Some("which is not before it"));
        check(&layers(vec![layer(Some(1)), layer(Some(0))]), Some("which is not before it"));
        let deep = (0..600usize).map(|number| layer(number.checked_sub(1))).collect();
        check(&layers(deep), Some("are stacked"));
        let unknown = Document { records: vec![entry(0)], ..Document::default() };
        check(&unknown, Some("names no layer"));
        check(&Document { version: 2, ..Document::default() }, Some("version 2"));
        assert!(Document::unpack(b"what").is_err());
    }

    #[test]
    fn mounts_of_one_blob_are_read() {
        let digest = Digest::of(b"x");
        let text = format!(
            r#"{{"version":1,"layers":[],"records":[],"mounts":[{{"name":"{}","id":"go",
            "diff_id":"{digest}","uid":0,"gid":0,"mode":493,
            "blob":{{"media_type":"{MOUNT_TYPE}","digest":"{digest}","size":1}}}}]}}"#,
            "0123456789abcdef".repeat(2)
        );
        let document = Document::unpack(&zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        assert_eq!(document.blobs().len(), 1);
        assert_eq!(document.mounts[0].segments[0].digest, digest);
        check(&document, None);
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = zstd::encode_all(std::io::repeat(b' ').take(JSON_LIMIT + 10), 1).unwrap();
        let error = Document::unpack(&bomb).unwrap_err().to_string();
        assert!(error.contains("unpacks to more than"), "{error}");
    }

    #[test]
    fn names_of_mounts_lead_nowhere_else() {
        let hash = "0123456789abcdef0123456789abcdef";
        for (name, good) in [
            (hash.to_owned(), true),
            (format!("{hash}-3"), true),
            (format!("{hash}-../x"), false),
            ("../../etc".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_mount_name(&name), good, "{name}");
        }
    }
}
