//! Our own identities: blake3, never seen by a registry.
//!
//! sha256 is what OCI demands ([`crate::oci::Digest`]); where nobody but strake looks, blake3 is
//! three to seven times faster. The two are different types and never mixed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::oci::{decode_hex, encode_hex, hex_digits};

/// A blake3 hash; prints as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Fingerprint(*blake3::hash(bytes).as_bytes())
    }

    /// Takes a hash that was computed elsewhere.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Fingerprint(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first twelve hex digits, as people see them.
    pub fn short(&self) -> String {
        encode_hex(&self.0[..6])
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are made of many fingerprints: no allocation for each.
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&hex_digits(byte));
        }
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Text that is not 64 lower-case hex digits.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a fingerprint (64 lower-case hex digits)")]
pub struct FingerprintError {
    text: String,
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        decode_hex(text)
            .map(Fingerprint)
            .ok_or_else(|| FingerprintError { text: text.chars().take(128).collect() })
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A fingerprint made of named parts, in the order in which they are given.
///
/// Names and values are prefixed with their lengths, so no two lists of parts feed the same bytes;
/// the domain keeps fingerprints of different kinds apart.
#[derive(Clone)]
pub struct FingerprintBuilder {
    hasher: blake3::Hasher,
}

impl FingerprintBuilder {
    /// Starts a fingerprint of one kind of thing, e.g. `"strake exec op v1"`.
    pub fn new(domain: &'static str) -> Self {
        FingerprintBuilder { hasher: blake3::Hasher::new_derive_key(domain) }
    }

    /// Adds one named part.
    #[must_use]
    pub fn field(mut self, name: &str, value: &[u8]) -> Self {
        self.add(name, value);
        self
    }

    /// As [`FingerprintBuilder::field`], for loops.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        self.length_prefixed(name.as_bytes());
        self.length_prefixed(value);
    }

    /// The fingerprint of all parts so far.
    pub fn finish(&self) -> Fingerprint {
        Fingerprint(*self.hasher.finalize().as_bytes())
    }

    fn length_prefixed(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let of = |parts: &[(&str, &str)]| {
            let mut builder = FingerprintBuilder::new("test");
            for (name, value) in parts {
                builder.add(name, value.as_bytes());
            }
            builder.finish()
        };
        assert_ne!(of(&[("a", "bc")]), of(&[("ab", "c")]));
        assert_ne!(of(&[("a", "b"), ("c", "d")]), of(&[("a", "bcd")]));
        assert_ne!(of(&[("a", "")]), of(&[]));
        assert_ne!(of(&[]), FingerprintBuilder::new("other").finish());
    }

    #[test]
    fn a_fingerprint_prints_as_it_parses() {
        let fingerprint = Fingerprint::of(b"x");
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert!("xyz".parse::<Fingerprint>().is_err());
    }
}
