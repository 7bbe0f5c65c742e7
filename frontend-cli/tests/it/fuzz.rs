//! The kept corpus of the fuzz targets, replayed: what once was found stays found.

use fs_err as fs;

use crate::sealed::repository;

#[path = "../../../fuzz/properties.rs"]
mod properties;

/// Runs a property on every file of its corpus, and on its beginnings.
fn replay(target: &str, property: impl Fn(&[u8])) {
    let corpus = repository().join("fuzz/corpus").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3, "the corpus of {target} is gone");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        property(&bytes);
        for part in 1..4 {
            property(&bytes[..bytes.len() * part / 4]);
        }
    }
}

#[test]
fn any_dockerfile_parses_within_itself() {
    replay("parse", properties::parse);
}

#[test]
fn any_word_expands_or_is_an_error() {
    replay("expand", properties::expand);
}

#[test]
fn any_pattern_matches_or_is_an_error() {
    replay("pattern", properties::pattern);
}

#[test]
fn any_archive_stays_inside() {
    replay("archive", properties::archive);
}
