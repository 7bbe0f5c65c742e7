//! Private keys of ssh, as files have them, and what an agent does with them.
//!
//! | file | begins with | read by |
//! |---|---|---|
//! | OpenSSH | `BEGIN OPENSSH PRIVATE KEY` | `ssh-key` |
//! | PKCS #1 | `BEGIN RSA PRIVATE KEY` | `ring` |
//! | PKCS #8 | `BEGIN PRIVATE KEY` | `ring` |
//!
//! Signatures are made by `ring`, which TLS uses as well: Ed25519, ECDSA on P-256 and P-384, RSA of
//! 2048 to 4096 bits with SHA-2. Its key types print no secrets; neither does [`SshKey`].

use std::fmt;
use std::io::Read;
use std::path::Path;

use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs1KeyDer, PrivatePkcs8KeyDer};
use ssh_key::private::{EcdsaKeypair, KeypairData, RsaKeypair};

use super::agent::Message;

/// More than any private key has.
const MAX_FILE: u64 = 100 * 1024;

/// The client asks for SHA-512 with an RSA key (RFC 8332 and the agent's protocol).
const RSA_SHA2_512: u32 = 4;

/// A private key that signs.
pub struct SshKey {
    /// The public key as the protocol has it.
    public: Vec<u8>,
    comment: String,
    signer: Signer,
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    Ecdsa { pair: EcdsaKeyPair, algorithm: &'static str },
    Rsa(RsaKeyPair),
}

/// Why a file is no key for an agent.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// It is a key, under a passphrase, and nobody is asked for passphrases.
    #[error("the key is encrypted with a passphrase")]
    Encrypted,
    /// A private key that we cannot sign with.
    #[error("{what} cannot be used")]
    Unsupported {
        /// The kind of key or file.
        what: String,
    },
    /// It is to be a key and cannot be read. (One ECDSA key in some hundred, whose number happens to
    /// be short, is among those; an agent reads them.)
    #[error("the key cannot be read: {reason}")]
    Broken {
        /// What the reader says.
        reason: String,
    },
    /// No private key at all.
    #[error("it is not a private key of ssh")]
    NotAKey,
}

impl fmt::Debug for SshKey {
    /// The comment alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SshKey").field(&self.comment).finish()
    }
}

impl SshKey {
    /// The key in a file.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let mut text = Vec::new();
        fs_err::File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
        Self::parse(&text, &path.display().to_string())
    }

    /// `name` is the comment of a key that has none.
    fn parse(text: &[u8], name: &str) -> Result<Self, KeyError> {
        let head = text.get(..text.len().min(400)).unwrap_or_default();
        let head = String::from_utf8_lossy(head);
        let begin = head.trim_start().lines().next().unwrap_or_default().trim();
        if begin == "-----BEGIN ENCRYPTED PRIVATE KEY-----"
            || head.contains("Proc-Type: 4,ENCRYPTED")
        {
            return Err(KeyError::Encrypted);
        }
        let (signer, comment) = match begin {
            "-----BEGIN OPENSSH PRIVATE KEY-----" => openssh(text)?,
            "-----BEGIN RSA PRIVATE KEY-----" => {
                let der =
                    PrivatePkcs1KeyDer::from_pem_slice(text).map_err(|_| KeyError::NotAKey)?;
                (rsa(RsaKeyPair::from_der(der.secret_pkcs1_der()))?, String::new())
            }
            "-----BEGIN PRIVATE KEY-----" => {
                let der =
                    PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| KeyError::NotAKey)?;
                (pkcs8(der.secret_pkcs8_der())?, String::new())
            }
            _ => match begin.strip_prefix("-----BEGIN ").and_then(|b| b.strip_suffix("-----")) {
                Some(what) if what.ends_with("PRIVATE KEY") => {
                    let what = format!("a file of the kind `{what}`");
                    return Err(KeyError::Unsupported { what });
                }
                _ => return Err(KeyError::NotAKey),
            },
        };
        let comment = if comment.is_empty() { name.to_owned() } else { comment };
        Ok(Self { public: signer.public(), comment, signer })
    }

    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    pub(super) fn comment(&self) -> &str {
        &self.comment
    }

    /// A signature as the protocol has it; `None` if the key is none that signs.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Ed25519(pair) => {
                Some(Message::new().string(b"ssh-ed25519").string(pair.sign(data).as_ref()).into())
            }
            Signer::Ecdsa { pair, algorithm } => {
                let signature = pair.sign(&random, data).ok()?;
                let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
                let both: Vec<u8> = Message::new().number(r).number(s).into();
                Some(Message::new().string(algorithm.as_bytes()).string(&both).into())
            }
            Signer::Rsa(pair) => {
                // Without a flag SHA-1 is meant, which no server of today takes and we do not make:
                // such a client gets SHA-256 by its name, and what only knows SHA-1 says so.
                let (name, padding): (_, &dyn ring::signature::RsaEncoding) =
                    match flags & RSA_SHA2_512 {
                        0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                        _ => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, data, &mut signature).ok()?;
                Some(Message::new().string(name.as_bytes()).string(&signature).into())
            }
        }
    }
}

