//! What can go wrong between a request and a running process, one variant per thing attempted.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The kernel step at which starting a container failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Cloning a process into new namespaces.
    Namespaces,
    /// Bringing up the network of the new network namespace.
    Network,
    /// Setting host and domain name.
    Hostname,
    /// Mounting the root filesystem.
    Rootfs,
    /// Mounting /proc.
    Proc,
    /// Mounting /sys.
    Sys,
    /// Filling /dev.
    Dev,
    /// Performing one of the spec's mounts.
    Mount,
    /// Writing or mounting a file handed over in memory.
    File,
    /// Masking a path or making it read-only.
    Mask,
    /// Making the new root the root.
    PivotRoot,
    /// Opening the pseudo-terminal.
    Terminal,
    /// Setting resource limits.
    Rlimit,
    /// Setting user and groups.
    User,
    /// Setting capabilities.
    Capabilities,
    /// Loading the seccomp filter.
    Seccomp,
    /// Entering the working directory.
    WorkingDirectory,
    /// Executing the program.
    Exec,
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Stage::Namespaces => "create namespaces",
            Stage::Network => "set up the network",
            Stage::Hostname => "set the host name",
            Stage::Rootfs => "mount the root filesystem",
            Stage::Proc => "mount /proc",
            Stage::Sys => "mount /sys",
            Stage::Dev => "set up /dev",
            Stage::Mount => "mount",
            Stage::File => "provide the file",
            Stage::Mask => "mask",
            Stage::PivotRoot => "change the root",
            Stage::Terminal => "open the terminal",
            Stage::Rlimit => "set the resource limits",
            Stage::User => "change to the user",
            Stage::Capabilities => "set the capabilities",
            Stage::Seccomp => "load the seccomp filter",
            Stage::WorkingDirectory => "change to the working directory",
            Stage::Exec => "execute",
        })
    }
}

/// An error of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Neither as root nor in a user namespace may this process mount anything.
    #[error("cannot create a {namespace} namespace{}", in_brackets(.hint))]
    Isolate {
        /// "mount" or "user".
        namespace: &'static str,
        /// The knob that forbids it and how to turn it, where that is known.
        hint: Option<String>,
        /// What the kernel said.
        source: io::Error,
    },
    /// [`crate::isolate`] was called in a process that already has threads.
    #[error("namespaces must be entered before the first thread starts ({threads} are running)")]
    Threads {
        /// Number of threads found.
        threads: usize,
    },
    /// The init helper could not be started.
    #[error("cannot start the container init helper: {attempt}")]
    StartInit {
        /// What was attempted.
        attempt: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The init helper, or a container's first process, ended without a word.
    #[error("the container init helper ended unexpectedly while it should {expected}")]
    InitLost {
        /// What was expected of it.
        expected: &'static str,
    },
    /// Talking to the init helper failed.
    #[error("cannot exchange messages with the container init helper")]
    Channel(#[source] io::Error),
    /// The request contradicts itself or asks for something this runtime does not have.
    #[error("invalid container request: {0}")]
    InvalidRequest(String),
    /// A mount in the engine's own namespace, or the source of a container's mount, failed.
    #[error("cannot mount {} on {}", .source_path.display(), .target.display())]
    Mount {
        /// What was to be mounted.
        source_path: PathBuf,
        /// Where.
        target: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A limit that was asked for cannot be kept.
    #[error("cannot limit the {resource} of the container: {reason}{}", in_brackets(.hint))]
    Limit {
        /// What was to be limited.
        resource: &'static str,
        /// Why that cannot be.
        reason: String,
        /// What the user can do about it, where that is known.
        hint: Option<String>,
    },
    /// A step between the new namespaces and the program failed.
    #[error("cannot {stage}{}{}", in_quotes(.path), in_brackets(.hint))]
    Setup {
        /// Which step.
        stage: Stage,
        /// The object of the step, as the container sees it.
        path: Option<String>,
        /// What the user can do about it, where that is known.
        hint: Option<String>,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program could not be executed; `message` is Docker's text for it.
    #[error("{message}")]
    Exec {
        /// Docker's words, such as `exec: "foo": executable file not found in $PATH`.
        message: String,
        /// The kernel's error number.
        errno: i32,
    },
    /// The network of containers cannot be served.
    #[error(transparent)]
    Network(#[from] crate::network::NetworkError),
    /// Signalling, resizing or waiting for a container failed.
    #[error("cannot {attempt} the container")]
    Control {
        /// What was attempted.
        attempt: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl RuntimeError {
    /// The exit status `docker run` has for this failure: 127 if the program does not exist, 126
    /// if it cannot be executed or its working directory entered, 125 for all else.
    pub fn exit_code(&self) -> i32 {
        match self {
            RuntimeError::Exec { errno: libc::ENOENT | libc::ENOTDIR, .. } => 127,
            RuntimeError::Exec { .. } => 126,
            RuntimeError::Setup { stage: Stage::WorkingDirectory, .. } => 126,
            _ => 125,
        }
    }
}

fn in_quotes(path: &Option<String>) -> String {
    path.as_ref().map(|path| format!(" {path:?}")).unwrap_or_default()
}

fn in_brackets(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default()
}
