//! The part of a definition that its targets stand on, turned round: who waits for whom.

use std::collections::HashMap;
use std::sync::Arc;

use cache::hash::Fingerprint;

use crate::key;
use crate::llb::{Definition, Op, Selector, SourceOp, Vertex};
use crate::worker::ContentRequest;

/// What of a definition matters, fixed for a solve. All lists are indexed by vertex.
pub(super) struct Plan {
    /// Which vertices the targets need. Every other list is empty for the rest.
    pub(super) reachable: Vec<bool>,
    /// Who reads the outputs of a vertex, once for each edge.
    pub(super) consumers: Vec<Vec<usize>>,
    /// Where the content of each input that is a context is found in `contents`.
    pub(super) input_contents: Vec<Vec<Option<usize>>>,
    /// Where what a source is at present is found in `contents`.
    pub(super) identities: Vec<Option<usize>>,
    /// How many outputs of a vertex are used.
    pub(super) outputs: Vec<usize>,
    /// Whether an input's result is to be made anew whatever the records say: the fast key says
    /// nothing then, as it would name the old result.
    pub(super) tainted: Vec<bool>,
    /// The contents that keys need, each once.
    pub(super) contents: Vec<Wanted>,
}

/// A content that keys need.
pub(super) struct Wanted {
    pub(super) request: ContentRequest,
    /// The source it is of.
    pub(super) source: usize,
    /// The vertices whose keys wait for it.
    pub(super) users: Vec<usize>,
}

impl Plan {
    pub(super) fn new(definition: &Definition) -> Plan {
        let count = definition.vertices().len();
        let mut plan = Plan {
            reachable: reachable(definition),
            consumers: vec![Vec::new(); count],
            input_contents: vec![Vec::new(); count],
            identities: vec![None; count],
            outputs: vec![1; count],
            tainted: vec![false; count],
            contents: Vec::new(),
        };
        for target in definition.targets() {
            plan.uses_output(target.vertex.0, target.output);
        }
        let mut known = HashMap::new();
        for (index, vertex) in definition.vertices().iter().enumerate() {
            if plan.reachable[index] {
                plan.add(definition, index, vertex, &mut known);
            }
        }
        plan
    }

    fn add(
        &mut self,
        definition: &Definition,
        index: usize,
        vertex: &Arc<Vertex>,
        known: &mut HashMap<(Fingerprint, Selector), usize>,
    ) {
        if key::needs_identity(&vertex.op) {
            let wanted = self.want(vertex, index, Selector::everything(), known);
            self.identities[index] = Some(wanted);
            self.contents[wanted].users.push(index);
        }
        for input in &vertex.inputs {
            let producer = input.edge.vertex.0;
            self.uses_output(producer, input.edge.output);
            self.consumers[producer].push(index);
            let source = &definition.vertices()[producer];
            self.tainted[index] |= self.tainted[producer] || source.meta.no_cache;
            let content = is_context(source).then(|| {
                let selector = input.selector().cloned().unwrap_or_default();
                let wanted = self.want(source, producer, selector, known);
                self.contents[wanted].users.push(index);
                wanted
            });
            self.input_contents[index].push(content);
        }
    }

    fn uses_output(&mut self, vertex: usize, output: usize) {
        self.outputs[vertex] = self.outputs[vertex].max(output + 1);
    }

    fn want(
        &mut self,
        vertex: &Arc<Vertex>,
        source: usize,
        selector: Selector,
        known: &mut HashMap<(Fingerprint, Selector), usize>,
    ) -> usize {
        let Op::Source(op) = &vertex.op else { unreachable!("only sources have content unbuilt") };
        *known.entry((key::source_digest(op), selector.clone())).or_insert_with(|| {
            let request = ContentRequest { vertex: Arc::clone(vertex), output: None, selector };
            self.contents.push(Wanted { request, source, users: Vec::new() });
            self.contents.len() - 1
        })
    }
}

pub(super) fn is_context(vertex: &Vertex) -> bool {
    matches!(vertex.op, Op::Source(SourceOp::Context(_)))
}

fn reachable(definition: &Definition) -> Vec<bool> {
    let mut reachable = vec![false; definition.vertices().len()];
    for target in definition.targets() {
        reachable[target.vertex.0] = true;
    }
    // Inputs stand before their consumers, so one pass from the end sees each consumer first.
    for (index, vertex) in definition.vertices().iter().enumerate().rev() {
        if reachable[index] {
            for input in &vertex.inputs {
                reachable[input.edge.vertex.0] = true;
            }
        }
    }
    reachable
}
