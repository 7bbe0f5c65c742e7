//! The graph itself.

use std::sync::Arc;

use petgraph::dot::{Config, Dot};
use petgraph::graph::DiGraph;
use thiserror::Error;

use super::{Edge, FileAction, InputRole, MountKind, Op, SourceOp, Vertex, VertexId};

/// A graph of vertices and the outputs of it that are wanted.
///
/// A vertex can only name vertices that were added before it, so a definition has no cycles and its
/// order is an order of execution.
#[derive(Debug, Clone, Default)]
pub struct Definition {
    vertices: Vec<Arc<Vertex>>,
    targets: Vec<Edge>,
}

/// A definition that means nothing.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DefinitionError {
    /// An edge to a vertex that is not (yet) there.
    #[error("`{name}` refers to vertex {vertex}, which is not defined before it")]
    Undefined {
        /// The vertex that refers, or `target`.
        name: String,
        /// What it refers to.
        vertex: usize,
    },
    /// An op names an input its vertex does not have.
    #[error("`{name}` uses input {input}, but has only {inputs}")]
    MissingInput {
        /// The vertex.
        name: String,
        /// The input it names.
        input: usize,
        /// How many it has.
        inputs: usize,
    },
    /// A context or inline files stand where a file system is needed.
    #[error("`{name}` cannot stand upon `{input}`: only its files can be copied or mounted")]
    NotARootfs {
        /// The vertex, or `target`.
        name: String,
        /// The vertex that has no file system.
        input: String,
    },
    /// A source has inputs.
    #[error("`{name}` is a source and cannot have inputs")]
    SourceWithInputs {
        /// The vertex.
        name: String,
    },
}

impl Definition {
    /// An empty graph.
    pub fn new() -> Definition {
        Definition::default()
    }

    /// Adds a vertex whose inputs were added before.
    pub fn add(&mut self, vertex: Vertex) -> Result<VertexId, DefinitionError> {
        let name = || vertex.meta.name.clone();
        if matches!(vertex.op, Op::Source(_)) && !vertex.inputs.is_empty() {
            return Err(DefinitionError::SourceWithInputs { name: name() });
        }
        for input in &vertex.inputs {
            let producer = self.producer(input.edge, &vertex.meta.name)?;
            if producer.is_direct() && input.role == InputRole::Rootfs {
                return Err(DefinitionError::NotARootfs {
                    name: name(),
                    input: producer.meta.name.clone(),
                });
            }
        }
        if let Some(input) = vertex.named_inputs().find(|input| *input >= vertex.inputs.len()) {
            let inputs = vertex.inputs.len();
            return Err(DefinitionError::MissingInput { name: name(), input, inputs });
        }
        self.vertices.push(Arc::new(vertex));
        Ok(VertexId(self.vertices.len() - 1))
    }

    /// Asks for an output. The order of targets is that of [`crate::Solution::outputs`].
    pub fn target(&mut self, edge: impl Into<Edge>) -> Result<(), DefinitionError> {
        let edge = edge.into();
        let producer = self.producer(edge, "target")?;
        if producer.is_direct() {
            let input = producer.meta.name.clone();
            return Err(DefinitionError::NotARootfs { name: "target".to_owned(), input });
        }
        self.targets.push(edge);
        Ok(())
    }

    /// All vertices, each after its inputs.
    pub fn vertices(&self) -> &[Arc<Vertex>] {
        &self.vertices
    }

    /// All ids, in the order of [`Definition::vertices`].
    pub fn ids(&self) -> impl Iterator<Item = VertexId> + use<> {
        (0..self.vertices.len()).map(VertexId)
    }

    /// One vertex.
    ///
    /// # Panics
    /// If `id` is of another, larger definition.
    pub fn vertex(&self, id: VertexId) -> &Arc<Vertex> {
        &self.vertices[id.0]
    }

    /// What is wanted.
    pub fn targets(&self) -> &[Edge] {
        &self.targets
    }

    /// The graph in the language of Graphviz, for people.
    pub fn to_dot(&self) -> String {
        let mut graph = DiGraph::<String, String>::new();
        let nodes: Vec<_> =
            self.vertices.iter().map(|vertex| graph.add_node(vertex.meta.name.clone())).collect();
        for (index, vertex) in self.vertices.iter().enumerate() {
            for input in &vertex.inputs {
                let label = match &input.role {
                    InputRole::Rootfs => String::new(),
                    InputRole::Whole => "/".to_owned(),
                    InputRole::Content(selector) => {
                        let paths: Vec<_> =
                            selector.paths.iter().map(|p| p.path.as_str()).collect();
                        paths.join(" ")
                    }
                };
                graph.add_edge(nodes[input.edge.vertex.0], nodes[index], label);
            }
        }
        let options = [Config::NodeNoLabel, Config::EdgeNoLabel];
        let node = |_: &_, (_, name): (_, &String)| format!("shape=box label={name:?}");
        let edge = |_: &_, edge: petgraph::graph::EdgeReference<'_, String>| {
            format!("label={:?}", edge.weight())
        };
        Dot::with_attr_getters(&graph, &options, &edge, &node).to_string()
    }

    fn producer(&self, edge: Edge, name: &str) -> Result<&Arc<Vertex>, DefinitionError> {
        let undefined =
            || DefinitionError::Undefined { name: name.to_owned(), vertex: edge.vertex.0 };
        self.vertices.get(edge.vertex.0).ok_or_else(undefined)
    }
}

