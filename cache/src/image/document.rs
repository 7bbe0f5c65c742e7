//! Manifests and indexes as bytes: strict reading, ordered writing.
//!
//! A registry says twice what a document is: in the `Content-Type` and in the document itself. Two
//! readers that trust different ones can be made to see different images in the same bytes
//! (CVE-2021-41190), so a document that could be both, or that contradicts what it was announced
//! as, is rejected here and nowhere else.
//!
//! Written documents have the field order and indentation of the Go tools, and sorted annotations:
//! the same image always has the same digest.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use oci_spec::image::{
    Descriptor, ImageIndex, ImageManifest, MediaType, Platform as DescriptorPlatform,
};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::oci::Digest;

/// The largest manifest or index that is read, in bytes: the limit of Docker's registry.
pub const DOCUMENT_LIMIT: u64 = 4 << 20;

/// The largest image configuration that is read, in bytes.
pub const CONFIG_LIMIT: u64 = 8 << 20;

/// Media types of Docker's image format, which the OCI types do not name.
pub mod media {
    /// A manifest of one image.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A list of manifests, one per platform.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// An image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// An uncompressed layer.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// A gzip layer.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// A gzip layer that only its publisher may distribute.
    pub const DOCKER_FOREIGN_LAYER: &str =
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
}

/// A document that names an image: one image, or one per platform.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)] // One of them lives at a time, and for a moment.
pub enum Document {
    /// One image.
    Manifest(ImageManifest),
    /// One manifest per platform.
    Index(ImageIndex),
}

/// Why bytes are not a manifest or index.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// It is not JSON, or not the JSON of such a document.
    #[error("it is not a well-formed manifest")]
    Malformed {
        /// What the parser found.
        #[source]
        source: serde_json::Error,
    },
    /// The schema is not version 2.
    #[error("manifest schema version {found} is not supported, only 2 is")]
    Schema {
        /// What stands in `schemaVersion`.
        found: String,
    },
    /// It is something else, or claims to be two things.
    #[error("the document cannot be trusted: {reason}")]
    Confused {
        /// The contradiction.
        reason: String,
    },
    /// A media type that is no image.
    #[error("`{media_type}` is not a container image")]
    NotAnImage {
        /// The type it has.
        media_type: String,
    },
    /// A digest that is not a sha256 one.
    #[error("`{digest}` is not a sha256 digest")]
    Digest {
        /// The digest as written.
        digest: String,
    },
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Manifest,
    Index,
}

impl Kind {
    fn of(media_type: &str) -> Option<Kind> {
        match MediaType::from(media_type) {
            MediaType::ImageManifest => Some(Kind::Manifest),
            MediaType::ImageIndex => Some(Kind::Index),
            MediaType::Other(other) if other == media::DOCKER_MANIFEST => Some(Kind::Manifest),
            MediaType::Other(other) if other == media::DOCKER_INDEX => Some(Kind::Index),
            _ => None,
        }
    }
}

impl Document {
    /// The media types of everything [`Document::parse`] accepts, for an `Accept` header.
    pub const ACCEPTED: [&'static str; 4] = [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        media::DOCKER_INDEX,
        media::DOCKER_MANIFEST,
    ];

    /// Reads a document that was announced as `declared` (a `Content-Type` or a descriptor's media
    /// type), where anything announced it.
    pub fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Document, DocumentError> {
        let mut value: Value =
            serde_json::from_slice(bytes).map_err(|source| DocumentError::Malformed { source })?;
        let kind = kind(&value, declared)?;
        // Builders of the Go family write `null` for an empty list.
        for list in ["layers", "manifests"] {
            if value.get(list).is_some_and(Value::is_null) {
                value[list] = Value::Array(Vec::new());
            }
        }
        match kind {
            Kind::Manifest => {
                let manifest: ImageManifest = serde_json::from_value(value)
                    .map_err(|source| DocumentError::Malformed { source })?;
                digest_of(manifest.config())?;
                manifest.layers().iter().try_for_each(|layer| digest_of(layer).map(drop))?;
                Ok(Document::Manifest(manifest))
            }
            Kind::Index => {
                let index: ImageIndex = serde_json::from_value(value)
                    .map_err(|source| DocumentError::Malformed { source })?;
                index.manifests().iter().try_for_each(|entry| digest_of(entry).map(drop))?;
                Ok(Document::Index(index))
            }
        }
    }
}

