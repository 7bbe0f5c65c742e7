//! Private keys in OpenSSH's own format: the numbers of one key, as the file has them.
//!
//! ```text
//! "openssh-key-v1\0"  cipher  kdf  its options  u32 1  public half  private half
//!                                     u32 check  u32 check  kind  numbers…  comment  1 2 3…
//! ```
//!
//! Strings are of RFC 4251. A number has no zero bytes in front that it does not need: every second
//! key on P-521 has one of 65 bytes, and one in 256 keys on the other curves is short. Source:
//! PROTOCOL.key of OpenSSH.

use base64ct::{Base64, Encoding};

use super::agent::split_string;
use super::key::KeyError;

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";

/// What a file holds of a key: each number big-endian.
pub(super) enum Numbers {
    Ed25519 { public: Vec<u8>, seed: Vec<u8> },
    Ecdsa { curve: String, point: Vec<u8>, private: Vec<u8> },
    Rsa { n: Vec<u8>, e: Vec<u8>, d: Vec<u8>, q_inverse: Vec<u8>, p: Vec<u8>, q: Vec<u8> },
}

/// The key of a file and its comment.
pub(super) fn read(text: &[u8]) -> Result<(Numbers, String), KeyError> {
    let bytes =
        decode(text).ok_or_else(|| broken("it is not base64 between its first and last line"))?;
    let mut file = Fields(
        bytes
            .strip_prefix(b"openssh-key-v1\0")
            .ok_or_else(|| broken("it does not begin like a file of OpenSSH"))?,
    );
    let cipher = file.string()?;
    file.string()?;
    file.string()?;
    if file.number()? != 1 {
        return Err(broken("it has not one key"));
    }
    file.string()?;
    if cipher != b"none" {
        return Err(KeyError::Encrypted);
    }
    let mut private = Fields(file.string()?);
    if private.number()? != private.number()? {
        return Err(broken("its private half is damaged"));
    }
    let kind = private.text()?;
    let numbers = match kind.as_str() {
        "ssh-ed25519" => {
            let public = private.bytes()?;
            // The seed, and the public half once more.
            let seed = private.string()?.get(..32).map(<[u8]>::to_vec);
            Numbers::Ed25519 { public, seed: seed.ok_or_else(|| broken("it is cut short"))? }
        }
        _ if kind.starts_with("ecdsa-sha2-") => Numbers::Ecdsa {
            curve: private.text()?,
            point: private.bytes()?,
            private: private.bytes()?,
        },
        "ssh-rsa" => Numbers::Rsa {
            n: private.bytes()?,
            e: private.bytes()?,
            d: private.bytes()?,
            q_inverse: private.bytes()?,
            p: private.bytes()?,
            q: private.bytes()?,
        },
        _ => return Err(KeyError::Unsupported { what: format!("a key {kind}") }),
    };
    Ok((numbers, private.text()?))
}

fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, rest) = text.split_once(BEGIN)?;
    let (body, _) = rest.split_once(END)?;
    let one_line: String = body.split_ascii_whitespace().collect();
    Base64::decode_vec(&one_line).ok()
}

fn broken(reason: &str) -> KeyError {
    KeyError::Broken { reason: reason.to_owned() }
}

/// What has not been read yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Result<u32, KeyError> {
        let (number, rest) = self.0.split_first_chunk().ok_or_else(|| broken("it is cut short"))?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Result<&'a [u8], KeyError> {
        let (string, rest) = split_string(self.0).ok_or_else(|| broken("it is cut short"))?;
        self.0 = rest;
        Ok(string)
    }

    /// A string, or a number without the zero byte of its sign.
    fn bytes(&mut self) -> Result<Vec<u8>, KeyError> {
        let bytes = self.string()?;
        Ok(bytes.strip_prefix(&[0]).unwrap_or(bytes).to_vec())
    }

    fn text(&mut self) -> Result<String, KeyError> {
        Ok(String::from_utf8_lossy(self.string()?).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::agent::Message;
    use super::*;

    fn file(kind: &[u8], fields: &[&[u8]]) -> String {
        let mut private = Message::new().string(kind);
        for field in fields {
            private = private.string(field);
        }
        let checks = [7u8, 7, 7, 7, 7, 7, 7, 7];
        let private: Vec<u8> = private.string(b"a comment").into();
        let private = [&checks[..], &private, &[1, 2, 3]].concat();
        let head = Message::new().string(b"none").string(b"none").string(b"");
        let head: Vec<u8> = head.into();
        let rest: Vec<u8> = Message::new().string(b"public half").string(&private).into();
        let bytes = [b"openssh-key-v1\0", &head[..], &[0, 0, 0, 1], &rest].concat();
        let text = Base64::encode_string(&bytes);
        let (first, second) = text.split_at(70);
        format!("{BEGIN}\n{first}\r\n{second}\n{END}\n")
    }

    #[test]
    fn numbers_may_be_short_and_a_sign_is_none_of_them() {
        let text = file(b"ecdsa-sha2-nistp521", &[b"nistp521", &[4, 9], &[0, 0x80, 1]]);
        let (numbers, comment) = read(text.as_bytes()).unwrap();
        let Numbers::Ecdsa { curve, point, private } = numbers else { panic!("{text}") };
        assert_eq!(
            (curve.as_str(), &point[..], &private[..]),
            ("nistp521", &[4, 9][..], &[0x80, 1][..])
        );
        assert_eq!(comment, "a comment");
    }

    #[test]
    fn a_damaged_file_is_an_error_wherever_it_ends() {
        let whole = file(b"ssh-ed25519", &[&[1; 32], &[2; 64]]);
        read(whole.as_bytes()).unwrap();
        let bytes = decode(whole.as_bytes()).unwrap();
        let end = bytes.len() - 3;
        for length in 0..end {
            let text = format!("{BEGIN}\n{}\n{END}", Base64::encode_string(&bytes[..length]));
            assert!(matches!(read(text.as_bytes()), Err(KeyError::Broken { .. })), "{length}");
        }
        for text in
            ["", BEGIN, "-----BEGIN OPENSSH PRIVATE KEY-----\n!\n-----END OPENSSH PRIVATE KEY-----"]
        {
            assert!(matches!(read(text.as_bytes()), Err(KeyError::Broken { .. })), "{text}");
        }
        let unknown = file(b"ssh-dss", &[]);
        assert!(matches!(read(unknown.as_bytes()), Err(KeyError::Unsupported { .. })));
    }
}