impl Vertex {
    /// Whether consumers read this where it lies: it is never executed and has no outputs.
    pub fn is_direct(&self) -> bool {
        matches!(self.op, Op::Source(SourceOp::Context(_) | SourceOp::Inline { .. }))
    }

    /// Every input position that the op names.
    fn named_inputs(&self) -> impl Iterator<Item = usize> {
        let named: Vec<usize> = match &self.op {
            Op::Source(_) => Vec::new(),
            Op::Merge(_) => vec![0, 1],
            Op::Exec(exec) => {
                let mounts = exec.mounts.iter().filter_map(|mount| match &mount.kind {
                    MountKind::Bind { input, .. } => Some(*input),
                    MountKind::Cache { input, .. } => input.as_ref().map(|(input, _)| *input),
                    _ => None,
                });
                std::iter::once(0).chain(mounts).collect()
            }
            Op::File(file) => {
                let copies = file.actions.iter().filter_map(|action| match action {
                    FileAction::Copy(copy) => Some(copy.input),
                    FileAction::Mkdir(_) => None,
                });
                std::iter::once(0).chain(copies).collect()
            }
        };
        named.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llb::{ExecOp, Input, LocalContext, MergeOp, Selector, VertexMeta};

    fn vertex(name: &str, op: Op, inputs: Vec<Input>) -> Vertex {
        Vertex { op, inputs, meta: VertexMeta::named(name) }
    }

    fn context() -> Op {
        let name = "context".to_owned();
        Op::Source(SourceOp::Context(LocalContext { name, excludes: Vec::new() }))
    }

    fn run() -> Op {
        let platform = "linux/amd64".parse().expect("a platform");
        Op::Exec(ExecOp::new(vec!["true".to_owned()], platform))
    }

    #[test]
    fn a_vertex_can_only_name_what_was_added_before() {
        let mut definition = Definition::new();
        let later = Edge::from(VertexId(3));
        let error = definition.add(vertex("run", run(), vec![Input::rootfs(later)]));
        let name = "run".to_owned();
        assert_eq!(error, Err(DefinitionError::Undefined { name, vertex: 3 }));
        let name = "target".to_owned();
        assert_eq!(definition.target(later), Err(DefinitionError::Undefined { name, vertex: 3 }));
    }

    #[test]
    fn an_op_has_every_input_it_names() {
        let mut definition = Definition::new();
        let scratch = definition.add(vertex("scratch", Op::Source(SourceOp::Scratch), vec![]));
        let scratch = scratch.expect("a sound vertex");
        let merge = vertex("merge", Op::Merge(MergeOp), vec![Input::rootfs(scratch)]);
        let expected =
            DefinitionError::MissingInput { name: "merge".to_owned(), input: 1, inputs: 1 };
        assert_eq!(definition.add(merge), Err(expected));
        let error = definition.add(vertex("context", context(), vec![Input::rootfs(scratch)]));
        let name = "context".to_owned();
        assert_eq!(error, Err(DefinitionError::SourceWithInputs { name }));
    }

    #[test]
    fn a_context_is_no_file_system() {
        let mut definition = Definition::new();
        let context = definition.add(vertex("context", context(), vec![])).expect("a context");
        let error = |name: &str| {
            let (name, input) = (name.to_owned(), "context".to_owned());
            Err(DefinitionError::NotARootfs { name, input })
        };
        let run = vertex("run", run(), vec![Input::rootfs(context)]);
        assert_eq!(definition.add(run).map(drop), error("run"));
        assert_eq!(definition.target(context), error("target"));
    }

    #[test]
    fn the_picture_names_steps_and_what_is_read() {
        let mut definition = Definition::new();
        let context = definition.add(vertex("context", context(), vec![])).expect("a context");
        let scratch = definition.add(vertex("scratch", Op::Source(SourceOp::Scratch), vec![]));
        let inputs = vec![
            Input::rootfs(scratch.expect("a sound vertex")),
            Input::content(context, Selector::path("/a \"b\"")),
        ];
        definition.add(vertex("RUN true", run(), inputs)).expect("a sound vertex");
        let dot = definition.to_dot();
        assert!(dot.contains(r#"2 [ shape=box label="RUN true"]"#), "{dot}");
        assert!(dot.contains(r#"0 -> 2 [ label="/a \"b\""]"#), "{dot}");
    }
}
