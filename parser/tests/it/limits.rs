//! Texts that are built to hurt: deep, long, many. Each must come back soon, whatever it says.

use std::time::{Duration, Instant};

use parser::{Expander, parse, parse_ignore};

/// Generous for an unoptimised build on a busy machine, and far below what a quadratic walk over
/// these texts takes.
const SOON: Duration = Duration::from_secs(20);

fn comes_back(what: &str, source: &str) {
    let start = Instant::now();
    let parsed = parse(source.as_bytes());
    let printed = parsed.dockerfile.to_string();
    assert!(start.elapsed() < SOON, "{what}: {:?}", start.elapsed());
    assert_eq!(parse(printed.as_bytes()).dockerfile, parsed.dockerfile, "{what}");
}

#[test]
fn hostile_dockerfiles_come_back() {
    let many = 20_000;
    comes_back("continuations", &format!("FROM a\nRUN x{}", " \\\n y".repeat(many)));
    comes_back("empty lines", &format!("FROM a\nRUN x \\\n{}y", "\n".repeat(many)));
    comes_back("instructions", &format!("FROM a\n{}", "ENV a=\"b\"\n".repeat(many)));
    comes_back("stages", &"FROM a AS b\n".repeat(many));
    comes_back("words", &format!("FROM a\nCOPY {}", "a \\\n".repeat(many)));
    comes_back("open quotes", &format!("FROM a\nENV {}", "a=\"' \\\n".repeat(many)));
    comes_back("brackets", &format!("FROM a\nRUN {}", "[ \\\n".repeat(many)));
    comes_back("strings", &format!("FROM a\nCMD [\"x\"{}]", ", \\\n\"x\"".repeat(many)));
    comes_back("mounts", &format!("FROM a\nRUN {} x", "--mount=target=/a \\\n".repeat(many / 4)));
    comes_back(
        "heredocs",
        &format!("FROM a\nRUN cat{}\n{}", " <<A".repeat(9_000), "A\n".repeat(9_000)),
    );
    comes_back("mistyped heredocs", &format!("FROM a\n{}", "RUM <<A\n".repeat(many / 10)));
    comes_back("variables", &format!("FROM a\nENV a={}", "$A\\\n".repeat(many)));
}

#[test]
fn hostile_words_come_back() {
    let expander = Expander { escape: '\\' };
    let long = "ab".repeat(20_000);
    let lookup = |name: &str| (name == "LONG").then(|| long.clone());
    let start = Instant::now();
    for word in [
        "${LONG//*a*a*a*a*c/x}".to_owned(),
        "${LONG##*a*b*a*b}".to_owned(),
        "${LONG%%*a*b*c}".to_owned(),
        (0..20_000).map(|n| format!("$V{n}")).collect(),
        "${A:-".repeat(20_000),
        "\"".repeat(20_001),
    ] {
        // What it comes to does not matter here.
        let _ = expander.expand(&word, &lookup);
        let _ = expander.expand_words(&word, &lookup);
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn hostile_ignore_files_come_back() {
    let start = Instant::now();
    let (lines, _) = parse_ignore(format!("{}\n", "a/../".repeat(200_000)).as_bytes());
    assert!(lines.is_empty());
    let (lines, _) = parse_ignore("!x\n".repeat(100_000).as_bytes());
    assert_eq!(lines.len(), 100_000);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn a_binary_file_is_one_error() {
    let parsed = parse(b"\x7fELF\x02\x01\x01\0\0\xff\n\xfe\nFROM a\n");
    let messages: Vec<_> = parsed.diagnostics.iter().map(|d| d.message.as_str()).collect();
    assert_eq!(messages, ["the file is not text"]);
}
