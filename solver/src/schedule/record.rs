//! What the scheduler knows of a vertex's inputs, for the slow key and for the records.

use std::sync::Arc;

use cache::index::Output;

use super::{Schedule, VertexState};
use crate::finished::{Finished, FinishedInput, Keyed};
use crate::key;
use crate::llb::Input;
use crate::slow::ProbeInput;

impl Schedule {
    /// A result, with what the records need to know of it. `None` without a fast key.
    pub(super) fn finished(
        &self,
        vertex: usize,
        outputs: &[Output],
        created: &str,
    ) -> Option<Finished> {
        let fast = self.keys.fast[vertex]?;
        let this = &self.definition.vertices()[vertex];
        let inputs = this.inputs.iter().enumerate().filter_map(|(index, input)| {
            let keyed = self.keyed(vertex, index, input)?;
            let probe = self.probe_input(input, &keyed);
            Some(FinishedInput { keyed, probe })
        });
        Some(Finished {
            inputs: inputs.collect(),
            vertex: Arc::clone(this),
            op: self.vertices[vertex].op,
            fast,
            slow: self.vertices[vertex].slow.clone(),
            identity: self.keys.identity(vertex).cloned(),
            outputs: outputs.to_vec(),
            created: created.to_owned(),
        })
    }

    pub(super) fn probe_inputs(&self, vertex: usize) -> Vec<ProbeInput> {
        let inputs = self.definition.vertices()[vertex].inputs.iter().enumerate();
        let inputs = inputs.filter_map(|(index, input)| {
            let keyed = self.keyed(vertex, index, input)?;
            Some(self.probe_input(input, &keyed))
        });
        inputs.collect()
    }

    /// `None` while the input has neither key nor content.
    fn keyed(&self, vertex: usize, index: usize, input: &Input) -> Option<Keyed> {
        match self.keys.input_content(vertex, index) {
            Some(content) => Some(Keyed::Content(Arc::clone(content))),
            None => self.keys.fast[input.edge.vertex.0].map(Keyed::Chained),
        }
    }

    fn probe_input(&self, input: &Input, keyed: &Keyed) -> ProbeInput {
        match (self.state(input.edge.vertex.0), keyed) {
            (_, Keyed::Content(content)) => ProbeInput::Known(content.fingerprint),
            (VertexState::Done { outputs, .. }, _) => ProbeInput::Tree {
                producer: Arc::clone(self.definition.vertex(input.edge.vertex)),
                output: outputs[input.edge.output].clone(),
                selector: input.selector().cloned(),
            },
            (_, Keyed::Chained(key)) => {
                ProbeInput::Known(key::inline_content(*key, input.selector()))
            }
        }
    }
}