fn kind(value: &Value, declared: Option<&str>) -> Result<Kind, DocumentError> {
    let confused = |reason: String| DocumentError::Confused { reason };
    match value.get("schemaVersion") {
        Some(Value::Number(version)) if version.as_u64() == Some(2) => {}
        Some(other) => return Err(DocumentError::Schema { found: other.to_string() }),
        None => return Err(DocumentError::Schema { found: "(none)".to_owned() }),
    }
    let inner = match value.get("mediaType") {
        None => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) => Some(text.as_str()),
        Some(_) => return Err(confused("its mediaType is not a text".to_owned())),
    };
    // `Content-Type: application/json; charset=utf-8` and the like announce nothing.
    let declared = declared
        .and_then(|text| text.split(';').next())
        .map(str::trim)
        .filter(|text| Kind::of(text).is_some() || text.starts_with("application/vnd."));
    if let (Some(inner), Some(declared)) = (inner, declared)
        && inner != declared
    {
        return Err(confused(format!("it was announced as `{declared}` and says `{inner}`")));
    }
    let manifest = value.get("config").is_some() || value.get("layers").is_some();
    let index = value.get("manifests").is_some();
    if value.get("fsLayers").is_some() || (manifest && index) {
        return Err(confused("it has the fields of a manifest and of an index".to_owned()));
    }
    let kind = match inner.or(declared) {
        Some(media_type) => Kind::of(media_type)
            .ok_or_else(|| DocumentError::NotAnImage { media_type: media_type.to_owned() })?,
        None if index => Kind::Index,
        None if manifest => Kind::Manifest,
        None => return Err(confused("it is neither a manifest nor an index".to_owned())),
    };
    if (kind == Kind::Manifest && index) || (kind == Kind::Index && manifest) {
        return Err(confused("its fields belong to another media type than its own".to_owned()));
    }
    Ok(kind)
}

/// The digest of a descriptor as the store's own type; only sha256 is one.
pub fn digest_of(descriptor: &Descriptor) -> Result<Digest, DocumentError> {
    let text: &str = descriptor.digest().as_ref();
    text.parse().map_err(|_| DocumentError::Digest { digest: text.to_owned() })
}

/// The digest of everything a reader holds.
///
/// # Errors
/// The reader's own, and `FileTooLarge` for more than `limit` bytes: a bomb ends here.
pub fn digest_of_reader(mut reader: impl Read, limit: u64) -> std::io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut block = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        let count = match reader.read(&mut block) {
            Ok(0) => return Ok(Digest::from_bytes(hasher.finalize().into())),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        total += count as u64;
        if total > limit {
            let reason = format!("it holds more than {limit} bytes");
            return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, reason));
        }
        hasher.update(&block[..count]);
    }
}

/// A descriptor of bytes with the store's own digest type.
pub fn descriptor(media_type: MediaType, size: u64, digest: &Digest) -> Descriptor {
    let digest: oci_spec::image::Digest =
        digest.to_string().parse().expect("a sha256 digest is a digest");
    Descriptor::new(media_type, size, digest)
}

/// Whether the type is one of an image configuration.
pub fn is_config(media_type: &MediaType) -> bool {
    match media_type {
        MediaType::ImageConfig => true,
        MediaType::Other(other) => other == media::DOCKER_CONFIG,
        _ => false,
    }
}

/// The OCI type of a layer, whichever family's name it goes by; `None` if it is no layer.
pub fn layer_type(media_type: &MediaType) -> Option<MediaType> {
    match media_type {
        MediaType::ImageLayer | MediaType::ImageLayerGzip | MediaType::ImageLayerZstd => {
            Some(media_type.clone())
        }
        MediaType::ImageLayerNonDistributable => Some(MediaType::ImageLayer),
        MediaType::ImageLayerNonDistributableGzip => Some(MediaType::ImageLayerGzip),
        MediaType::ImageLayerNonDistributableZstd => Some(MediaType::ImageLayerZstd),
        MediaType::Other(other) => match other.as_str() {
            media::DOCKER_LAYER => Some(MediaType::ImageLayer),
            media::DOCKER_LAYER_GZIP | media::DOCKER_FOREIGN_LAYER => {
                Some(MediaType::ImageLayerGzip)
            }
            _ => None,
        },
        _ => None,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OrderedDescriptor<'a> {
    media_type: &'a MediaType,
    digest: &'a str,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    urls: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<&'a str, &'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a DescriptorPlatform>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a MediaType>,
}

impl<'a> From<&'a Descriptor> for OrderedDescriptor<'a> {
    fn from(descriptor: &'a Descriptor) -> Self {
        OrderedDescriptor {
            media_type: descriptor.media_type(),
            digest: descriptor.digest().as_ref(),
            size: descriptor.size(),
            urls: descriptor.urls().as_deref(),
            annotations: ordered(descriptor.annotations()),
            data: descriptor.data().as_deref(),
            platform: descriptor.platform().as_ref(),
            artifact_type: descriptor.artifact_type().as_ref(),
        }
    }
}

fn ordered(annotations: &Option<HashMap<String, String>>) -> Option<BTreeMap<&str, &str>> {
    let annotations = annotations.as_ref().filter(|map| !map.is_empty())?;
    Some(annotations.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect())
}

