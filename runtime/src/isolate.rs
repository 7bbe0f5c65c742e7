//! skeleton
use crate::RuntimeError;

/// A run of ids: `count` ids from `inside` (as our namespace names them) stand for those from
/// `outside` (as its parent names them).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// Number of ids.
    pub count: u32,
}

/// Who the engine is, after [`isolate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Root, with every id there is.
    Root,
    /// Root of a user namespace with ranges of ids.
    Ranges {
        /// User ids.
        uids: Vec<IdRange>,
        /// Group ids.
        gids: Vec<IdRange>,
    },
    /// Root of a user namespace that knows one user and one group only.
    Single {
        /// The user outside.
        uid: u32,
        /// The group outside.
        gid: u32,
        /// Why there are no ranges, and what to install or configure to get them.
        reason: String,
    },
}

impl Identity {
    /// Whether files can be owned by, and processes run as, `id` (checked against users and
    /// groups alike).
    pub fn can_map(&self, id: u32) -> bool {
        todo!("{id}")
    }
}

/// The namespaces the engine lives in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// Who we are in them.
    pub identity: Identity,
}

/// Enters a private mount namespace, and a user namespace where that takes one.
///
/// Must be called before any thread starts. A second call returns what the first one did.
pub fn isolate() -> Result<Isolation, RuntimeError> {
    todo!()
}
