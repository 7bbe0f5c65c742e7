//! A result on its way into the records.
//!
//! A record names every part of its key, and a result has up to three of them: more strings than all
//! else about a vertex. So the scheduler hands over what it has, and the records are put together on
//! the thread that stores them ([`crate::writer`]).

use std::sync::Arc;

use cache::hash::Fingerprint;
use cache::index::{CacheKey, Ingredient, Output, Record};

use crate::key::{self, InputKey};
use crate::llb::{Input, Vertex};
use crate::slow::ProbeInput;
use crate::worker::Content;

/// A vertex with its outputs, and what of its inputs the records keep.
pub(crate) struct Finished {
    pub(crate) vertex: Arc<Vertex>,
    pub(crate) op: Fingerprint,
    pub(crate) fast: CacheKey,
    /// The slow key and what it was made of, where they were computed.
    pub(crate) slow: Option<(CacheKey, Vec<Fingerprint>)>,
    /// What an unpinned source was.
    pub(crate) identity: Option<Arc<Content>>,
    /// One for each of the vertex's inputs.
    pub(crate) inputs: Vec<FinishedInput>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) created: String,
}

/// An input of a finished vertex.
pub(crate) struct FinishedInput {
    /// What the fast key took from it.
    pub(crate) keyed: Keyed,
    /// What the slow key takes from it.
    pub(crate) probe: ProbeInput,
}

/// [`InputKey`], owned.
pub(crate) enum Keyed {
    /// By its own fast key.
    Chained(CacheKey),
    /// By the content of what is read of it.
    Content(Arc<Content>),
}

impl Finished {
    /// The records of the result: under its slow key where that is known, as the newest of its op,
    /// and under its fast key.
    pub(crate) fn into_records(mut self) -> Vec<Record> {
        let slow = self.slow.take().or_else(|| {
            let known: Option<Vec<_>> =
                self.inputs.iter().map(|input| input.probe.known()).collect();
            let known = known.filter(|contents| !contents.is_empty())?;
            Some((key::slow(self.op, &known), known))
        });
        let links = self.links(slow.as_ref().map(|(_, contents)| contents.as_slice()));
        let mut ingredients = self.ingredients();
        ingredients.extend(links.iter().cloned());
        let record = |key, ingredients| Record {
            key,
            op: self.op,
            name: self.vertex.meta.name.clone(),
            outputs: self.outputs.clone(),
            created: self.created.clone(),
            ingredients,
        };
        let mut records = Vec::with_capacity(3);
        if !self.inputs.is_empty() {
            let slow = slow.map(|(key, _)| record(key, links.clone()));
            records.extend(slow);
            records.push(record(key::latest(self.op), links));
        }
        records.push(record(self.fast, ingredients));
        records
    }

    fn ingredients(&self) -> Vec<Ingredient> {
        let inputs = self.vertex.inputs.iter().zip(&self.inputs);
        let inputs: Vec<_> = inputs.map(|(input, finished)| finished.keyed.as_key(input)).collect();
        key::all_ingredients(&self.vertex, self.identity.as_deref(), &inputs)
    }

    /// What a record says of its inputs besides their keys, so that a later build can compare.
    fn links(&self, contents: Option<&[Fingerprint]>) -> Vec<Ingredient> {
        let mut links = Vec::new();
        for (index, FinishedInput { probe, .. }) in self.inputs.iter().enumerate() {
            if let ProbeInput::Tree { output, selector, .. } = probe {
                let value = output.snapshot.as_ref().map_or_else(String::new, ToString::to_string);
                links.push(Ingredient { part: key::tree_part(index), value });
                if let Some(selector) = selector {
                    let value = key::json(selector);
                    links.push(Ingredient { part: key::read_part(index), value });
                }
            }
            let content = match contents {
                Some(contents) => Some(contents[index]),
                None => probe.known(),
            };
            if let Some(content) = content {
                let part = key::content_part(index);
                links.push(Ingredient { part, value: content.to_string() });
            }
        }
        links
    }
}

impl Keyed {
    fn as_key<'a>(&'a self, input: &'a Input) -> InputKey<'a> {
        match self {
            Keyed::Content(content) => InputKey::Content(content),
            Keyed::Chained(key) => InputKey::Chained {
                key: *key,
                output: input.edge.output,
                selector: input.selector(),
            },
        }
    }
}
