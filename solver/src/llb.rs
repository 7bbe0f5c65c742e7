//! The low-level build graph: what is to be done, without how or whether.
//!
//! A [`Definition`] is a graph of [`Vertex`]es. Each is one [`Op`] over the outputs of earlier
//! vertices:
//!
//! | op | does | inputs | outputs |
//! |---|---|---|---|
//! | [`SourceOp`] | brings something into the build | none | one file tree |
//! | [`ExecOp`] | runs a process | `0` is the root file system, the rest are bind mounts | the changed root |
//! | [`FileOp`] | copies files, makes directories | `0` is the base, the rest are copy sources | the changed base |
//! | [`MergeOp`] | lays a layer made on nothing over a base | `0` the base, `1` the layer | the sum |
//!
//! The frontend lowers a Dockerfile to this, the solver decides what of it is needed, the worker
//! does it. No local path, no client and no time stands here: a definition means the same on every
//! machine. What a person wants to see of a vertex is its [`VertexMeta`], which enters no key.

mod definition;
mod environment;
mod exec;
mod file;
mod source;

pub use definition::{Definition, DefinitionError};
pub use environment::Environment;
pub use exec::{
    DeviceRequest, ExecMount, ExecOp, ExtraHost, MountKind, NetworkMode, SecretEnv, SecurityMode,
    Sharing, Ulimit,
};
pub use file::{ChmodSpec, CopyAction, FileAction, FileOp, MkdirAction, Owner, Unpack, UserSpec};
pub use source::{GitSource, HttpSource, ImageSource, InlineFile, LocalContext, SourceOp};

use serde::{Deserialize, Serialize};

/// Names a vertex within its definition: its position in [`Definition::vertices`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VertexId(pub(crate) usize);

impl VertexId {
    /// The position in [`Definition::vertices`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// One output of one vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Edge {
    /// Whose output.
    pub vertex: VertexId,
    /// Which output, from zero.
    pub output: usize,
}

impl From<VertexId> for Edge {
    /// The first output, which is the only one of nearly every op.
    fn from(vertex: VertexId) -> Edge {
        Edge { vertex, output: 0 }
    }
}

/// One step of a build: an op, what it works on, and how it is called to a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Vertex {
    /// What is done.
    pub op: Op,
    /// What it is done to; ops name their inputs by the position in this list.
    pub inputs: Vec<Input>,
    /// What a person sees. Enters no key.
    pub meta: VertexMeta,
}

/// One thing a vertex reads, and how much of it the vertex can see.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Whose output it is.
    pub edge: Edge,
    /// How much of it matters.
    pub role: InputRole,
}

impl Input {
    /// `edge` as the root file system or base.
    pub fn rootfs(edge: impl Into<Edge>) -> Input {
        Input { edge: edge.into(), role: InputRole::Rootfs }
    }

    /// Of `edge` only what `selector` names.
    pub fn content(edge: impl Into<Edge>, selector: Selector) -> Input {
        Input { edge: edge.into(), role: InputRole::Content(selector) }
    }

    /// All of `edge`.
    pub fn whole(edge: impl Into<Edge>) -> Input {
        Input { edge: edge.into(), role: InputRole::Whole }
    }

    /// The part that is read, where not everything is.
    pub fn selector(&self) -> Option<&Selector> {
        match &self.role {
            InputRole::Content(selector) => Some(selector),
            InputRole::Rootfs | InputRole::Whole => None,
        }
    }
}

/// How much of an input can change the result.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum InputRole {
    /// The tree that the result is made upon: its content is that of the whole chain of layers.
    Rootfs,
    /// Only what the selector names is read: copy sources and read-only bind mounts.
    Content(Selector),
    /// Everything in it may be read, but the result does not stand upon it: writable bind mounts.
    Whole,
}

/// Which part of a tree is read.
///
/// The content fingerprint of a selector covers names below each selected path (or, for wildcards,
/// below the tree's root), modes, owners, links, extended attributes and bytes. It does not cover
/// the name of a selected path itself, times, or anything not selected. The order of paths counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selector {
    /// What is read, in the order in which it is read; none means the whole tree.
    pub paths: Vec<SelectPath>,
    /// Patterns, relative to each path, of which at least one must match; none means all.
    pub include: Vec<String>,
    /// Patterns in `.dockerignore` syntax, relative to each path, for what is left out.
    pub exclude: Vec<String>,
    /// Parent directories are copied along (`COPY --parents`): their names and attributes count.
    pub parents: bool,
}

impl Selector {
    /// The whole tree.
    pub fn everything() -> Selector {
        Selector::default()
    }

    /// One path, taken literally, with a link at its end followed.
    pub fn path(path: impl Into<String>) -> Selector {
        let path =
            SelectPath { path: path.into(), wildcard: false, follow: true, contents_only: false };
        Selector { paths: vec![path], ..Selector::default() }
    }

    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        *self == Selector::default()
    }
}

/// One path of a [`Selector`], from the root of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SelectPath {
    /// The path, or the pattern.
    pub path: String,
    /// `path` is a pattern in the syntax of Go's `filepath.Match`.
    pub wildcard: bool,
    /// A link at the end of the path is followed, within the tree.
    pub follow: bool,
    /// Where the path is a directory, its own attributes do not count, only what is in it.
    pub contents_only: bool,
}

/// What a person sees of a vertex: never part of a key, so that renaming a stage rebuilds nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VertexMeta {
    /// As the progress shows it: `[builder 2/4] RUN make`.
    pub name: String,
    /// The instruction this was lowered from.
    pub source: Option<SourceLocation>,
    /// The stage, as the Dockerfile calls it.
    pub stage: Option<String>,
    /// The cache is not asked (`--no-cache`); the result is stored all the same.
    pub no_cache: bool,
    /// Vertices of one group are shown as one step.
    pub progress_group: Option<String>,
}

impl VertexMeta {
    /// A vertex called `name`, with nothing else known of it.
    pub fn named(name: impl Into<String>) -> VertexMeta {
        VertexMeta { name: name.into(), ..VertexMeta::default() }
    }
}

/// Lines of a file the user wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLocation {
    /// The file as the user named it.
    pub file: String,
    /// The first line, from one.
    pub first_line: u32,
    /// The last line, from one, included.
    pub last_line: u32,
}

/// What a vertex does.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Brings something into the build.
    Source(SourceOp),
    /// Runs a process.
    Exec(ExecOp),
    /// Copies files, makes directories.
    File(FileOp),
    /// Lays one layer over a base.
    Merge(MergeOp),
}

/// Lays input 1, a layer that was made on nothing, over input 0, without copying either
/// (`COPY --link`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MergeOp;
