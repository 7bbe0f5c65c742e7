//! The door to the world: what the solver asks of whoever does the work.

use std::any::Any;
use std::sync::Arc;

use cache::hash::Fingerprint;
use cache::index::{CacheKey, Ingredient, Output};
use futures_util::future::BoxFuture;

use crate::admission::Demand;
use crate::error::OpError;
use crate::event::LogSink;
use crate::llb::{Selector, Vertex};

/// Executes vertices and reads contents.
///
/// Every future may be dropped at any await: whatever it holds (containers, half-made snapshots)
/// must go with it. Futures run as tasks of their own and must not block a thread for long; CPU
/// work and file walks belong on threads made for it. Nothing that crosses this trait is a path of
/// the local machine.
pub trait Worker: Send + Sync + 'static {
    /// Executes a vertex.
    ///
    /// `inputs` has one value for each of the vertex's inputs, in their order. The result has one
    /// output for each that the op makes. It is called at most once for a key in one solve, never
    /// for contexts, inline files and scratch.
    fn exec(
        &self,
        vertex: Arc<Vertex>,
        inputs: Vec<InputValue>,
        log: LogSink,
    ) -> BoxFuture<'_, Result<Vec<Output>, OpError>>;

    /// The fingerprint of what a selector names.
    ///
    /// Without an output the vertex is a source that was not executed: of a context, the content of
    /// the selected paths; of an HTTP or git source that is not pinned, whatever tells one state of
    /// the far side from the next (content digest and time, commit), the selector being everything.
    /// A selected path that is not there is an error that names it.
    fn content(&self, request: ContentRequest) -> BoxFuture<'_, Result<Content, OpError>>;

    /// The content of a whole chain of layers, times aside.
    fn rootfs_content(&self, output: Output) -> BoxFuture<'_, Result<Fingerprint, OpError>>;

    /// Whether the snapshot of a record is still there and sound.
    ///
    /// Who answers yes notes that the tree was used, so that it is the last to be pruned.
    /// Asked for every record that might be used, on the task that schedules: a few `stat` calls,
    /// not more. Answers for an output without a snapshot are not asked for.
    ///
    /// # Errors
    /// If that cannot be told: executing the step anew would hide what is wrong.
    fn exists(&self, output: &Output) -> Result<bool, OpError>;

    /// What executing a vertex is expected to take: what it took the last time, or a guess.
    ///
    /// Decides what runs at the same time, never what comes out. Asked on the task that is about to
    /// execute it; microseconds, no more.
    fn expects(&self, vertex: &Vertex) -> Demand {
        let _ = vertex;
        Demand::default()
    }

    /// Waits until nobody else, in this process or another, executes the vertex of `key`, and keeps
    /// them from doing so until the claim is dropped.
    ///
    /// The solver looks the key up once more when it has a claim, and drops it when the result is
    /// recorded. `None` means that this worker does not coordinate.
    fn claim(&self, key: CacheKey) -> BoxFuture<'_, Option<Claim>> {
        let _ = key;
        Box::pin(std::future::ready(None))
    }
}

/// The right to execute a vertex; dropped to give it back.
pub type Claim = Box<dyn Any + Send>;

/// What a vertex gets for one of its inputs.
#[derive(Debug, Clone, PartialEq)]
pub enum InputValue {
    /// The output of a vertex that was executed, now or in an earlier build.
    Output(Output),
    /// A context or inline files ([`Vertex::is_direct`]): the worker reads them where they are.
    Direct(Arc<Vertex>),
}

/// Asks for the fingerprint of a part of a tree.
#[derive(Debug, Clone, PartialEq)]
pub struct ContentRequest {
    /// Whose tree it is.
    pub vertex: Arc<Vertex>,
    /// The tree; `None` for sources that have not been executed.
    pub output: Option<Output>,
    /// Which part of it.
    pub selector: Selector,
}

/// The fingerprint of a part of a tree, and what it was made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// Of all that was selected.
    pub fingerprint: Fingerprint,
    /// The parts by name, as `file:/src/a.c#mode`; whoever makes them bounds their number. They
    /// are kept to explain a miss and are not hashed again.
    pub ingredients: Vec<Ingredient>,
}
