//! Heredoc words: which words of an instruction open a heredoc, and what they say.
//!
//! A word `[n]<<[-]NAME` of `RUN`, `COPY` or `ADD` opens one, in the words that a shell would see:
//! quotes hold a word together, `x<<NAME` and `<<<NAME` are something else. The escape character
//! here is a backslash whatever the `escape` directive says: the shell's, not the file's.

use std::ops::Range;

use crate::ast::Heredoc;

/// A word that opens a heredoc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeredocWord {
    /// The bytes of the word in the text that was searched.
    pub(crate) range: Range<usize>,
    /// The digits before `<<`.
    pub(crate) fd: Option<u32>,
    /// `<<-`
    pub(crate) strip_tabs: bool,
    /// The delimiter, unquoted.
    pub(crate) name: String,
    /// Whether no part of the delimiter was quoted.
    pub(crate) expand: bool,
}

/// All heredoc words of `text`, in order. A text with an unclosed quote has none.
pub(crate) fn heredoc_words(text: &str) -> Vec<HeredocWord> {
    if !text.contains("<<") {
        return Vec::new();
    }
    let Some(words) = shell_words(text) else { return Vec::new() };
    words.into_iter().filter_map(|range| parse_word(text, range)).collect()
}

/// Reads `text[range]` as a heredoc word.
pub(crate) fn parse_word(text: &str, range: Range<usize>) -> Option<HeredocWord> {
    let word = &text[range.clone()];
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let rest = word[digits..].strip_prefix("<<")?;
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start();
    if rest.contains('<') {
        return None;
    }
    let (name, quoted) = unquote(rest)?;
    let fd = word[..digits].parse().ok();
    Some(HeredocWord { range, fd, strip_tabs, name, expand: !quoted })
}

/// The words of a shell line as byte ranges, quotes and escapes left in; `None` if a quote is not
/// closed. Blanks behind `<<` belong to the word, and `$((…))` is arithmetic, not words.
fn shell_words(text: &str) -> Option<Vec<Range<usize>>> {
    let bytes = text.as_bytes();
    let mut words = Vec::new();
    let mut start = None;
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = match rest[0] {
            b'\\' => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
            b'\'' => 2 + rest[1..].iter().position(|b| *b == b'\'')?,
            b'"' => double_quoted(rest)?,
            b'<' if rest.starts_with(b"<<") => {
                2 + rest[2..].iter().take_while(|b| b.is_ascii_whitespace()).count()
            }
            b'$' if rest.starts_with(b"$((") => {
                rest.windows(2).position(|pair| pair == b"))").map_or(3, |end| end + 2)
            }
            _ => {
                let c = text[at..].chars().next()?;
                if c.is_whitespace() {
                    if let Some(start) = start.take() {
                        words.push(start..at);
                    }
                    at += c.len_utf8();
                    continue;
                }
                c.len_utf8()
            }
        };
        start.get_or_insert(at);
        at += length;
    }
    if let Some(start) = start {
        words.push(start..bytes.len());
    }
    Some(words)
}

/// The length of the double-quoted text that `bytes` starts with.
fn double_quoted(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// A delimiter without its quotes and escapes, and whether it had quotes. `None` unless it is one
/// word that is not empty.
fn unquote(text: &str) -> Option<(String, bool)> {
    let mut name = String::with_capacity(text.len());
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                quoted = true;
                loop {
                    match chars.next()? {
                        end if end == c => break,
                        '\\' if c == '"' => match chars.next()? {
                            escaped @ ('"' | '$' | '\\') => name.push(escaped),
                            other => name.extend(['\\', other]),
                        },
                        inner => name.push(inner),
                    }
                }
            }
            '\\' => name.extend(chars.next()),
            c if c.is_whitespace() => return None,
            c => name.push(c),
        }
    }
    (!name.is_empty()).then_some((name, quoted))
}

impl Heredoc {
    /// The body, with the leading tabs of its lines stripped if it was opened with `<<-`.
    pub fn body(&self) -> String {
        if !self.strip_tabs {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}
