//! sha256 identities: of a blob, of an uncompressed layer, of a stack of layers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The sha256 of some bytes, written `sha256:<64 lower-case hex digits>`.
///
/// No other spelling can be parsed into one, so a digest from a registry may become a file name
/// without another check.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Text that is not `sha256:` and 64 lower-case hex digits.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a sha256 digest (`sha256:` and 64 lower-case hex digits)")]
pub struct DigestError {
    text: String,
}

impl Digest {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(Sha256::digest(bytes).into())
    }

    /// Takes a hash that was computed elsewhere.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        encode_hex(&self.0)
    }

    /// The first twelve hex digits, as people see them.
    pub fn short(&self) -> String {
        encode_hex(&self.0[..6])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.strip_prefix("sha256:")
            .and_then(decode_hex)
            .map(Digest)
            .ok_or_else(|| DigestError { text: text.chars().take(128).collect() })
    }
}

/// Lower-case hex of any bytes.
pub(crate) fn encode_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.extend(hex_digits(*byte).map(char::from));
    }
    text
}

/// The two lower-case hex digits of a byte.
pub(crate) fn hex_digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

/// Exactly `N` bytes from exactly `2 * N` lower-case hex digits.
pub(crate) fn decode_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    fn nibble(digit: u8) -> Option<u8> {
        match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        }
    }
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The digest of one layer's uncompressed tar.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

impl DiffId {
    /// The layer without entries: 1,024 zero bytes.
    pub fn empty() -> DiffId {
        DiffId(Digest::of(&[0; 1024]))
    }
}

/// The digest of a stack of layers, after image-spec `config.md`, "Layer ChainID".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The chain of `diff_ids`, bottom first; `None` if there are none.
    pub fn of(diff_ids: &[DiffId]) -> Option<ChainId> {
        diff_ids.iter().fold(None, |chain, diff_id| Some(ChainId::on(chain, *diff_id)))
    }

    /// The chain that `diff_id` makes on top of `parent`.
    pub fn on(parent: Option<ChainId>, diff_id: DiffId) -> ChainId {
        match parent {
            None => ChainId(diff_id.0),
            Some(ChainId(parent)) => {
                ChainId(Digest::of(format!("{parent} {}", diff_id.0).as_bytes()))
            }
        }
    }
}

macro_rules! reads_and_prints_as_its_digest {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map($name)
            }
        }
    )*};
}

reads_and_prints_as_its_digest!(DiffId, ChainId);

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_LAYER: &str =
        "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

    #[test]
    fn a_digest_prints_as_it_parses() {
        let digest: Digest = EMPTY_LAYER.parse().unwrap();
        assert_eq!(digest.to_string(), EMPTY_LAYER);
        assert_eq!(digest.short(), "5f70bf18a086");
        assert_eq!(DiffId::empty().0, digest);
    }

    #[test]
    fn only_one_spelling_of_a_digest_is_one() {
        let hex = &EMPTY_LAYER["sha256:".len()..];
        for text in [
            "",
            "sha256:",
            "sha256:../../x",
            hex,
            &format!("sha512:{hex}"),
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha256:{hex}0"),
            &format!("sha256:{}", &hex[1..]),
            &format!("sha256:../{}", &hex[3..]),
            &format!(" {EMPTY_LAYER}"),
            &format!("sha256:{}é", &hex[2..]),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_chain_hashes_its_parent_and_its_layer() {
        let [a, b] = [DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b"))];
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(&[a]), Some(ChainId(a.0)));
        let both = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(ChainId::of(&[a, b]), Some(ChainId(both)));
    }
}
