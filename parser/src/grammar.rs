//! What stands inside one instruction, by the pest grammar in `dockerfile.pest`.
//!
//! This module is the only one that knows pest: its functions take the text of an instruction and
//! give back words as byte ranges, so that every word can be found in the source again.

use std::borrow::Cow;
use std::ops::Range;

use pest::Parser;

/// JSON nested deeper than this is not read: it could not be a command anyway.
const JSON_DEPTH: usize = 64;

// The generated `Rule` is public and undocumented; this module keeps both to itself.
#[allow(missing_docs, unreachable_pub)]
mod generated {
    #[derive(pest_derive::Parser)]
    #[grammar = "dockerfile.pest"]
    pub(super) struct InstructionParser;
}

use generated::{InstructionParser, Rule};

/// `--name[=value]`, quotes and escapes removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawFlag {
    /// The word.
    pub(crate) range: Range<usize>,
    /// With its dashes.
    pub(crate) name: String,
    /// Behind `=`; where it starts in the text may be a quote.
    pub(crate) value: Option<(String, Range<usize>)>,
}

/// The flags that `text` starts with, and where what follows them starts.
pub(crate) fn flags(text: &str, escape: char) -> (Vec<RawFlag>, usize) {
    if !text.trim_start().starts_with("--") {
        return (Vec::new(), text.len() - text.trim_start().len());
    }
    let rule = if escape == '`' { Rule::flags_backtick } else { Rule::flags_backslash };
    let Some(pairs) = parse(rule, text) else { return (Vec::new(), 0) };
    let mut flags = Vec::new();
    let mut end = 0;
    for pair in pairs {
        let range = pair.as_span().start()..pair.as_span().end();
        end = range.end;
        if matches!(pair.as_rule(), Rule::flag_backslash | Rule::flag_backtick) {
            flags.push(raw_flag(pair.as_str(), range, escape));
        }
    }
    (flags, text.len() - text[end..].trim_start().len())
}

/// Splits a flag at its first `=` and removes quotes and escapes.
fn raw_flag(word: &str, range: Range<usize>, escape: char) -> RawFlag {
    let mut name = String::new();
    let mut value: Option<(String, usize)> = None;
    let mut quote = None;
    let mut chars = word.char_indices();
    while let Some((at, c)) = chars.next() {
        let c = match c {
            _ if quote == Some(c) => {
                quote = None;
                continue;
            }
            '\'' | '"' if quote.is_none() => {
                quote = Some(c);
                continue;
            }
            _ if c == escape => match chars.next() {
                Some((_, escaped)) => escaped,
                None => break,
            },
            _ => c,
        };
        match &mut value {
            Some((value, _)) => value.push(c),
            None if c == '=' => value = Some((String::new(), at + 1)),
            None => name.push(c),
        }
    }
    let value = value.map(|(value, at)| (value, range.start + at..range.end));
    RawFlag { range, name, value }
}

/// The words of `text`, quotes and escapes left in, a quoted blank no end of a word.
pub(crate) fn words(text: &str, escape: char) -> Vec<Range<usize>> {
    if !text.bytes().any(|b| matches!(b, b'"' | b'\'' | b'\\' | b'`')) && text.is_ascii() {
        return plain_words(text);
    }
    let rule = if escape == '`' { Rule::words_backtick } else { Rule::words_backslash };
    let pairs = parse(rule, text).into_iter().flatten();
    pairs
        .filter(|pair| pair.as_rule() != Rule::EOI)
        .map(|pair| pair.as_span().start()..pair.as_span().end())
        .collect()
}

/// The words of `text` between blanks. Nothing nests or quotes here, so no grammar is asked.
pub(crate) fn plain_words(text: &str) -> Vec<Range<usize>> {
    let mut at = 0;
    let parts = text.split(is_blank).map(|part| {
        let start = at;
        at += part.len() + 1;
        start..start + part.len()
    });
    parts.filter(|range| !range.is_empty()).collect()
}

/// What separates a keyword from its arguments, and plain words from each other: ASCII all of it.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r' | '\n')
}

/// What a text that may be the exec form is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Json {
    /// A JSON array of strings, each with its place, quotes included.
    Strings(Vec<(String, Range<usize>)>),
    /// A JSON array that holds something else.
    NotStrings,
    /// No JSON array: the shell form.
    No,
}

