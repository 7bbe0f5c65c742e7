//! `testdata/parser/<case>/Dockerfile` and what it parses to, `expected.txt`.
//!
//! A case is a folder. `STRAKE_BLESS=1` writes the expectations anew, for a reviewer to read.

use std::path::{Path, PathBuf};

use crate::dump::dump;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/parser")
}

/// Names and Dockerfiles of all cases, in order.
pub(crate) fn cases() -> Vec<(String, Vec<u8>)> {
    let mut cases: Vec<_> = fs_err::read_dir(directory())
        .expect("the corpus is there")
        .map(|entry| {
            let path = entry.expect("a case").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs_err::read(path.join("Dockerfile")).expect("a Dockerfile"))
        })
        .collect();
    cases.sort();
    cases
}

#[test]
fn every_case_parses_to_what_it_expects() {
    let bless = std::env::var_os("STRAKE_BLESS").is_some();
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    for (name, source) in cases {
        let found = dump(&source, &parser::parse(&source));
        let path = directory().join(&name).join("expected.txt");
        if bless {
            fs_err::write(&path, &found).expect("the corpus is writable");
            continue;
        }
        let expected = fs_err::read_to_string(&path).unwrap_or_default();
        if found != expected {
            wrong.push(format!("--- {name}: expected\n{expected}--- {name}: found\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
