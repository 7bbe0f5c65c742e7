//! Equal steps of builds in different processes: one executes, the others take its result.
//!
//! # Why nobody waits for ever
//!
//! A task of the solver claims the key of its vertex, executes it, and gives the claim back when the
//! result is recorded or the task is gone. It claims nothing else meanwhile, and who has a claim
//! only ever waits for
//!
//! - a permit of its own build, which is held by tasks that have their claims already and run;
//! - a locked cache mount, which is held by a step that runs;
//! - the process of its step.
//!
//! So every chain of waiting ends at something that runs, in this process or another. If a process
//! is killed the kernel gives its claims back; a stopped one (SIGSTOP) keeps them, as it keeps
//! everything, until it goes on or is killed. Waiting is a timer: a build that is cancelled drops it.

use std::time::Duration;

use cache::index::CacheKey;
use solver::Claim;

use super::LocalWorker;

/// How often a claim that somebody has is asked for again. It costs two system calls, and adds half
/// of this to a step that somebody else executes.
const POLL: Duration = Duration::from_millis(20);

impl LocalWorker {
    pub(super) async fn claim_key(&self, key: CacheKey) -> Option<Claim> {
        loop {
            match self.config.store.try_claim(&key) {
                Ok(Some(claim)) => return Some(Box::new(claim)),
                Ok(None) => tokio::time::sleep(POLL).await,
                Err(error) => {
                    // At worst a step is executed twice.
                    tracing::debug!(%error, "a step is not coordinated with other builds");
                    return None;
                }
            }
        }
    }
}
