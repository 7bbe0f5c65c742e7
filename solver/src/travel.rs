//! Records on their way to another machine.
//!
//! At home a record names the trees that its inputs were, so that contents need not be computed
//! before somebody compares. Elsewhere these names mean nothing: what travels is the content. With
//! it the record stands under its slow key as well, whether or not anybody had asked for that here;
//! and so steps that follow one with another history but the same result are hits there too.

use std::collections::HashMap;

use cache::hash::Fingerprint;
use cache::index::{CacheKey, Ingredient, Record};
use cache::snapshot::SnapshotId;

use crate::key;

/// Tells the content of a whole tree that is here; `None` where it is not any more.
pub type TreeContent<'a> = &'a mut dyn FnMut(&SnapshotId) -> Option<Fingerprint>;

/// The records that a result is found by elsewhere, made of the one under its fast key: that one,
/// the one under its slow key where all contents can be told, and the newest of its op.
///
/// A record of another kind travels alone.
pub fn portable(record: &Record, content: TreeContent<'_>) -> Vec<Record> {
    let known: HashMap<&str, &str> =
        record.ingredients.iter().map(|part| (part.part.as_str(), part.value.as_str())).collect();
    let mut parts = Vec::with_capacity(record.ingredients.len());
    for part in &record.ingredients {
        match key::tree_of(&part.part) {
            Some(input) => {
                let whole = !known.contains_key(key::read_part(input).as_str());
                let told = known.contains_key(key::content_part(input).as_str());
                if whole
                    && !told
                    && let Some(content) = tree_content(&part.value, content)
                {
                    let (part, value) = (key::content_part(input), content.to_string());
                    parts.push(Ingredient { part, value });
                }
            }
            None if key::is_bookkeeping(&part.part) && !key::is_content(&part.part) => {}
            None => parts.push(part.clone()),
        }
    }
    let links: Vec<Ingredient> =
        parts.iter().filter(|part| key::is_bookkeeping(&part.part)).cloned().collect();
    let inputs = known.get("inputs").map_or(0, |roles| roles.split(' ').count());
    let fast = Record { ingredients: parts, ..record.clone() };
    // Only under a fast key an op says what it is.
    if !known.contains_key("op") || inputs == 0 {
        return vec![fast];
    }
    let other = |key: CacheKey| Record { key, ingredients: links.clone(), ..record.clone() };
    let contents: Option<Vec<Fingerprint>> = (0..inputs)
        .map(|input| {
            let name = key::content_part(input);
            links.iter().find(|part| part.part == name)?.value.parse().ok()
        })
        .collect();
    let slow = contents.map(|contents| other(key::slow(record.op, &contents)));
    let latest = other(key::latest(record.op));
    slow.into_iter().chain([latest, fast]).collect()
}

/// Whether a record says what content an input had.
pub fn has_content(record: &Record, input: usize) -> bool {
    let name = key::content_part(input);
    record.ingredients.iter().any(|part| part.part == name)
}

/// Notes what content an input had.
pub fn add_content(record: &mut Record, input: usize, content: Fingerprint) {
    let (part, value) = (key::content_part(input), content.to_string());
    record.ingredients.push(Ingredient { part, value });
}

fn tree_content(tree: &str, content: TreeContent<'_>) -> Option<Fingerprint> {
    match tree {
        "" => Some(key::empty_tree()),
        id => content(&id.parse().ok()?),
    }
}
