//! What holds for any bytes at all, one function for each fuzz target.
//!
//! The fuzzer runs these with bytes of its making, `frontend-cli/tests/it/fuzz.rs` with the kept
//! corpus. They assert equations; that nothing panics or runs forever is the least of them.

use std::io::{Cursor, Read};

use cache::Store;
use cache::layer::{UnpackLimits, decompressor, unpack};
use executor::context::without_foreign_compression;
use executor::pattern::{PatternMatcher, clean, glob_match};
use parser::{Expander, Span};

/// Bytes that an archive of the fuzzer may grow to.
const ARCHIVE_BYTES: u64 = 1 << 20;

/// A Dockerfile: spans lie inside the text, errors come in order, and a printed tree is the same
/// tree again.
pub(crate) fn parse(data: &[u8]) {
    let parsed = parser::parse(data);
    let inside = |span: Span| assert!(span.start <= span.end && span.end <= data.len(), "{span:?}");
    for diagnostic in &parsed.diagnostics {
        inside(diagnostic.span);
    }
    for stage in &parsed.dockerfile.stages {
        inside(stage.span);
        inside(stage.base.span);
        for instruction in &stage.instructions {
            inside(instruction.span);
            assert!(instruction.lines.first <= instruction.lines.last);
        }
    }
    assert!(parsed.diagnostics.is_sorted_by_key(|diagnostic| diagnostic.span.start));
    assert!(parsed.has_errors() || !parsed.dockerfile.stages.is_empty());
    let printed = parsed.dockerfile.to_string();
    assert_eq!(parser::parse(printed.as_bytes()).dockerfile, parsed.dockerfile, "{printed:?}");
}

/// A word with variables: the first line is the word, the others are `NAME=value`.
pub(crate) fn expand(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let word = lines.next().unwrap_or_default();
    let variables: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once('=')).collect();
    let lookup = |name: &str| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    for escape in ['\\', '`'] {
        let expander = Expander { escape };
        let one = expander.expand(word, &lookup);
        let several = expander.expand_words(word, &lookup);
        assert_eq!(one.is_ok(), several.is_ok(), "{word:?}");
        let Ok(one) = one else { continue };
        for name in &one.unset {
            assert_eq!(lookup(name), None, "{name} is set");
        }
        // Nothing to expand, nothing to unquote: nothing changes.
        if !word.contains(['$', '\'', '"', escape]) {
            assert_eq!(one.text, word);
        }
        let _ = expander.expand_heredoc(word, &lookup);
    }
}

/// Patterns: the first line is a name, the others are rules of an ignore file and globs.
pub(crate) fn pattern(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let name = clean(lines.next().unwrap_or_default());
    assert_eq!(clean(&name), name, "cleaning is done once");
    let rules: Vec<&str> = lines.collect();
    for rule in &rules {
        // Whether a pattern is malformed does not depend on what it is compared to.
        let with_name = glob_match(rule, name.as_bytes());
        assert_eq!(with_name.is_err(), glob_match(rule, b"").is_err(), "{rule:?}");
    }
    if let Ok(matcher) = PatternMatcher::new(&rules) {
        let by = matcher.excluded_by(name.as_bytes());
        assert_eq!(matcher.matches(name.as_bytes()), by.is_some());
        assert!(by.is_none_or(|rule| rule < rules.len()));
    }
}

/// An archive, compressed or not: it ends within its limits, and what lies beside the tree that it
/// is unpacked into stays as it was.
pub(crate) fn archive(data: &[u8]) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let beside = place.path().join("beside");
    fs_err::write(&beside, "untouched").expect("a file beside the store");
    let store = Store::open(&place.path().join("store")).expect("a store");
    let tree = store.snapshots().prepare(None).expect("a tree");
    // As ADD reads an archive: the compressions that layers do not have come off first.
    let stream = without_foreign_compression(Cursor::new(data.to_vec())).ok();
    if let Some(plain) = stream.and_then(|stream| decompressor(None, stream).ok()) {
        let limits = UnpackLimits { bytes: ARCHIVE_BYTES, entries: 512, depth: 32 };
        // Longer than allowed by a block, so that the limit and not the end of the input decides.
        let mut plain = plain.take(ARCHIVE_BYTES + 1024);
        let _ = unpack(&mut plain, &tree, &limits);
    }
    assert_eq!(fs_err::read(&beside).expect("the file beside"), b"untouched");
    let mut names: Vec<_> = fs_err::read_dir(place.path())
        .expect("the place")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["beside", "store"]);
}
