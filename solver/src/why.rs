//! Why a step was not cached: the parts of its key that differ from an earlier build's.

use std::collections::{HashMap, VecDeque};

use cache::index::{Ingredient, Record};

use crate::key;

/// A part of a key that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The part: `env.PATH`, `input.0`, `input.1.file:/src/a.c#mode`.
    pub part: String,
    /// What it was; `None` when it is new.
    pub before: Option<String>,
    /// What it is; `None` when it is gone.
    pub after: Option<String>,
}

/// The differences between a recorded step and the same step now ([`crate::Decisions::ingredients`]),
/// in the order of the present key, what is gone last.
///
/// A name that stands more than once (two mounts on one target) is compared by its occurrence.
pub fn explain(previous: &Record, current: &[Ingredient]) -> Vec<Difference> {
    let mut before: HashMap<&str, VecDeque<&str>> = HashMap::new();
    for ingredient in relevant(&previous.ingredients) {
        before.entry(&ingredient.part).or_default().push_back(&ingredient.value);
    }
    let mut differences = Vec::new();
    for Ingredient { part, value } in relevant(current) {
        let old = before.get_mut(part.as_str()).and_then(VecDeque::pop_front);
        if old != Some(value) {
            differences.push(Difference {
                part: part.clone(),
                before: old.map(str::to_owned),
                after: Some(value.clone()),
            });
        }
    }
    for Ingredient { part, .. } in relevant(&previous.ingredients) {
        // What is still in the list after all present parts were taken out is gone.
        while let Some(old) = before.get_mut(part.as_str()).and_then(VecDeque::pop_front) {
            let before = Some(old.to_owned());
            differences.push(Difference { part: part.clone(), before, after: None });
        }
    }
    differences
}

fn relevant(ingredients: &[Ingredient]) -> impl Iterator<Item = &Ingredient> {
    ingredients.iter().filter(|ingredient| !key::is_bookkeeping(&ingredient.part))
}

#[cfg(test)]
mod tests {
    use cache::hash::Fingerprint;
    use cache::index::CacheKey;

    use super::*;

    fn ingredients(text: &str) -> Vec<Ingredient> {
        let parts = text.split_whitespace().filter_map(|word| word.split_once('='));
        parts.map(|(part, value)| Ingredient { part: part.into(), value: value.into() }).collect()
    }

    fn check(before: &str, now: &str, expected: &[(&str, Option<&str>, Option<&str>)]) {
        let previous = Record {
            key: CacheKey(Fingerprint::of(b"key")),
            op: Fingerprint::of(b"op"),
            name: "RUN make".to_owned(),
            outputs: Vec::new(),
            created: String::new(),
            ingredients: ingredients(before),
        };
        let found = explain(&previous, &ingredients(now));
        let found: Vec<_> = found
            .iter()
            .map(|d| (d.part.as_str(), d.before.as_deref(), d.after.as_deref()))
            .collect();
        assert_eq!(found, expected, "{before} -> {now}");
    }

    #[test]
    fn only_what_differs_is_named() {
        check("op=exec env.A=1 cwd=/", "op=exec env.A=1 cwd=/", &[]);
        check("op=exec env.A=1", "op=exec env.A=2", &[("env.A", Some("1"), Some("2"))]);
        check("env.A=1", "env.A=1 env.B=2", &[("env.B", None, Some("2"))]);
        check("env.A=1 env.B=2", "env.A=1", &[("env.B", Some("2"), None)]);
        check(
            "input.0=a input.1.file:/x#mode=0644",
            "input.0=b input.1.file:/x#mode=0755",
            &[
                ("input.0", Some("a"), Some("b")),
                ("input.1.file:/x#mode", Some("0644"), Some("0755")),
            ],
        );
    }

    #[test]
    fn repeated_names_are_compared_in_order() {
        check("mount./a=bind mount./a=tmpfs", "mount./a=bind mount./a=tmpfs", &[]);
        check("mount./a=x mount./a=y", "mount./a=x", &[("mount./a", Some("y"), None)]);
        check(
            "mount./a=x",
            "mount./a=z mount./a=x",
            &[("mount./a", Some("x"), Some("z")), ("mount./a", None, Some("x"))],
        );
    }

    #[test]
    fn where_a_tree_lay_is_no_reason() {
        check("tree.0=aa content.0=1 op=exec", "op=exec", &[]);
    }
}
