//! Private keys of ssh, as files have them, and what an agent does with them.
//!
//! | file | begins with | read by |
//! |---|---|---|
//! | OpenSSH | `BEGIN OPENSSH PRIVATE KEY` | [`openssh`] |
//! | PKCS #1 | `BEGIN RSA PRIVATE KEY` | `ring` |
//! | PKCS #8 | `BEGIN PRIVATE KEY` | `ring`, for P-521 `p521` |
//! | SEC 1 | `BEGIN EC PRIVATE KEY` | `sec1` |
//!
//! Signatures are made by `ring`, which TLS uses as well: Ed25519, ECDSA on P-256 and P-384, RSA of
//! 2048 to 4096 bits with SHA-2; on P-521, which it does not have, by `p521`. Their key types print
//! no secrets; neither does [`SshKey`]. Keys under a passphrase are refused, as BuildKit does.

use std::fmt;
use std::io::Read;
use std::path::Path;

use p521::SecretKey;
use p521::ecdsa::signature::Signer as _;
use p521::ecdsa::{Signature as P521Signature, SigningKey};
use p521::pkcs8::DecodePrivateKey;
use ring::error::KeyRejected;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use sec1::EcPrivateKey;

use super::agent::Message;
use super::openssh::{self, Numbers};

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
    Ecdsa { pair: EcdsaKeyPair, curve: &'static str },
    P521(SigningKey),
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
    /// It is to be a key and cannot be read.
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
        let whole = String::from_utf8_lossy(text);
        // `openssl ecparam` writes the name of the curve into a section of its own in front.
        let begin = |line: &&str| line.starts_with("-----BEGIN ") && line.ends_with("KEY-----");
        let begin = whole.lines().map(str::trim).find(begin).unwrap_or_default();
        let pem = |error: rustls::pki_types::pem::Error| broken(&error);
        let (signer, comment) = match begin {
            "-----BEGIN ENCRYPTED PRIVATE KEY-----" => return Err(KeyError::Encrypted),
            "-----BEGIN OPENSSH PRIVATE KEY-----" => {
                let (numbers, comment) = openssh::read(text)?;
                (from_numbers(numbers)?, comment)
            }
            // The old way of OpenSSL to lock a file that is PKCS #1 or SEC 1.
            _ if whole.contains("Proc-Type: 4,ENCRYPTED") => return Err(KeyError::Encrypted),
            "-----BEGIN RSA PRIVATE KEY-----" => {
                let der = PrivatePkcs1KeyDer::from_pem_slice(text).map_err(pem)?;
                (rsa(RsaKeyPair::from_der(der.secret_pkcs1_der()))?, String::new())
            }
            "-----BEGIN PRIVATE KEY-----" => {
                let der = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(pem)?;
                (pkcs8(der.secret_pkcs8_der())?, String::new())
            }
            "-----BEGIN EC PRIVATE KEY-----" => {
                let der = PrivateSec1KeyDer::from_pem_slice(text).map_err(pem)?;
                (sec1(der.secret_sec1_der())?, String::new())
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
            Signer::Ecdsa { pair, curve } => {
                Some(ecdsa_signature(curve, pair.sign(&random, data).ok()?.as_ref()))
            }
            Signer::P521(key) => {
                let signature: P521Signature = key.try_sign(data).ok()?;
                Some(ecdsa_signature(P521, &signature.to_bytes()))
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
            Self::Ecdsa { pair, curve } => ecdsa_public(curve, pair.public_key().as_ref()),
            Self::P521(key) => {
                ecdsa_public(P521, key.verifying_key().to_sec1_point(false).as_bytes())
            }
            Self::Rsa(pair) => {
                let public: PublicKeyComponents<Vec<u8>> = pair.public().into();
                Message::new().string(b"ssh-rsa").number(&public.e).number(&public.n).into()
            }
        }
    }
}

fn ecdsa_public(curve: &str, point: &[u8]) -> Vec<u8> {
    let name = format!("ecdsa-sha2-{curve}");
    Message::new().string(name.as_bytes()).string(curve.as_bytes()).string(point).into()
}

/// RFC 5656 section 3.1.2; `both` are two numbers of the same length.
fn ecdsa_signature(curve: &str, both: &[u8]) -> Vec<u8> {
    let (r, s) = both.split_at(both.len() / 2);
    let both: Vec<u8> = Message::new().number(r).number(s).into();
    Message::new().string(format!("ecdsa-sha2-{curve}").as_bytes()).string(&both).into()
}

fn broken(error: &dyn fmt::Display) -> KeyError {
    KeyError::Broken { reason: error.to_string() }
}

fn from_numbers(numbers: Numbers) -> Result<Signer, KeyError> {
    match numbers {
        Numbers::Ed25519 { public, seed } => {
            let pair = Ed25519KeyPair::from_seed_and_public_key(&seed, &public);
            Ok(Signer::Ed25519(pair.map_err(|why| broken(&why))?))
        }
        Numbers::Ecdsa { curve, point, private } => {
            let curve = CURVES.iter().find(|(name, ..)| *name == curve).ok_or_else(|| {
                KeyError::Unsupported { what: format!("a key on the curve {curve}") }
            })?;
            ecdsa(curve, &private, Some(&point))
        }
        // The file lacks two numbers, which follow from the others.
        Numbers::Rsa { n, e, d, q_inverse, p, q } => {
            rsa(RsaKeyPair::from_components(&KeyPairComponents {
                public_key: PublicKeyComponents { n, e },
                dP: remainder(&d, &minus_one(&p)),
                dQ: remainder(&d, &minus_one(&q)),
                qInv: q_inverse,
                d,
                p,
                q,
            }))
        }
    }
}

/// The signature that `ring` makes on a curve, if it does.
type OfRing = Option<&'static EcdsaSigningAlgorithm>;

const P521: &str = "nistp521";

/// The curves of ssh (RFC 5656 section 10.1) and the bytes that a private key on each has.
const CURVES: [(&str, usize, OfRing); 3] = [
    ("nistp256", 32, Some(&ECDSA_P256_SHA256_FIXED_SIGNING)),
    ("nistp384", 48, Some(&ECDSA_P384_SHA384_FIXED_SIGNING)),
    (P521, 66, None),
];

/// `private` may be shorter than the curve's numbers. The public half is compared to it.
fn ecdsa(
    (curve, size, of_ring): &(&'static str, usize, OfRing),
    private: &[u8],
    point: Option<&[u8]>,
) -> Result<Signer, KeyError> {
    let missing =
        size.checked_sub(private.len()).ok_or_else(|| broken(&"its number is too long"))?;
    let private = [&vec![0; missing], private].concat();
    let differs = || broken(&"its two halves do not belong together");
    if let Some(kind) = of_ring {
        let point = point.ok_or_else(|| broken(&"it has no public half"))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_private_key_and_public_key(kind, &private, point, &random);
        return Ok(Signer::Ecdsa { pair: pair.map_err(|_| differs())?, curve });
    }
    let key = SigningKey::from_slice(&private).map_err(|why| broken(&why))?;
    let own = key.verifying_key().to_sec1_point(false);
    if point.is_some_and(|point| point != own.as_bytes()) {
        return Err(differs());
    }
    Ok(Signer::P521(key))
}

/// The curve stands in the file by a number of its own, and its private key's length says the same.
fn sec1(der: &[u8]) -> Result<Signer, KeyError> {
    let key = EcPrivateKey::try_from(der).map_err(|why| broken(&why))?;
    let curve = CURVES.iter().find(|(_, size, _)| *size == key.private_key.len());
    let curve = curve
        .ok_or_else(|| KeyError::Unsupported { what: "a key on this elliptic curve".to_owned() })?;
    ecdsa(curve, key.private_key, key.public_key)
}

fn pkcs8(der: &[u8]) -> Result<Signer, KeyError> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
        return Ok(Signer::Ed25519(pair));
    }
    for (curve, _, of_ring) in CURVES {
        let Some(kind) = of_ring else { continue };
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(kind, der, &SystemRandom::new()) {
            return Ok(Signer::Ecdsa { pair, curve });
        }
    }
    if let Ok(key) = SecretKey::from_pkcs8_der(der) {
        return Ok(Signer::P521(key.into()));
    }
    rsa(RsaKeyPair::from_pkcs8(der))
}

