//! What a solve answers.

use std::sync::Arc;

use cache::index::{CacheKey, Ingredient, Output};

use crate::llb::{Definition, VertexId};

/// The outputs of a definition's targets, and how each vertex came to its result.
#[derive(Debug)]
pub struct Solution {
    /// One for each target, in their order.
    pub outputs: Vec<Output>,
    /// One for each vertex of the definition, in its order.
    pub vertices: Vec<VertexReport>,
    pub(crate) definition: Arc<Definition>,
}

/// How a vertex came to its result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VertexReport {
    /// Where the result came from; `None` when the vertex is not part of the build, is read where
    /// it lies, or was neither needed nor recorded.
    pub origin: Option<Origin>,
    /// When the result was made, in RFC 3339: now, or in the build that made it.
    pub created: Option<String>,
    /// The key of its definition.
    pub key: Option<CacheKey>,
    /// Its outputs, where it has any.
    pub outputs: Vec<Output>,
}

/// Where a result came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The same definition was built before.
    Fast,
    /// The same op was applied to the same content before.
    Slow,
    /// Another vertex of this solve that has the same key.
    Shared,
    /// It was executed.
    Executed,
}

impl Origin {
    /// Whether nothing was executed for it.
    pub fn is_cached(self) -> bool {
        self != Origin::Executed
    }
}

impl Solution {
    /// The parts that the key of a vertex was made of, by name, for the history and for
    /// [`crate::why::explain`].
    pub fn ingredients(&self, vertex: VertexId) -> Vec<Ingredient> {
        let _ = (&self.definition, vertex);
        todo!()
    }
}
