//! The doors of ARCHITECTURE.md: which crate may know which, and where each third-party crate lives.
//!
//! Development dependencies are free: a test may read a tar without going through `cache`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::sealed::repository;

/// Which of our crates each of our crates may import.
const DOORS: &[(&str, &[&str])] = &[
    ("parser", &[]),
    ("cache", &[]),
    ("runtime", &[]),
    ("solver", &["cache"]),
    ("executor", &["solver", "cache", "runtime"]),
    ("exporter", &["cache"]),
    ("frontend-cli", &["parser", "cache", "runtime", "solver", "executor", "exporter"]),
];

/// Our crates with the names of what they depend on, development dependencies left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let package = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap();
        let normal = all.iter().filter(|dependency| dependency["kind"] != "dev").map(name);
        (name(package), normal.collect())
    };
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

/// The third-party crates of the root manifest with a home: `name = … # home`.
fn homes() -> BTreeMap<String, String> {
    let manifest = fs_err::read_to_string(repository().join("Cargo.toml")).unwrap();
    let table = manifest.split("[workspace.dependencies]").nth(1).unwrap();
    let table = table.split("\n[").next().unwrap();
    table
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once('=')?;
            let home = rest.rsplit_once("# ")?.1;
            Some((name.trim().to_owned(), home.trim().to_owned()))
        })
        .collect()
}

#[test]
fn crates_import_only_through_their_doors() {
    let doors: BTreeMap<_, _> = DOORS.iter().copied().collect();
    let dependencies = dependencies();
    let ours: BTreeSet<&str> = dependencies.keys().map(String::as_str).collect();
    assert_eq!(ours, doors.keys().copied().collect(), "the crates of the workspace");
    for (name, imported) in &dependencies {
        for import in imported.iter().filter(|import| ours.contains(import.as_str())) {
            assert!(
                doors[name.as_str()].contains(&import.as_str()),
                "`{name}` imports `{import}`: no such door"
            );
        }
    }
}

#[test]
fn third_party_crates_stay_at_home() {
    let homes = homes();
    assert!(homes.len() > 10, "the comments of the root Cargo.toml name homes: {homes:?}");
    for (name, imported) in dependencies() {
        for import in imported {
            if let Some(home) = homes.get(&import) {
                assert_eq!(*home, name, "`{import}` lives in `{home}`, and `{name}` imports it");
            }
        }
    }
}

#[test]
fn unsafe_code_is_in_the_runtime_only() {
    for (name, _) in DOORS.iter().filter(|(name, _)| *name != "runtime") {
        for file in rust_files(&repository().join(name).join("src")) {
            let text = fs_err::read_to_string(&file).unwrap();
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap();
                let found = code.split(|c: char| !c.is_alphanumeric() && c != '_');
                assert!(
                    !found.into_iter().any(|word| word == "unsafe"),
                    "{}:{}: unsafe code outside `runtime`",
                    file.display(),
                    number + 1
                );
            }
        }
    }
}

#[test]
fn the_lowering_imports_neither_clap_nor_tokio_nor_files() {
    let lowering = repository().join("frontend-cli/src/dockerfile");
    let files = rust_files(&lowering);
    assert!(!files.is_empty(), "{} holds the lowering", lowering.display());
    for file in files {
        let text = fs_err::read_to_string(&file).unwrap();
        for word in ["clap::", "tokio::", "fs_err", "std::fs"] {
            let line = text
                .lines()
                .find(|line| !line.trim_start().starts_with("//") && line.contains(word));
            assert!(line.is_none(), "{} imports `{word}`: {}", file.display(), line.unwrap());
        }
    }
}

fn rust_files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