fn rsa(pair: Result<RsaKeyPair, KeyRejected>) -> Result<Signer, KeyError> {
    let pair = pair.map_err(|why| KeyError::Unsupported { what: format!("an RSA key ({why})") })?;
    Ok(Signer::Rsa(pair))
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
    fn a_short_number_is_filled_up_and_halves_belong_together() {
        for curve in &CURVES {
            let (name, size, _) = curve;
            // The private number 1: its public half is the generator of the curve.
            let generator = generator(*size);
            let Ok(signer) = ecdsa(curve, &[1], Some(&generator)) else { panic!("{name}") };
            assert_eq!(signer.public(), ecdsa_public(name, &generator));
            assert!(ecdsa(curve, &[2], Some(&generator)).is_err(), "{name}");
            assert!(ecdsa(curve, &vec![1; size + 1], Some(&generator)).is_err(), "{name}");
        }
    }

    /// SEC 2, sections 2.4.2, 2.5.1 and 2.6.1.
    fn generator(size: usize) -> Vec<u8> {
        let text = match size {
            32 => GENERATOR_256,
            48 => GENERATOR_384,
            _ => GENERATOR_521,
        };
        let digits: Vec<u8> =
            text.bytes().map(|digit| (digit as char).to_digit(16).unwrap() as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    const GENERATOR_256: &str = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f\
        9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
    const GENERATOR_384: &str = "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf5529\
        6c3a545e3872760ab73617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8\
        c00a60b1ce1d7e819d7a431d7c90ea0e5f";
    const GENERATOR_521: &str = "0400c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77ef\
        e75928fe1dc127a2ffa8de3348b3c1856a429bf97e7e31c2e5bd66011839296a789a3bc0045c8a5f\
        b42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad0761353c70\
        86a272c24088be94769fd16650";
    #[test]
    fn what_is_no_key_says_so() {
        let parsed = |text: &str| SshKey::parse(text.as_bytes(), "x").map(|_| ()).unwrap_err();
        assert!(matches!(parsed("hello"), KeyError::NotAKey));
        assert!(matches!(parsed(""), KeyError::NotAKey));
        let broken = parsed("-----BEGIN OPENSSH PRIVATE KEY-----\n!\n");
        assert!(matches!(broken, KeyError::Broken { .. }));
        assert!(matches!(parsed("-----BEGIN PUBLIC KEY-----\n"), KeyError::NotAKey));
        assert!(matches!(parsed("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), KeyError::Encrypted));
        let broken = parsed("-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n");
        assert!(matches!(broken, KeyError::Broken { .. }), "{broken}");
        let dsa = parsed("-----BEGIN DSA PRIVATE KEY-----\n").to_string();
        assert_eq!(dsa, "a file of the kind `DSA PRIVATE KEY` cannot be used");
    }
}
