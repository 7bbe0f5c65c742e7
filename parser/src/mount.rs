//! `RUN --mount`: comma-separated options, and what they mean once variables are expanded.

use crate::expand::ExpandError;
use crate::span::{Span, Spanned};

/// One `--mount` flag, unexpanded.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The options in order.
    pub options: Vec<MountOption>,
    /// The flag's value as written.
    pub text: String,
    /// Where the flag stands.
    pub span: Span,
}

impl PartialEq for Mount {
    fn eq(&self, other: &Self) -> bool {
        self.options == other.options
    }
}

impl Eq for Mount {}

/// `key[=value]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOption {
    /// The key in lower case.
    pub key: Spanned<String>,
    /// The value, unexpanded; `None` for a bare key.
    pub value: Option<Spanned<String>>,
}

/// A mount whose variables are expanded and whose values are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSpec {
    /// Files of the context, a stage, an image.
    Bind {
        /// Where; `None` and relative paths are below the working directory.
        target: Option<String>,
        /// Path within `from`; the whole by default.
        source: Option<String>,
        /// Stage, image or named context; the build context by default. Never a number of a stage.
        from: Option<String>,
        /// Writes are discarded when it is not.
        read_only: bool,
    },
    /// A directory that outlives the build.
    Cache {
        /// Where.
        target: Option<String>,
        /// Its name; the target by default.
        id: Option<String>,
        /// What it is filled from at first; empty by default.
        from: Option<String>,
        /// Path within `from`.
        source: Option<String>,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// Mode of the new directory, 0755 by default.
        mode: Option<u32>,
        /// Owner of the new directory.
        uid: Option<u32>,
        /// Group of the new directory.
        gid: Option<u32>,
        /// Whether it is read-only.
        read_only: bool,
    },
    /// A new tmpfs.
    Tmpfs {
        /// Where.
        target: Option<String>,
        /// Its limit in bytes.
        size: Option<u64>,
    },
    /// A secret as a file or a variable.
    Secret {
        /// Its name; see [`MountSpec::Secret::target`] for the default.
        id: Option<String>,
        /// The file; `/run/secrets/<id>` by default unless `env` is given.
        target: Option<String>,
        /// The variable that holds it.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// Mode of the file, 0400 by default.
        mode: Option<u32>,
        /// Owner of the file.
        uid: Option<u32>,
        /// Group of the file.
        gid: Option<u32>,
    },
    /// A socket of the user's ssh agent.
    Ssh {
        /// Its name; `default` by default.
        id: Option<String>,
        /// The socket; `/run/buildkit/ssh_agent.N` by default.
        target: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// Mode of the socket, 0600 by default.
        mode: Option<u32>,
        /// Owner of the socket.
        uid: Option<u32>,
        /// Group of the socket.
        gid: Option<u32>,
    },
}

/// `sharing=` of a cache mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody at once.
    #[default]
    Shared,
    /// A copy of one's own when it is in use.
    Private,
    /// One after the other.
    Locked,
}

/// Why a `--mount` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// A variable in a value could not be expanded.
    #[error("cannot expand `{value}` of the mount")]
    Expand {
        /// The value as written.
        value: String,
        /// Why not.
        #[source]
        source: ExpandError,
    },
    /// An option is unknown, misplaced or malformed.
    #[error("{message}")]
    Invalid {
        /// In BuildKit's words.
        message: String,
        /// The option.
        span: Span,
        /// "did you mean …"
        hint: Option<String>,
    },
}

impl Mount {
    /// Expands the values with `expand` and checks every option.
    pub fn resolve(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<MountSpec, MountError> {
        let _ = expand;
        todo!()
    }
}
