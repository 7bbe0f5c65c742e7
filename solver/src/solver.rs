//! The solver's outside: what it is made of, and the one call.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::SolveError;
use crate::event::EventSender;
use crate::llb::Definition;
use crate::records::Records;
use crate::schedule::Schedule;
use crate::solution::Solution;
use crate::worker::Worker;

/// Solves definitions with one worker and one set of records.
#[derive(Clone)]
pub struct Solver {
    pub(crate) worker: Arc<dyn Worker>,
    pub(crate) records: Arc<dyn Records>,
    permits: Option<Arc<Semaphore>>,
}

/// How a solver works.
#[derive(Debug, Clone, Copy, Default)]
pub struct SolverOptions {
    /// How many vertices are executed at once, over all solves of this solver; all that are ready
    /// where it is absent.
    pub max_parallelism: Option<NonZeroUsize>,
}

impl Solver {
    /// A solver that has `worker` do what `records` do not know.
    pub fn new(
        worker: Arc<dyn Worker>,
        records: Arc<dyn Records>,
        options: SolverOptions,
    ) -> Solver {
        let permits = options.max_parallelism.map(|count| Arc::new(Semaphore::new(count.get())));
        Solver { worker, records, permits }
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
        Schedule::new(self, self.permits.clone(), definition, events).run().await
    }
}