impl Signer {
    /// RFC 4253 section 6.6, RFC 5656 section 3.1, RFC 8709 section 4.
    fn public(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(pair) => {
                Message::new().string(b"ssh-ed25519").string(pair.public_key().as_ref()).into()
            }
            Self::Ecdsa { pair, algorithm } => {
                let curve = algorithm.trim_start_matches("ecdsa-sha2-");
                Message::new()
                    .string(algorithm.as_bytes())
                    .string(curve.as_bytes())
                    .string(pair.public_key().as_ref())
                    .into()
            }
            Self::Rsa(pair) => {
                let public: PublicKeyComponents<Vec<u8>> = pair.public().into();
                Message::new().string(b"ssh-rsa").number(&public.e).number(&public.n).into()
            }
        }
    }
}

fn openssh(text: &[u8]) -> Result<(Signer, String), KeyError> {
    let key = ssh_key::PrivateKey::from_openssh(text)
        .map_err(|error| KeyError::Broken { reason: error.to_string() })?;
    let comment = key.comment().to_owned();
    let signer = match key.key_data() {
        KeypairData::Encrypted(_) => return Err(KeyError::Encrypted),
        KeypairData::Ed25519(pair) => {
            let seed = pair.private.as_ref();
            let pair = Ed25519KeyPair::from_seed_and_public_key(seed, pair.public.as_ref());
            Signer::Ed25519(pair.map_err(|_| KeyError::NotAKey)?)
        }
        KeypairData::Ecdsa(pair) => ecdsa(pair)?,
        KeypairData::Rsa(pair) => rsa(from_components(pair))?,
        other => {
            let name = other.algorithm().map_or("of this kind".to_owned(), |a| a.to_string());
            return Err(KeyError::Unsupported { what: format!("a key {name}") });
        }
    };
    Ok((signer, comment))
}

fn ecdsa(pair: &EcdsaKeypair) -> Result<Signer, KeyError> {
    let (kind, algorithm) = match pair {
        EcdsaKeypair::NistP256 { .. } => (&ECDSA_P256_SHA256_FIXED_SIGNING, "ecdsa-sha2-nistp256"),
        EcdsaKeypair::NistP384 { .. } => (&ECDSA_P384_SHA384_FIXED_SIGNING, "ecdsa-sha2-nistp384"),
        EcdsaKeypair::NistP521 { .. } => {
            return Err(KeyError::Unsupported { what: "a key ecdsa-sha2-nistp521".to_owned() });
        }
    };
    let pair = EcdsaKeyPair::from_private_key_and_public_key(
        kind,
        pair.private_key_bytes(),
        pair.public_key_bytes(),
        &SystemRandom::new(),
    );
    Ok(Signer::Ecdsa { pair: pair.map_err(|_| KeyError::NotAKey)?, algorithm })
}

