//! Which work a build needs, in what order, under which key.
//!
//! The frontend hands over a [`llb::Definition`]; [`Solver::solve`] answers with the outputs of its
//! targets and executes only what the records cannot answer. Whatever touches the world is behind
//! two traits: a [`Worker`] executes vertices and reads contents, [`Records`] remember. Nothing here
//! knows a Dockerfile, a container or a disk.
//!
//! Reading order: [`llb`] the graph, [`key`] what identifies a result, [`Worker`] the door to the
//! world, [`Solver`] the scheduler, [`why`] the answer to "why was this not cached".

mod admission;
mod error;
mod event;
mod finished;
pub mod key;
pub mod llb;
mod records;
mod schedule;
mod slow;
mod solution;
mod solver;
mod travel;
pub mod why;
mod worker;
mod writer;

pub use admission::{Budget, Demand};
pub use cache::index::{CacheKey, Ingredient, Output, Record};
pub use error::{OpError, SolveError};
pub use event::{Event, EventReceiver, EventSender, LogSink, Stream};
pub use records::{MemoryRecords, Records, RecordsError};
pub use solution::{Decisions, Origin, Solution, Unfinished, VertexReport};
pub use solver::{Solver, SolverOptions};
pub use travel::{TreeContent, add_content, has_content, portable};
pub use worker::{Claim, Content, ContentRequest, InputValue, Worker};
