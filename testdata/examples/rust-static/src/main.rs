//! Counts the words of its arguments, the most frequent first.

use std::collections::BTreeMap;

fn main() {
    let text: Vec<String> = std::env::args().skip(1).collect();
    if text.is_empty() {
        eprintln!("usage: words TEXT...");
        std::process::exit(2);
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in text.iter().flat_map(|argument| argument.split_whitespace()) {
        *counts.entry(word).or_default() += 1;
    }
    let mut rows: Vec<_> = counts.into_iter().collect();
    rows.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    for (word, count) in rows {
        println!("{count:>4} {word}");
    }
}
