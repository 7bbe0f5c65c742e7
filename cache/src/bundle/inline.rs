//! A bundle inside of an image: its document is a field of the configuration, its blobs are the
//! image's layers.
//!
//! BuildKit keeps its own such field, `moby.buildkit.cache.v0`, whose keys mean nothing here as
//! ours mean nothing there; the two do not meet.

use serde_json::Value;

use super::BundleError;
use super::document::{Blob, Document, INLINE_FIELD};
use super::place::Fetched;
use crate::image::document::is_config;
use crate::oci::ImageConfiguration;
use crate::remote::decode_base64;

/// The document as the field of a configuration. Its layers are those of the image, all of them, in
/// order and without blobs: these are known only when the image is pushed.
pub fn field(document: &Document) -> (String, Value) {
    (INLINE_FIELD.to_owned(), Value::String(encode(&document.pack())))
}

/// The document in an image's configuration; `None` if there is none.
pub(super) fn read(fetched: &Fetched) -> Result<Option<Document>, BundleError> {
    if !is_config(fetched.manifest.config().media_type()) {
        return Ok(None);
    }
    let refused = |reason: &str| BundleError::Refused { reason: reason.to_owned() };
    let config: ImageConfiguration = serde_json::from_slice(&fetched.config)
        .map_err(|_| refused("the image's configuration cannot be read"))?;
    let Some(Value::String(text)) = config.extra.get(INLINE_FIELD) else { return Ok(None) };
    let packed = decode_base64(text).ok_or_else(|| refused("it is not base64"))?;
    let mut document = Document::unpack(&packed)?;
    let blobs = fetched.manifest.layers();
    let diff_ids = &config.rootfs.diff_ids;
    let same = document.layers.len() == blobs.len()
        && document.layers.iter().map(|layer| layer.diff_id).eq(diff_ids.iter().copied());
    if !same {
        return Err(refused("its layers are not the image's"));
    }
    for (layer, blob) in document.layers.iter_mut().zip(blobs) {
        layer.blob = Some(Blob::of(blob)?);
    }
    document.mounts.clear();
    Ok(Some(document))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for digit in 0..4 {
            let six = (word >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() { char::from(ALPHABET[six as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_as_base64() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode_base64(text).unwrap_or_default(), bytes.as_bytes());
        }
    }
}
