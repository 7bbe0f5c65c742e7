//! What a result leaves in the records.

use std::sync::Arc;

use cache::hash::Fingerprint;
use cache::index::{Ingredient, Output, Record};

use super::plan::selector_of;
use super::{Schedule, VertexState};
use crate::key::{self, InputKey};
use crate::slow::ProbeInput;

impl Schedule {
    /// The records of a result: under its fast key, under its slow key where that is known, and as
    /// the newest of its op.
    pub(super) fn records_of(
        &self,
        vertex: usize,
        outputs: &[Output],
        created: &str,
    ) -> Vec<Record> {
        let Some(fast) = self.keys.fast[vertex] else { return Vec::new() };
        let this = &self.definition.vertices()[vertex];
        let op = self.vertices[vertex].op;
        let inputs = self.probe_inputs(vertex);
        let slow = self.vertices[vertex].slow.clone().or_else(|| {
            let known: Option<Vec<_>> = inputs.iter().map(ProbeInput::known).collect();
            let known = known.filter(|contents| !contents.is_empty())?;
            Some((key::slow(op, &known), known))
        });
        let links = links(&inputs, slow.as_ref().map(|(_, contents)| contents.as_slice()));
        let mut ingredients = self.keys.ingredients(&self.definition, vertex);
        ingredients.extend(links.iter().cloned());
        let record = |key, ingredients| Record {
            key,
            op,
            name: this.meta.name.clone(),
            outputs: outputs.to_vec(),
            created: created.to_owned(),
            ingredients,
        };
        let mut records = Vec::with_capacity(3);
        if !this.inputs.is_empty() {
            let slow = slow.map(|(key, _)| record(key, links.clone()));
            records.extend(slow);
            records.push(record(key::latest(op), links));
        }
        records.push(record(fast, ingredients));
        records
    }

    pub(super) fn probe_inputs(&self, vertex: usize) -> Vec<ProbeInput> {
        let this = &self.definition.vertices()[vertex];
        let inputs = this.inputs.iter().zip(self.keys.inputs(&self.definition, vertex));
        let inputs = inputs.map(|(input, key)| match (self.state(input.edge.vertex.0), key) {
            (_, InputKey::Content(content)) => ProbeInput::Known(content.fingerprint),
            (VertexState::Done { outputs, .. }, _) => ProbeInput::Tree {
                producer: Arc::clone(self.definition.vertex(input.edge.vertex)),
                output: outputs[input.edge.output].clone(),
                selector: selector_of(input).cloned(),
            },
            (_, InputKey::Chained { key, selector, .. }) => {
                ProbeInput::Known(key::inline_content(key, selector))
            }
        });
        inputs.collect()
    }
}

/// What a record says of its inputs besides their keys, so that a later build can compare.
fn links(inputs: &[ProbeInput], contents: Option<&[Fingerprint]>) -> Vec<Ingredient> {
    let mut links = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        if let ProbeInput::Tree { output, selector, .. } = input {
            let value = output.snapshot.as_ref().map_or_else(String::new, ToString::to_string);
            links.push(Ingredient { part: key::tree_part(index), value });
            if let Some(selector) = selector {
                let value = key::json(selector);
                links.push(Ingredient { part: key::read_part(index), value });
            }
        }
        let content = match (contents, input) {
            (Some(contents), _) => Some(contents[index]),
            (None, input) => input.known(),
        };
        if let Some(content) = content {
            links.push(Ingredient { part: key::content_part(index), value: content.to_string() });
        }
    }
    links
}
