//! Values of secrets, taken out of what steps print.
//!
//! A secret must not end up in a log because a script ran under `set -x` or printed its environment.
//! Whatever a step writes is searched for the values of all secrets of the build before anybody sees
//! or keeps it. Of a value with several lines (a key file), each line is a value of its own, since
//! logs are passed on in whole lines.
//!
//! What a step made of a value (base64, a part of it) is not recognised, and neither are values so
//! short that they would blacken ordinary text.

use std::borrow::Cow;
use std::sync::Arc;

/// Stands in the log where a value was.
const MASK: &[u8] = b"***";

/// The shortest value that is hidden, in bytes.
const SHORTEST_VALUE: usize = 4;

/// The shortest line of a value with several lines that is hidden: `true,` and the like are lines
/// of many files.
const SHORTEST_LINE: usize = 8;

/// What must not be seen. Clones are the same.
#[derive(Clone, Default)]
pub struct Redactions {
    /// Longest first, so that a value within another one does not cut that in pieces.
    values: Arc<[Vec<u8>]>,
}

impl std::fmt::Debug for Redactions {
    /// How many there are.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactions({})", self.values.len())
    }
}

impl Redactions {
    /// Hides `secrets`.
    pub fn new(secrets: impl IntoIterator<Item = Vec<u8>>) -> Redactions {
        let mut values = Vec::new();
        for secret in secrets {
            let whole = secret.trim_ascii();
            let lines: Vec<&[u8]> =
                whole.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).collect();
            let shortest = if lines.len() > 1 { SHORTEST_LINE } else { SHORTEST_VALUE };
            let long = lines.into_iter().filter(|line| line.len() >= shortest);
            values.extend(long.map(<[u8]>::to_vec));
        }
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Redactions { values: values.into() }
    }

    /// Bytes that must be held back at the end of an unfinished line, because a value may begin in
    /// them.
    pub(crate) fn overlap(&self) -> usize {
        self.values.first().map_or(0, |longest| longest.len() - 1)
    }

    /// `text` without the values.
    pub fn hide<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let mut text = Cow::Borrowed(text);
        for value in self.values.iter() {
            if let Some(hidden) = replaced(&text, value) {
                text = Cow::Owned(hidden);
            }
        }
        text
    }

    /// As [`Redactions::hide`], for text.
    pub fn hide_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.hide(text.as_bytes())).into_owned()
    }
}

/// `None` if `value` is not in `text`.
fn replaced(text: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let mut hidden = Vec::new();
    let mut rest = text;
    while let Some(at) = find(rest, value) {
        hidden.extend_from_slice(&rest[..at]);
        hidden.extend_from_slice(MASK);
        rest = &rest[at + value.len()..];
    }
    if rest.len() == text.len() {
        return None;
    }
    hidden.extend_from_slice(rest);
    Some(hidden)
}

fn find(text: &[u8], value: &[u8]) -> Option<usize> {
    let first = *value.first()?;
    let last = text.len().checked_sub(value.len())?;
    let mut at = 0;
    while at <= last {
        at += text[at..=last].iter().position(|&byte| byte == first)?;
        if text[at..].starts_with(value) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_hidden_wherever_they_stand() {
        let key = b"-----BEGIN KEY-----\nc2VjcmV0IGtleQ==\n}\n-----END KEY-----\n".to_vec();
        let hidden =
            Redactions::new([b"hunter2\n".to_vec(), b"hunter22".to_vec(), key, b"no".into()]);
        for (text, expected) in [
            ("+ curl -H hunter2", "+ curl -H ***"),
            ("hunter22hunter2hunte", "******hunte"),
            ("c2VjcmV0IGtleQ==", "***"),
            ("} no", "} no"),
            ("", ""),
        ] {
            assert_eq!(hidden.hide_text(text), expected, "{text}");
        }
        assert_eq!(hidden.overlap(), "-----BEGIN KEY-----".len() - 1);
        assert_eq!(format!("{hidden:?}"), "Redactions(5)");
    }
}