fn pkcs8(der: &[u8]) -> Result<Signer, KeyError> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
        return Ok(Signer::Ed25519(pair));
    }
    for (kind, algorithm) in [
        (&ECDSA_P256_SHA256_FIXED_SIGNING, "ecdsa-sha2-nistp256"),
        (&ECDSA_P384_SHA384_FIXED_SIGNING, "ecdsa-sha2-nistp384"),
    ] {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(kind, der, &SystemRandom::new()) {
            return Ok(Signer::Ecdsa { pair, algorithm });
        }
    }
    rsa(RsaKeyPair::from_pkcs8(der))
}

fn rsa(pair: Result<RsaKeyPair, ring::error::KeyRejected>) -> Result<Signer, KeyError> {
    let pair = pair.map_err(|why| KeyError::Unsupported { what: format!("an RSA key ({why})") })?;
    Ok(Signer::Rsa(pair))
}

/// An OpenSSH file has the numbers of an RSA key but for two that follow from them.
fn from_components(pair: &RsaKeypair) -> Result<RsaKeyPair, ring::error::KeyRejected> {
    let bytes = |number: &ssh_key::Mpint| number.as_positive_bytes().unwrap_or_default().to_vec();
    let (d, p, q) = (bytes(&pair.private.d), bytes(&pair.private.p), bytes(&pair.private.q));
    RsaKeyPair::from_components(&KeyPairComponents {
        public_key: PublicKeyComponents { n: bytes(&pair.public.n), e: bytes(&pair.public.e) },
        dP: remainder(&d, &minus_one(&p)),
        dQ: remainder(&d, &minus_one(&q)),
        qInv: bytes(&pair.private.iqmp),
        d,
        p,
        q,
    })
}

/// An odd number, less one. (An even one is no prime, and what comes of it is refused.)
fn minus_one(number: &[u8]) -> Vec<u8> {
    let mut less = number.to_vec();
    if let Some(last) = less.last_mut() {
        *last &= !1;
    }
    less
}

/// `number` modulo `by`, both big-endian: the schoolbook's division, one bit at a time. Once a key.
fn remainder(number: &[u8], by: &[u8]) -> Vec<u8> {
    if by.iter().all(|byte| *byte == 0) {
        return Vec::new();
    }
    // One byte more than `by`, for the bit that shifting moves out at the top.
    let by: Vec<u8> = std::iter::once(0).chain(by.iter().copied()).collect();
    let mut rest = vec![0u8; by.len()];
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |shift| byte >> shift & 1)) {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            let shifted = *byte << 1 | carry;
            carry = *byte >> 7;
            *byte = shifted;
        }
        if rest >= by {
            let mut borrow = false;
            for (byte, less) in rest.iter_mut().zip(&by).rev() {
                let (first, under) = byte.overflowing_sub(*less);
                let (second, below) = first.overflowing_sub(u8::from(borrow));
                *byte = second;
                borrow = under || below;
            }
        }
    }
    let start = rest.iter().position(|byte| *byte != 0).unwrap_or(rest.len());
    rest.split_off(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_those_of_arithmetic() {
        for (number, by) in [(1_000_003u64, 97u64), (5, 7), (0, 3), (u64::MAX, 65537), (256, 256)] {
            let rest = number % by;
            let expected: Vec<u8> =
                rest.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            assert_eq!(remainder(&number.to_be_bytes(), &by.to_be_bytes()), expected, "{number}");
        }
    }

    #[test]
    fn what_is_no_key_says_so() {
        let parsed = |text: &str| SshKey::parse(text.as_bytes(), "x").map(|_| ()).unwrap_err();
        assert!(matches!(parsed("hello"), KeyError::NotAKey));
        assert!(matches!(parsed(""), KeyError::NotAKey));
        let broken = parsed("-----BEGIN OPENSSH PRIVATE KEY-----\n!\n");
        assert!(matches!(broken, KeyError::Broken { .. }));
        assert!(matches!(parsed("-----BEGIN PUBLIC KEY-----\n"), KeyError::NotAKey));
        assert!(matches!(parsed("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), KeyError::Encrypted));
        let sec1 = parsed("-----BEGIN EC PRIVATE KEY-----\n").to_string();
        assert_eq!(sec1, "a file of the kind `EC PRIVATE KEY` cannot be used");
    }
}
