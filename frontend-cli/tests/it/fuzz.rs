//! The fuzz targets on the stable toolchain: the kept corpus replayed (what once was found stays
//! found), and a short search from it that repeats exactly.

use std::time::Duration;

use fs_err as fs;

use crate::sealed::repository;

#[path = "../../../fuzz/mutate.rs"]
mod mutate;
#[path = "../../../fuzz/properties.rs"]
mod properties;

/// How long one search may take. The rounds are chosen to need far less on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a property on every file of its corpus and on its beginnings, then on `rounds` changed ones.
fn fuzz(target: &str, words: &[&str], rounds: u32, property: impl Fn(&[u8])) {
    let directory = repository().join("fuzz/corpus").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3, "the corpus of {target} is gone");
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    for bytes in &corpus {
        property(bytes);
        for part in 1..4 {
            property(&bytes[..bytes.len() * part / 4]);
        }
    }
    let done = mutate::search(&corpus, words, rounds, PATIENCE, property);
    println!("{target}: {done} of {rounds} inputs");
    assert!(done >= rounds / 20, "{target}: {done} inputs in {PATIENCE:?} are no search");
}

#[test]
fn any_dockerfile_parses_within_itself() {
    let words = [
        "FROM a AS b\n",
        "RUN ",
        "COPY --from=b --chmod=u=rw ",
        "<<EOF",
        "\nEOF\n",
        "ONBUILD ",
        "# escape=`\n",
        "# syntax=x\n",
        "--mount=type=cache,target=/a ",
        "[\"a\", \"b\"]",
        "\\\n",
        "HEALTHCHECK --interval=1s CMD ",
        "ARG a=${b:-c}\n",
        "ENV a b\n",
        "<<-\"E\" <<F",
        "\r\n",
        "\u{feff}",
    ];
    fuzz("parse", &words, 6000, properties::parse);
}

#[test]
fn any_word_expands_or_is_an_error() {
    let words = [
        "${a",
        "${a:-",
        "${a##*",
        "${a//b/c}",
        "${a%%?}",
        "}",
        "$a",
        "\\$",
        "'",
        "\"",
        "\na=b*c\n",
        "${a:?",
        "/\\/",
        "é",
    ];
    fuzz("expand", &words, 20_000, properties::expand);
}

#[test]
fn any_pattern_matches_or_is_an_error() {
    let words = ["**", "/", "!", "[a-z]", "[^", "]", "\\", "?", "*", "..", "\n", "a/b", "[a-"];
    fuzz("pattern", &words, 10_000, properties::pattern);
}

#[test]
fn any_archive_stays_inside() {
    let words = ["ustar\0", "../", ".wh.", "30 path=../../x\n", "00000000000\0", "././@LongLink"];
    fuzz("archive", &words, 150, properties::archive);
}
