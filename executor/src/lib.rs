//! Op and inputs become a snapshot; a process description becomes a container.
//!
//! [`LocalWorker`] answers the solver: it reads contexts, copies files, fetches sources and runs
//! processes. [`Executor`] runs one process in one container, for a build's RUN and for
//! `strake run` alike.
//!
//! Reading order: [`pattern`] what a path pattern means, [`context`] the user's directories,
//! `merged` trees as they are read, `fingerprint` what of them counts, `copy` how they are changed,
//! [`Executor`] how a process runs, [`LocalWorker`] who does all that for the solver.

pub mod cdi;
mod container;
pub mod context;
mod copy;
mod error;
mod executor;
mod filter;
mod limits;
mod log;
mod merged;
pub mod pattern;
mod process;
mod redact;
mod secrets;
mod selection;
mod source_tree;
mod ssh;
mod stat_cache;
mod step_log;
mod users;
mod worker;

pub use container::{Container, ContainerStatus, Containers};
pub use error::{ExcludedBy, ExecutorError};
pub use executor::{Executor, ProcessIo, RunningProcess};
pub use limits::Limits;
pub use process::{DEFAULT_PATH, MountSource, Process, ProcessMount};
pub use redact::Redactions;
pub use secrets::{MAX_SECRET, SecretStore};
pub use ssh::{KeyError, SshAgents, SshKey};
pub use step_log::StepLog;
pub use worker::{LocalWorker, LocalWorkerConfig, host_address};