/// Reads `text` as a JSON array of strings.
pub(crate) fn json_array(text: &str) -> Json {
    if !text.trim_start().starts_with('[') || too_deep(text) {
        return Json::No;
    }
    let Some(pairs) = parse(Rule::json_array, text) else { return Json::No };
    let mut strings = Vec::new();
    for pair in pairs {
        match pair.as_rule() {
            Rule::json_string => {
                let range = pair.as_span().start()..pair.as_span().end();
                strings.push((json_text(&text[range.start + 1..range.end - 1]), range));
            }
            Rule::json_other => return Json::NotStrings,
            _ => {}
        }
    }
    Json::Strings(strings)
}

/// The text under `key` of the JSON object `text`.
pub(crate) fn json_object_text(text: &str, key: &str) -> Option<String> {
    if too_deep(text) {
        return None;
    }
    let inner = |text: &str| json_text(&text[1..text.len() - 1]);
    let mut found = None;
    for member in parse(Rule::json_object, text)? {
        let mut parts = member.into_inner();
        if parts.next().is_some_and(|name| inner(name.as_str()) == key) {
            let value = parts.next().filter(|value| value.as_rule() == Rule::json_string);
            found = value.map(|value| inner(value.as_str()));
        }
    }
    found
}

fn too_deep(text: &str) -> bool {
    let mut depth = 0usize;
    text.bytes().any(|b| {
        match b {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > JSON_DEPTH
    })
}

/// Resolves the escapes of the inside of a JSON string. Halves of surrogate pairs that stand alone
/// become U+FFFD, as in Go.
fn json_text(raw: &str) -> String {
    if !raw.contains('\\') {
        return raw.to_owned();
    }
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('b') => text.push('\u{8}'),
            Some('f') => text.push('\u{c}'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some('u') => {
                let first = hex4(chars.as_str());
                chars = skip(chars, 4);
                let pair = chars.as_str().strip_prefix("\\u").map(hex4);
                let unit = match pair {
                    Some(second)
                        if (0xD800..0xDC00).contains(&first)
                            && (0xDC00..0xE000).contains(&second) =>
                    {
                        chars = skip(chars, 6);
                        0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)
                    }
                    _ => first,
                };
                text.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => text.push(other),
            None => {}
        }
    }
    text
}

fn hex4(text: &str) -> u32 {
    text.get(..4).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0xFFFD)
}

fn skip(mut chars: std::str::Chars<'_>, count: usize) -> std::str::Chars<'_> {
    if count > 0 {
        chars.nth(count - 1);
    }
    chars
}

/// A field of a comma-separated value, quotes removed, and its place with them.
pub(crate) type Field<'a> = (Cow<'a, str>, Range<usize>);

/// The fields of a comma-separated value, or where a quote stands wrong.
pub(crate) fn csv(text: &str) -> Result<Vec<Field<'_>>, usize> {
    if !text.contains('"') {
        // Without quotes every comma ends a field.
        let mut at = 0;
        return Ok(text
            .split(',')
            .map(|field| {
                let start = at;
                at += field.len() + 1;
                (Cow::Borrowed(field), start..start + field.len())
            })
            .collect());
    }
    let pairs =
        InstructionParser::parse(Rule::csv, text).map_err(|error| match error.location {
            pest::error::InputLocation::Pos(at) => at,
            pest::error::InputLocation::Span((at, _)) => at,
        })?;
    let mut fields = Vec::new();
    for pair in pairs.flat_map(pest::iterators::Pair::into_inner) {
        let range = pair.as_span().start()..pair.as_span().end();
        match pair.as_rule() {
            Rule::csv_plain => fields.push((Cow::Borrowed(&text[range.clone()]), range)),
            Rule::csv_quoted => {
                let inner = &text[range.start + 1..range.end - 1];
                fields.push((Cow::Owned(inner.replace("\"\"", "\"")), range));
            }
            _ => {}
        }
    }
    Ok(fields)
}

