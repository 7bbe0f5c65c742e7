//! What steps took, so that the next build knows what fits beside each other.
//!
//! It is kept in the index by the digest of the operation, whatever its inputs are: a step whose
//! sources have changed takes about what it took before. A pruned record takes it along.

use std::time::Duration;

use cache::hash::Fingerprint;
use runtime::Usage;
use serde::{Deserialize, Serialize};
use solver::Demand;
use solver::llb::{Op, Vertex};

use super::{LocalWorker, lock};

/// What a step is taken for that was never executed: enough for a shell, a package manager or a
/// small compiler, and little enough that dozens run beside each other on any machine.
///
/// How much of a processor it needs is not guessed: most of what builds wait for is the network.
const UNKNOWN: Demand = Demand { memory: 128 << 20, cpu: 0 };

/// As it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Taken {
    /// Bytes at its peak.
    memory: u64,
    /// Milliseconds on processors.
    cpu: u64,
    /// Milliseconds from start to end.
    wall: u64,
}

impl Taken {
    fn demand(self) -> Demand {
        let cpu = self.cpu.saturating_mul(1000) / self.wall.max(1);
        Demand { memory: self.memory, cpu: u32::try_from(cpu).unwrap_or(u32::MAX) }
    }
}

impl LocalWorker {
    /// See [`solver::Worker::expects`].
    pub(super) fn expected(&self, vertex: &Vertex) -> Demand {
        // Everything else is done by ourselves, in memory that does not grow with its work.
        let Op::Exec(_) = &vertex.op else { return Demand::default() };
        let index = self.config.store.index();
        // What cannot be read is not known.
        let kept = index.usage(&solver::key::op_digest(vertex)).ok().flatten();
        let taken: Option<Taken> = kept.and_then(|value| serde_json::from_slice(&value).ok());
        let mut demand = taken.map_or(UNKNOWN, Taken::demand);
        if let Some(limit) = self.config.limits.memory {
            demand.memory = demand.memory.min(limit);
        }
        demand
    }

    /// Remembers what a step took until [`LocalWorker::finish`] writes it down.
    pub(super) fn took(&self, vertex: &Vertex, usage: Usage, wall: Duration) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let taken = Taken { memory: usage.peak_memory, cpu: millis(usage.cpu), wall: millis(wall) };
        if let Ok(value) = serde_json::to_vec(&taken) {
            lock(&self.taken).push((solver::key::op_digest(vertex), value));
        }
    }

    /// Writes down what the steps of this build took, all at once.
    pub(super) fn keep_usage(&self) {
        let taken: Vec<(Fingerprint, Vec<u8>)> = std::mem::take(&mut *lock(&self.taken));
        if !taken.is_empty()
            && let Err(error) = self.config.store.index().put_usage(&taken)
        {
            tracing::debug!(%error, "what the steps took is not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_needs_the_processors_that_it_kept_busy() {
        let busy = Taken { memory: 5, cpu: 3000, wall: 2000 };
        assert_eq!(busy.demand(), Demand { memory: 5, cpu: 1500 });
        let idle = Taken { memory: 5, cpu: 0, wall: 0 };
        assert_eq!(idle.demand(), Demand { memory: 5, cpu: 0 });
    }
}
