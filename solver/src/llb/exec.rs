//! The op that runs a process.

use cache::oci::Platform;
use serde::{Deserialize, Serialize};

use super::Environment;

/// Runs a process on input 0 and keeps what it changed there.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecOp {
    /// Program and arguments.
    pub args: Vec<String>,
    /// The environment.
    pub env: Environment,
    /// Proxy variables: the process has them, keys do not.
    pub proxy_env: Vec<(String, String)>,
    /// The working directory; made where it is missing.
    pub cwd: String,
    /// `user[:group]`, by name or number; empty means root.
    pub user: String,
    /// The host name, where the build names one.
    pub hostname: Option<String>,
    /// What the process can reach.
    pub network: NetworkMode,
    /// What the process may do.
    pub security: SecurityMode,
    /// What is mounted over the root file system, in the order of the Dockerfile.
    pub mounts: Vec<ExecMount>,
    /// Lines for `/etc/hosts`. Keys hold the names, not the addresses.
    pub extra_hosts: Vec<ExtraHost>,
    /// Secrets that become variables.
    pub secret_env: Vec<SecretEnv>,
    /// The size of `/dev/shm` in bytes, where it is not the usual one.
    pub shm_size: Option<u64>,
    /// Limits of `setrlimit`.
    pub ulimits: Vec<Ulimit>,
    /// Devices of the machine that it may use. Keys hold the names, not what is behind them.
    pub devices: Vec<DeviceRequest>,
    /// The platform whose programs run.
    pub platform: Platform,
}

impl ExecOp {
    /// `args` with an empty environment, as root in `/`, on `platform`.
    pub fn new(args: Vec<String>, platform: Platform) -> ExecOp {
        ExecOp {
            args,
            env: Environment::default(),
            proxy_env: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            hostname: None,
            network: NetworkMode::default(),
            security: SecurityMode::default(),
            mounts: Vec::new(),
            extra_hosts: Vec::new(),
            secret_env: Vec::new(),
            shm_size: None,
            ulimits: Vec::new(),
            devices: Vec::new(),
            platform,
        }
    }
}

/// A device that a process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRequest {
    /// As the container device interface names it: `vendor/class=name`, `vendor/class=*`, a class.
    pub name: String,
    /// Without it the process cannot run.
    pub required: bool,
}

/// What a process can reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// The networks of the host, but not the host itself.
    #[default]
    Default,
    /// Only itself.
    None,
    /// Everything the engine can reach.
    Host,
}

/// What a process may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecurityMode {
    /// The usual capabilities, under the usual filter.
    #[default]
    Sandbox,
    /// All capabilities, no filter.
    Insecure,
}

/// One mount of an [`ExecOp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecMount {
    /// Where, absolute. Empty for a secret that only becomes a variable.
    pub target: String,
    /// What.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A path of an input.
    Bind {
        /// Position in [`super::Vertex::inputs`].
        input: usize,
        /// The path in it.
        source: String,
        /// Writes are allowed, and dropped afterwards.
        writable: bool,
    },
    /// A directory that outlives the build. Its content is in no key.
    Cache {
        /// Its name.
        id: String,
        /// How concurrent steps share it.
        sharing: Sharing,
        /// What it starts with: position in [`super::Vertex::inputs`] and path.
        input: Option<(usize, String)>,
        /// The mode of the directory when it is made.
        mode: u32,
        /// Its owner when it is made.
        uid: u32,
        /// Its group when it is made.
        gid: u32,
        /// Writes fail.
        readonly: bool,
    },
    /// Memory.
    Tmpfs {
        /// Its limit in bytes.
        size: Option<u64>,
        /// Writes fail.
        readonly: bool,
    },
    /// A file with a secret. Its content is in no key.
    Secret {
        /// Its name.
        id: String,
        /// Without it the step fails.
        required: bool,
        /// The mode of the file.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// The variable that gets the secret.
        env: Option<String>,
        /// Whether there is a file at all.
        file: bool,
    },
    /// The socket of an ssh agent.
    Ssh {
        /// Its name.
        id: String,
        /// Without it the step fails.
        required: bool,
        /// The mode of the socket.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// How concurrent steps share a cache mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// All at once.
    #[default]
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// The address, or a word the worker resolves (`host-gateway`).
    pub address: String,
}

/// A secret that becomes a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretEnv {
    /// The variable.
    pub name: String,
    /// The secret.
    pub id: String,
    /// Without it the step fails; else the variable is empty.
    pub required: bool,
}

/// A limit of `setrlimit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// As `docker build --ulimit` names it: `nofile`.
    pub name: String,
    /// The soft limit; `-1` is none.
    pub soft: i64,
    /// The hard limit; `-1` is none.
    pub hard: i64,
}
