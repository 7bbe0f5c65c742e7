//! Why a vertex, and with it a solve, failed.

use std::error::Error;
use std::sync::Arc;

use thiserror::Error;

use crate::llb::{Vertex, VertexId};

/// Why one vertex failed.
#[derive(Debug, Error)]
pub enum OpError {
    /// The process ran and did not succeed.
    #[error("process `{command}` {}", ending(*.code, *.signal, *.oom))]
    Exit {
        /// What ran, as the user wrote it.
        command: String,
        /// Its exit code, unless a signal ended it.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// The kernel ended it because memory ran out.
        oom: bool,
        /// The limit of memory in bytes because of which a process of it was killed.
        memory_limit: Option<u64>,
        /// The last lines it wrote, oldest first.
        log_tail: Vec<String>,
    },
    /// The worker could not do it.
    #[error(transparent)]
    Worker(Box<dyn Error + Send + Sync>),
}

impl OpError {
    /// An error of the worker's own.
    pub fn worker(cause: impl Into<Box<dyn Error + Send + Sync>>) -> OpError {
        OpError::Worker(cause.into())
    }

    /// The last lines that the failed process wrote.
    pub fn log_tail(&self) -> &[String] {
        match self {
            OpError::Exit { log_tail, .. } => log_tail,
            OpError::Worker(_) => &[],
        }
    }
}

fn ending(code: Option<i32>, signal: Option<i32>, oom: bool) -> String {
    let ending = match (code, signal) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    };
    if oom { ending + " because memory ran out" } else { ending }
}

/// Why a solve failed: the first vertex that did.
#[derive(Debug, Clone, Error)]
pub enum SolveError {
    /// A vertex failed.
    #[error("`{}` failed", .vertex.meta.name)]
    Op {
        /// Its position in the definition.
        id: VertexId,
        /// The vertex; its meta says where it stands in the Dockerfile.
        vertex: Arc<Vertex>,
        /// Why.
        #[source]
        cause: Arc<OpError>,
    },
    /// The worker answered with fewer outputs than the graph uses. A bug of the worker.
    #[error("`{}` has no output {output}", .vertex.meta.name)]
    NoSuchOutput {
        /// The vertex.
        vertex: Arc<Vertex>,
        /// The output that was asked for.
        output: usize,
    },
    /// The worker panicked.
    #[error("the worker broke down: {message}")]
    Panic {
        /// What it said.
        message: String,
    },
}

impl SolveError {
    /// The vertex it is about, where it is about one.
    pub fn vertex(&self) -> Option<&Arc<Vertex>> {
        match self {
            SolveError::Op { vertex, .. } | SolveError::NoSuchOutput { vertex, .. } => Some(vertex),
            SolveError::Panic { .. } => None,
        }
    }
}
