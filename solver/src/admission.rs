//! Admission: which of the vertices that are ready may start now.
//!
//! A step that is started beside others although the memory does not suffice for all of them makes
//! the kernel kill one, or the machine swap; one more than there are processors only makes all of
//! them slower. What a step needs is what it took when it was last executed ([`Worker::expects`]);
//! how much there is, says whoever makes the solver ([`SolverOptions`]).
//!
//! Three things are handed out, in this order: places, memory, processors. Each is a fair
//! semaphore, first come, first served: a large step is not overtaken for ever by small ones. A step
//! that needs more than all there is gets all there is, and so runs alone: something always runs.
//! Nobody waits in a ring, since who waits for one of them holds only those before it, and who has
//! all three runs.
//!
//! [`Worker::expects`]: crate::Worker::expects

use std::sync::LazyLock;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::solver::SolverOptions;

/// Memory is handed out in MiB: semaphores count to 2^32 and no finer choice is worth anything.
const MEMORY_UNIT: u64 = 1 << 20;

/// What a vertex is expected to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// Bytes of memory at its peak.
    pub memory: u64,
    /// Thousandths of a processor, on average.
    pub cpu: u32,
}

/// What the vertices at work may take together, by what each is expected to take; as much as they
/// like of what is absent. One vertex is always executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Thousandths of processors.
    pub cpu: Option<u32>,
}

/// What is handed out. Shared by all solves of a solver.
pub(crate) struct Admission {
    places: Option<Semaphore>,
    shares: LazyLock<Shares, Box<dyn FnOnce() -> Shares + Send>>,
}

struct Shares {
    memory: Option<Share>,
    cpu: Option<Share>,
}

/// A semaphore that knows how much it began with.
#[derive(Debug)]
struct Share {
    whole: u32,
    left: Semaphore,
}

/// The right to run; dropped to give everything back.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    _place: Option<SemaphorePermit<'a>>,
    _memory: Option<SemaphorePermit<'a>>,
    _cpu: Option<SemaphorePermit<'a>>,
}

impl Admission {
    pub(crate) fn new(options: SolverOptions) -> Admission {
        let budget = options.budget;
        Admission {
            places: options.max_parallelism.map(|count| Semaphore::new(count.get())),
            shares: LazyLock::new(Box::new(move || {
                Shares::of(budget.map(|budget| budget()).unwrap_or_default())
            })),
        }
    }

    /// Waits for its turn.
    pub(crate) async fn enter(&self, demand: Demand) -> Admitted<'_> {
        let memory = u32::try_from(demand.memory.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX);
        Admitted {
            // Neither semaphore is ever closed.
            _place: match &self.places {
                Some(places) => places.acquire().await.ok(),
                None => None,
            },
            _memory: Share::take(&self.shares.memory, memory).await,
            _cpu: Share::take(&self.shares.cpu, demand.cpu).await,
        }
    }
}

impl Shares {
    fn of(budget: Budget) -> Shares {
        let units = |bytes: u64| u32::try_from(bytes / MEMORY_UNIT).unwrap_or(u32::MAX);
        Shares {
            memory: budget.memory.map(|bytes| Share::new(units(bytes))),
            cpu: budget.cpu.map(Share::new),
        }
    }
}

impl Share {
    fn new(whole: u32) -> Share {
        let whole = whole.max(1);
        // A semaphore holds at least 2^29 - 1 permits on every machine.
        let whole = whole.min(1 << 28);
        Share { whole, left: Semaphore::new(whole as usize) }
    }

    async fn take(share: &Option<Share>, wanted: u32) -> Option<SemaphorePermit<'_>> {
        let share = share.as_ref()?;
        // Who needs nothing does not stand in line for it.
        let wanted = Some(wanted.min(share.whole)).filter(|wanted| *wanted > 0)?;
        share.left.acquire_many(wanted).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn options(memory: Option<u64>, cpu: Option<u32>) -> SolverOptions {
        let budget = Budget { memory, cpu };
        SolverOptions { budget: Some(Arc::new(move || budget)), ..SolverOptions::default() }
    }

    fn needs(memory: u64, cpu: u32) -> Demand {
        Demand { memory: memory * MIB, cpu }
    }

    #[test]
    fn what_does_not_fit_beside_others_runs_alone() {
        let admission = Admission::new(options(Some(100 * MIB), None));
        let small = admission.enter(needs(40, 0)).now_or_never().unwrap();
        assert!(admission.enter(needs(61, 0)).now_or_never().is_none());
        assert!(admission.enter(needs(1000, 0)).now_or_never().is_none());
        let beside = admission.enter(needs(60, 0)).now_or_never().unwrap();
        drop((small, beside));
        let large = admission.enter(needs(1000, 0)).now_or_never().unwrap();
        assert!(admission.enter(needs(1, 0)).now_or_never().is_none());
        // Copies and the like take nothing worth counting.
        assert!(admission.enter(needs(0, 0)).now_or_never().is_some());
        drop(large);
    }

    #[test]
    fn a_large_step_is_not_overtaken() {
        let admission = Admission::new(options(Some(100 * MIB), None));
        let small = admission.enter(needs(40, 0)).now_or_never().unwrap();
        let mut large = Box::pin(admission.enter(needs(80, 0)));
        assert!((&mut large).now_or_never().is_none());
        assert!(admission.enter(needs(10, 0)).now_or_never().is_none());
        drop(small);
        assert!(large.now_or_never().is_some());
    }

    #[test]
    fn processors_and_places_count_too() {
        let max_parallelism = NonZeroUsize::new(2);
        let options = SolverOptions { max_parallelism, ..options(None, Some(2000)) };
        let admission = Admission::new(options);
        let busy = admission.enter(needs(0, 1500)).now_or_never().unwrap();
        assert!(admission.enter(needs(0, 600)).now_or_never().is_none());
        let idle = admission.enter(needs(0, 0)).now_or_never().unwrap();
        assert!(admission.enter(needs(0, 0)).now_or_never().is_none(), "two places");
        drop((busy, idle));
    }
}
