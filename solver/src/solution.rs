//! What a solve answers.

use std::sync::Arc;

use cache::index::{CacheKey, Ingredient, Output};

use crate::key::{self, InputKey};
use crate::llb::{Definition, VertexId};
use crate::worker::Content;

/// The outputs of a definition's targets, and how each vertex came to its result.
#[derive(Debug)]
pub struct Solution {
    /// One for each target, in their order.
    pub outputs: Vec<Output>,
    /// How they came about.
    pub decisions: Arc<Decisions>,
}

/// What a solve had decided when it ended, well or not.
#[derive(Debug)]
pub struct Decisions {
    /// One for each vertex of the definition, in its order.
    pub vertices: Vec<VertexReport>,
    pub(crate) definition: Arc<Definition>,
    pub(crate) keys: Keys,
}

/// How a vertex came to its result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VertexReport {
    /// Where the result came from; `None` when the vertex is not part of the build, is read where
    /// it lies, is scratch, or was neither needed nor recorded.
    pub origin: Option<Origin>,
    /// When the result was made, in RFC 3339: now, or in the build that made it.
    pub created: Option<String>,
    /// The key of its definition; [`crate::Records::lookup`] finds its record.
    pub key: Option<CacheKey>,
    /// Its outputs, where it has any.
    pub outputs: Vec<Output>,
    /// How it ended without a result, where it was tried.
    pub unfinished: Option<Unfinished>,
}

/// How a vertex ended that was, or was about to be, executed and has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unfinished {
    /// It failed.
    Failed,
    /// The solve ended before it did: another vertex failed, or the solve was cancelled.
    Cut,
}

/// Where a result came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The same definition was built before.
    Fast,
    /// The same op was applied to the same content before.
    Slow,
    /// Another vertex of this solve has the same key.
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

impl Decisions {
    /// What was to be built.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The parts that the key of a vertex was made of, by name, with those that contents were made
    /// of behind them. Empty for vertices that have no key.
    pub fn ingredients(&self, vertex: VertexId) -> Vec<Ingredient> {
        match self.keys.fast[vertex.0] {
            Some(_) => self.keys.ingredients(&self.definition, vertex.0),
            None => Vec::new(),
        }
    }
}

/// The fast keys of a solve and the contents that are in them. All lists but `contents` are indexed
/// by vertex.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    pub(crate) fast: Vec<Option<CacheKey>>,
    contents: Vec<Option<Arc<Content>>>,
    input_contents: Vec<Vec<Option<usize>>>,
    identities: Vec<Option<usize>>,
}

impl Keys {
    pub(crate) fn new(
        input_contents: &[Vec<Option<usize>>],
        identities: &[Option<usize>],
        contents: usize,
    ) -> Keys {
        Keys {
            fast: vec![None; identities.len()],
            contents: vec![None; contents],
            input_contents: input_contents.to_vec(),
            identities: identities.to_vec(),
        }
    }

    pub(crate) fn set_content(&mut self, index: usize, content: Content) {
        self.contents[index] = Some(Arc::new(content));
    }

    /// What an unpinned source is at present.
    pub(crate) fn identity(&self, vertex: usize) -> Option<&Arc<Content>> {
        self.identities[vertex].and_then(|index| self.contents[index].as_ref())
    }

    /// The content of an input that is a context.
    pub(crate) fn input_content(&self, vertex: usize, input: usize) -> Option<&Arc<Content>> {
        self.input_contents[vertex][input].and_then(|index| self.contents[index].as_ref())
    }

    /// What a key takes from its inputs, all of which have their keys or contents.
    pub(crate) fn inputs<'a>(
        &'a self,
        definition: &'a Definition,
        vertex: usize,
    ) -> Vec<InputKey<'a>> {
        let inputs = definition.vertices()[vertex].inputs.iter().zip(&self.input_contents[vertex]);
        let inputs = inputs.filter_map(|(input, content)| match content {
            Some(index) => self.contents[*index].as_deref().map(InputKey::Content),
            None => self.fast[input.edge.vertex.0].map(|key| InputKey::Chained {
                key,
                output: input.edge.output,
                selector: input.selector(),
            }),
        });
        inputs.collect()
    }

    pub(crate) fn ingredients(&self, definition: &Definition, vertex: usize) -> Vec<Ingredient> {
        let this = &definition.vertices()[vertex];
        let inputs = self.inputs(definition, vertex);
        key::all_ingredients(this, self.identity(vertex).map(Arc::as_ref), &inputs)
    }
}
