//! The solver's outside: what it is made of, and the one call.

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::admission::{Admission, Budget};
use crate::error::SolveError;
use crate::event::EventSender;
use crate::llb::Definition;
use crate::records::Records;
use crate::schedule::Schedule;
use crate::solution::{Decisions, Solution};
use crate::worker::Worker;

/// Solves definitions with one worker and one set of records.
#[derive(Clone)]
pub struct Solver {
    pub(crate) worker: Arc<dyn Worker>,
    pub(crate) records: Arc<dyn Records>,
    pub(crate) admission: Arc<Admission>,
}

/// How a solver works.
#[derive(Clone, Default)]
pub struct SolverOptions {
    /// How many vertices are executed at once, over all solves of this solver; all that are ready
    /// where it is absent.
    pub max_parallelism: Option<NonZeroUsize>,
    /// What there is for the vertices at work, everything where it is absent. Asked once, when the
    /// first is about to be executed: a build that finds all of its results never asks.
    pub budget: Option<Arc<dyn Fn() -> Budget + Send + Sync>>,
}

impl Solver {
    /// A solver that has `worker` do what `records` do not know.
    pub fn new(
        worker: Arc<dyn Worker>,
        records: Arc<dyn Records>,
        options: SolverOptions,
    ) -> Solver {
        Solver { worker, records, admission: Arc::new(Admission::new(options)) }
    }

    /// Produces the targets of `definition`.
    ///
    /// Returns when all targets are there and everything is recorded, or with the first error, when
    /// everything else has been cancelled. Dropping the future cancels all work; what was finished
    /// until then is recorded. Needs a tokio runtime.
    pub async fn solve(
        &self,
        definition: Arc<Definition>,
        events: EventSender,
    ) -> Result<Solution, SolveError> {
        self.solve_telling(definition, events, |_| {}).await
    }

    /// As [`Solver::solve`]; `decided` gets what was decided whatever the end: success, an error, or
    /// that the future is dropped.
    pub async fn solve_telling(
        &self,
        definition: Arc<Definition>,
        events: EventSender,
        decided: impl FnOnce(Arc<Decisions>) + Send + 'static,
    ) -> Result<Solution, SolveError> {
        Schedule::new(self, definition, events, Box::new(decided)).run().await
    }
}