/// The parts of `text` under `rule`.
fn parse(rule: Rule, text: &str) -> Option<pest::iterators::Pairs<'_, Rule>> {
    InstructionParser::parse(rule, text).ok()?.next().map(pest::iterators::Pair::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'a>(text: &'a str, ranges: &[Range<usize>]) -> Vec<&'a str> {
        ranges.iter().map(|range| &text[range.clone()]).collect()
    }

    #[test]
    fn flags_end_where_a_word_has_no_dashes() {
        let check = |text: &str, escape, expected: &[(&str, Option<&str>)], rest: &str| {
            let (flags, at) = flags(text, escape);
            let found: Vec<_> = flags
                .iter()
                .map(|f| (f.name.as_str(), f.value.as_ref().map(|(value, _)| value.as_str())))
                .collect();
            assert_eq!(found, expected, "{text}");
            assert_eq!(&text[at..], rest, "{text}");
        };
        check("a --b=c", '\\', &[], "a --b=c");
        check("--link --from=x  a b", '\\', &[("--link", None), ("--from", Some("x"))], "a b");
        check("--from=x -- --a b", '\\', &[("--from", Some("x"))], "--a b");
        check("--from=x --", '\\', &[("--from", Some("x"))], "");
        check("--chown='a b' c", '\\', &[("--chown", Some("a b"))], "c");
        check("--chown=\"a \\\" b\" c", '\\', &[("--chown", Some("a \" b"))], "c");
        check("--chown=a\\ b c", '\\', &[("--chown", Some("a b"))], "c");
        check("--chown=a` b\\c d", '`', &[("--chown", Some("a b\\c"))], "d");
        check("--chown=\"open end", '\\', &[("--chown", Some("open end"))], "");
        check("--\"from\"=x=y z", '\\', &[("--from", Some("x=y"))], "z");
        check("--from=", '\\', &[("--from", Some(""))], "");
    }

    #[test]
    fn words_keep_quotes_and_split_outside_of_them() {
        let check = |text: &str, escape, expected: &[&str]| {
            assert_eq!(texts(text, &words(text, escape)), expected, "{text}");
        };
        check("a=1 b=2", '\\', &["a=1", "b=2"]);
        check("a=\"1 2\" b='3 4'", '\\', &["a=\"1 2\"", "b='3 4'"]);
        check("a=1\\ 2 b", '\\', &["a=1\\ 2", "b"]);
        check("a=1` 2 b\\ c", '`', &["a=1` 2", "b\\", "c"]);
        check("a=\"\\\" x\" b='\\' c", '\\', &["a=\"\\\" x\"", "b='\\'", "c"]);
        check("a=\"open b", '\\', &["a=\"open b"]);
        check("a=x\\", '\\', &["a=x"]);
        check("", '\\', &[]);
        check("ä=ü\u{a0}ö", '\\', &["ä=ü", "ö"]);
    }

    #[test]
    fn json_is_strict_and_only_strings_are_a_command() {
        let strings = |text: &str| match json_array(text) {
            Json::Strings(strings) => strings.into_iter().map(|(s, _)| s).collect::<Vec<_>>(),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(strings(r#"["a", "b c"]"#), ["a", "b c"]);
        assert_eq!(strings("[]"), [""; 0]);
        assert_eq!(
            strings(r#"[ "\u0041\n\"\\", "\ud83d\ude00\ud800" ] "#),
            ["A\n\"\\", "😀\u{fffd}"]
        );
        for text in
            ["['a']", "[\"a\"", "[\"a\",]", "[\"a\\q\"]", "[a]", "[\"a\"] b", "a", "[\"\t\"]"]
        {
            assert_eq!(json_array(text), Json::No, "{text}");
        }
        for text in ["[1]", "[\"a\", null]", "[[\"a\"]]", "[{\"a\": [1, 2.5e3]}]", "[true]"] {
            assert_eq!(json_array(text), Json::NotStrings, "{text}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(json_array(&deep), Json::No);
    }

    #[test]
    fn quoted_csv_fields_hold_commas() {
        let fields = |text| {
            csv(text)
                .map(|fields| fields.into_iter().map(|(f, _)| f.into_owned()).collect::<Vec<_>>())
        };
        assert_eq!(fields("a=1,b").unwrap(), ["a=1", "b"]);
        assert_eq!(fields("\"a=1,2\",b").unwrap(), ["a=1,2", "b"]);
        assert_eq!(fields("\"a=\"\"x\"\"\"").unwrap(), ["a=\"x\""]);
        assert_eq!(fields("").unwrap(), [""]);
        assert!(fields("a=\"1\",b").is_err());
        assert!(fields("\"a").is_err());
    }
}
