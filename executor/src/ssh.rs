//! The ssh agents that the user hands to a build: sockets of agents that run, or key files, for
//! which the engine is the agent.
//!
//! What a step gets is never the user's socket but one of its own, behind which
//! [`agent`](crate::ssh::agent) answers two requests: which keys there are, and a signature. A step
//! can neither take a key out nor change what an agent holds.

pub(crate) mod agent;
mod key;
mod openssh;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use key::{KeyError, SshKey};

/// Agents by id; the usual id is `default`.
#[derive(Debug, Clone, Default)]
pub struct SshAgents {
    agents: BTreeMap<String, Agent>,
}

/// Who answers the requests of a step.
#[derive(Debug, Clone)]
pub(crate) enum Agent {
    /// An agent that listens at a socket.
    Socket(PathBuf),
    /// This process, with these keys.
    Keys(Arc<[SshKey]>),
}

impl SshAgents {
    /// No agents.
    pub fn new() -> Self {
        Self::default()
    }

    /// The agent `id` listens at `socket`.
    pub fn insert(&mut self, id: impl Into<String>, socket: impl Into<PathBuf>) {
        self.agents.insert(id.into(), Agent::Socket(socket.into()));
    }

    /// The agent `id` is this process, with these keys.
    pub fn insert_keys(&mut self, id: impl Into<String>, keys: Vec<SshKey>) {
        self.agents.insert(id.into(), Agent::Keys(keys.into()));
    }

    /// Whether there is an agent `id`.
    pub fn contains(&self, id: &str) -> bool {
        self.agents.contains_key(id)
    }

    pub(crate) fn agent(&self, id: &str) -> Option<&Agent> {
        self.agents.get(id)
    }
}