/// Writes a manifest: the Go tools' field order, two blanks of indentation.
pub fn write_manifest(manifest: &ImageManifest) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Ordered<'a> {
        schema_version: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        media_type: Option<&'a MediaType>,
        #[serde(skip_serializing_if = "Option::is_none")]
        artifact_type: Option<&'a MediaType>,
        config: OrderedDescriptor<'a>,
        layers: Vec<OrderedDescriptor<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        subject: Option<OrderedDescriptor<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        annotations: Option<BTreeMap<&'a str, &'a str>>,
    }
    pretty(&Ordered {
        schema_version: manifest.schema_version(),
        media_type: manifest.media_type().as_ref(),
        artifact_type: manifest.artifact_type().as_ref(),
        config: manifest.config().into(),
        layers: manifest.layers().iter().map(Into::into).collect(),
        subject: manifest.subject().as_ref().map(Into::into),
        annotations: ordered(manifest.annotations()),
    })
}

/// Writes an index: the Go tools' field order, two blanks of indentation.
pub fn write_index(index: &ImageIndex) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Ordered<'a> {
        schema_version: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        media_type: Option<&'a MediaType>,
        manifests: Vec<OrderedDescriptor<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        annotations: Option<BTreeMap<&'a str, &'a str>>,
    }
    pretty(&Ordered {
        schema_version: index.schema_version(),
        media_type: index.media_type().as_ref(),
        manifests: index.manifests().iter().map(Into::into).collect(),
        annotations: ordered(index.annotations()),
    })
}

fn pretty(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(document).expect("text keys and plain values always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

    fn manifest(extra: &str) -> String {
        let config = format!(
            r#"{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{SHA}","size":2}}"#
        );
        format!(r#"{{"schemaVersion":2,{extra}"config":{config},"layers":null}}"#)
    }

    /// Parses and answers with `Ok(kind)` or the error's text.
    fn check(text: &str, declared: Option<&str>, expected: Result<&str, &str>) {
        let found = match Document::parse(text.as_bytes(), declared) {
            Ok(Document::Manifest(_)) => Ok("manifest".to_owned()),
            Ok(Document::Index(_)) => Ok("index".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match (&found, expected) {
            (Ok(kind), Ok(wanted)) => assert_eq!(kind, wanted),
            (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
            _ => panic!("{text}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_manifest_with_null_layers_is_read() {
        check(&manifest(""), Some(OCI), Ok("manifest"));
        check(&manifest(""), Some("application/json"), Ok("manifest"));
        check(&manifest(""), None, Ok("manifest"));
        check(r#"{"schemaVersion":2,"manifests":null}"#, None, Ok("index"));
    }

    #[test]
    fn media_type_confusion_is_rejected() {
        check(&manifest(""), Some(OCI_INDEX), Err("another media type"));
        check(&manifest(r#""manifests":[],"#), Some(OCI), Err("of a manifest and of an index"));
        check(&manifest(&format!(r#""mediaType":"{OCI}","#)), Some(OCI_INDEX), Err("announced as"));
        check(
            &manifest(&format!(r#""mediaType":"{OCI_INDEX}","#)),
            None,
            Err("another media type"),
        );
        check(&manifest(r#""mediaType":7,"#), None, Err("not a text"));
        check(
            &manifest(r#""mediaType":"application/vnd.cncf.helm","#),
            None,
            Err("not a container"),
        );
        check(r#"{"schemaVersion":1,"fsLayers":[]}"#, None, Err("schema version 1"));
        check("{", None, Err("well-formed"));
    }

    #[test]
    fn only_sha256_digests_are_read() {
        check(
            &manifest("").replace(SHA, "sha256:../../../../etc/passwd"),
            None,
            Err("well-formed"),
        );
        check(&manifest("").replace(SHA, "md5:abcd"), None, Err("not a sha256 digest"));
    }

    #[test]
    fn annotations_are_written_in_one_order() {
        let Ok(Document::Manifest(mut manifest)) = Document::parse(manifest("").as_bytes(), None)
        else {
            panic!("a manifest");
        };
        let annotations = ["b", "a", "d", "c"].map(|key| (key.to_owned(), "x".to_owned()));
        manifest.set_annotations(Some(annotations.into()));
        let text = String::from_utf8(write_manifest(&manifest)).unwrap();
        assert!(text.starts_with("{\n  \"schemaVersion\": 2,\n  \"config\": {\n    \"mediaType\""));
        assert!(text.ends_with(
            "\"annotations\": {\n    \"a\": \"x\",\n    \"b\": \"x\",\n    \"c\": \"x\",\n    \"d\": \"x\"\n  }\n}"
        ));
    }
}
