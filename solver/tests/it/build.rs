//! Small builds, written down and run.

use std::num::NonZeroUsize;
use std::sync::Arc;

use cache::oci::{DiffId, Digest, Platform};
use solver::llb::{
    CopyAction, Definition, Edge, ExecOp, FileAction, FileOp, ImageSource, InlineFile, Input,
    LocalContext, Op, Selector, SourceOp, Unpack, Vertex, VertexId, VertexMeta,
};
use solver::{
    Budget, Event, EventSender, MemoryRecords, Origin, Solution, SolveError, Solver, SolverOptions,
};

use crate::fake::FakeWorker;

/// A definition in the making.
#[derive(Default)]
pub(crate) struct Graph {
    pub(crate) definition: Definition,
}

impl Graph {
    pub(crate) fn add(&mut self, name: &str, op: Op, inputs: Vec<Input>) -> VertexId {
        self.add_with(VertexMeta::named(name), op, inputs)
    }

    pub(crate) fn add_with(&mut self, meta: VertexMeta, op: Op, inputs: Vec<Input>) -> VertexId {
        self.definition.add(Vertex { op, inputs, meta }).expect("a sound vertex")
    }

    pub(crate) fn image(&mut self, tag: &str, value: u8) -> VertexId {
        let mut bytes = [0; 32];
        bytes[0] = value;
        let image = ImageSource {
            name: tag.parse().expect("an image name"),
            digest: Digest::of(tag.as_bytes()),
            config: Digest::of(tag.as_bytes()),
            diff_ids: vec![DiffId(Digest::from_bytes(bytes))],
            platform: platform(),
        };
        self.add(tag, Op::Source(SourceOp::Image(image)), Vec::new())
    }

    pub(crate) fn context(&mut self, name: &str) -> VertexId {
        let context = LocalContext { name: name.to_owned(), excludes: Vec::new() };
        self.add(name, Op::Source(SourceOp::Context(context)), Vec::new())
    }

    pub(crate) fn inline(&mut self, bytes: &[u8]) -> VertexId {
        let content = bytes.to_vec();
        let files = vec![InlineFile { path: "EOF".to_owned(), content, mode: 0o644 }];
        self.add("inline", Op::Source(SourceOp::Inline { files }), Vec::new())
    }

    /// `name` is the program with its argument, and the vertex's name.
    pub(crate) fn run(&mut self, name: &str, inputs: &[VertexId]) -> VertexId {
        self.run_with(VertexMeta::named(name), name, inputs)
    }

    pub(crate) fn run_no_cache(&mut self, name: &str, inputs: &[VertexId]) -> VertexId {
        let meta = VertexMeta { no_cache: true, ..VertexMeta::named(name) };
        self.run_with(meta, name, inputs)
    }

    pub(crate) fn run_with(
        &mut self,
        meta: VertexMeta,
        command: &str,
        inputs: &[VertexId],
    ) -> VertexId {
        let args = command.split(' ').map(str::to_owned).collect();
        let inputs = inputs.iter().map(|input| Input::rootfs(*input)).collect();
        self.add_with(meta, Op::Exec(ExecOp::new(args, platform())), inputs)
    }

    pub(crate) fn copy(&mut self, base: VertexId, from: VertexId, path: &str) -> VertexId {
        let copy = CopyAction {
            input: 1,
            sources: vec![path.to_owned()],
            wildcard: true,
            dest: "/".to_owned(),
            owner: None,
            mode: None,
            unpack: Unpack::No,
            parents: false,
            exclude: Vec::new(),
            from_context: true,
            required: true,
            link: false,
            created: None,
        };
        let op = Op::File(FileOp { actions: vec![FileAction::Copy(copy)] });
        let source = Input::content(from, Selector::path(path));
        self.add(&format!("copy {path}"), op, vec![Input::rootfs(base), source])
    }

    pub(crate) fn target(&mut self, edge: impl Into<Edge>) {
        self.definition.target(edge).expect("a sound target");
    }
}

pub(crate) fn platform() -> Platform {
    "linux/amd64".parse().expect("a platform")
}

/// A store and its worker, over several builds.
#[derive(Default)]
pub(crate) struct Bench {
    pub(crate) worker: Arc<FakeWorker>,
    pub(crate) records: Arc<MemoryRecords>,
    pub(crate) max_parallelism: Option<NonZeroUsize>,
    pub(crate) memory: Option<u64>,
    pub(crate) cpu: Option<u32>,
}

/// What a build did.
pub(crate) struct Built {
    pub(crate) solution: Result<Solution, SolveError>,
    pub(crate) events: Vec<Event>,
    pub(crate) definition: Arc<Definition>,
}

impl Bench {
    pub(crate) fn solver(&self) -> Solver {
        let budget = Budget { memory: self.memory, cpu: self.cpu };
        let options = SolverOptions {
            max_parallelism: self.max_parallelism,
            budget: Some(Arc::new(move || budget)),
        };
        Solver::new(self.worker.clone(), self.records.clone(), options)
    }

    /// Builds, having forgotten what was called before.
    pub(crate) async fn build(&self, write: impl FnOnce(&mut Graph)) -> Built {
        let mut graph = Graph::default();
        write(&mut graph);
        self.worker.forget_calls();
        let definition = Arc::new(graph.definition);
        let (sender, mut receiver) = EventSender::channel();
        let solution = self.solver().solve(Arc::clone(&definition), sender).await;
        let mut events = Vec::new();
        while let Ok(event) = receiver.try_recv() {
            events.push(event);
        }
        Built { solution, events, definition }
    }

    /// What was executed, sorted.
    pub(crate) fn executed(&self) -> Vec<String> {
        let mut executed = self.worker.state().executed.clone();
        executed.sort();
        executed
    }

    /// The values of the targets of a build that succeeded.
    pub(crate) fn values(&self, built: &Built) -> Vec<i64> {
        built.solution().outputs.iter().map(|output| self.worker.value(output)).collect()
    }
}

impl Built {
    pub(crate) fn solution(&self) -> &Solution {
        self.solution.as_ref().expect("the build succeeds")
    }

    pub(crate) fn error(&self) -> &SolveError {
        self.solution.as_ref().expect_err("the build fails")
    }

    /// Where the result of the first vertex called `name` came from.
    pub(crate) fn origin(&self, name: &str) -> Option<Origin> {
        self.solution().decisions.vertices[self.index(name)].origin
    }

    pub(crate) fn index(&self, name: &str) -> usize {
        let found = self.definition.vertices().iter().position(|v| v.meta.name == name);
        found.unwrap_or_else(|| panic!("no vertex is called {name}"))
    }

    /// `name: cached` and the like, in the order in which it happened.
    pub(crate) fn story(&self) -> Vec<String> {
        let name = |id: VertexId| self.definition.vertex(id).meta.name.clone();
        let story = self.events.iter().filter_map(|event| match event {
            Event::Started { vertex, .. } => Some(format!("{}: started", name(*vertex))),
            Event::Completed { vertex, error: Some(error), .. } => {
                Some(format!("{}: {error}", name(*vertex)))
            }
            Event::Completed { vertex, cached: true, .. } => {
                Some(format!("{}: cached", name(*vertex)))
            }
            Event::Completed { vertex, .. } => Some(format!("{}: done", name(*vertex))),
            Event::Warning { message, .. } => Some(format!("warning: {message}")),
            _ => None,
        });
        story.collect()
    }
}
