//! Why a step was not cached: the parts of its key that differ from an earlier build's.

use cache::index::{Ingredient, Record};

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

/// The differences between a recorded step and the same step now, in the order of its key.
pub fn explain(previous: &Record, current: &[Ingredient]) -> Vec<Difference> {
    let _ = (previous, current);
    todo!()
}
