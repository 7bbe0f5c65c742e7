//! What runs in a container: the same description for a build's RUN and for `strake run`.

use cache::oci::ImageConfiguration;
use runtime::NetworkMode;

use crate::Limits;

/// The PATH of images that set none, as Docker has it.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process and its surroundings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Program and arguments; the program is looked up in the PATH of `env`, inside the root.
    pub args: Vec<String>,
    /// The environment in order; the last of several values counts. HOME and PATH are added where
    /// they are missing.
    pub env: Vec<(String, String)>,
    /// The working directory, absolute; made where it is missing.
    pub cwd: String,
    /// `user[:group]`, by name or number; empty is root.
    pub user: String,
    /// Groups that it is in as well.
    pub additional_gids: Vec<u32>,
    /// The host name.
    pub hostname: String,
    /// What it can reach.
    pub network: NetworkMode,
    /// All capabilities, no filter, nothing masked.
    pub privileged: bool,
    /// The root file system is read-only.
    pub read_only: bool,
    /// Lines for `/etc/hosts`: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// Bytes of `/dev/shm`, where it is not the usual 64 MiB.
    pub shm_size: Option<u64>,
    /// Limits of setrlimit by their name (`nofile`): soft and hard, -1 for none.
    pub ulimits: Vec<(String, i64, i64)>,
    /// What it and all that it starts may take together.
    pub limits: Limits,
}

impl Process {
    /// `args` as root in `/`, with nothing but a PATH.
    pub fn new(args: Vec<String>) -> Self {
        Self {
            args,
            env: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            additional_gids: Vec::new(),
            hostname: "localhost".to_owned(),
            network: NetworkMode::default(),
            privileged: false,
            read_only: false,
            extra_hosts: Vec::new(),
            shm_size: None,
            ulimits: Vec::new(),
            limits: Limits::default(),
        }
    }

    /// What an image runs by itself: its entrypoint with its command, environment, directory and
    /// user.
    pub fn from_image(config: &ImageConfiguration) -> Self {
        let container = &config.config;
        let entrypoint = container.entrypoint.iter().flatten();
        let mut process =
            Self::new(entrypoint.chain(container.cmd.iter().flatten()).cloned().collect());
        process.env = container.env.iter().flatten().filter_map(|e| split_env(e)).collect();
        if let Some(dir) = &container.working_dir {
            process.cwd = crate::pattern::clean(&format!("/{dir}"));
        }
        process.user = container.user.clone().unwrap_or_default();
        process
    }
}

/// `NAME=value` in two. An entry without `=` or without a name says nothing: it is never filled in
/// from the engine's own environment.
fn split_env(entry: &str) -> Option<(String, String)> {
    let (name, value) = entry.split_once('=')?;
    (!name.is_empty() && !entry.contains('\0')).then(|| (name.to_owned(), value.to_owned()))
}

/// Something mounted over the root file system of a process.
#[derive(Debug, Clone)]
pub struct ProcessMount {
    /// Where, absolute; made where it is missing.
    pub target: String,
    /// What.
    pub source: MountSource,
    /// Writes fail.
    pub readonly: bool,
}

/// What is mounted.
#[derive(Debug, Clone)]
pub enum MountSource {
    /// A file or directory of this machine.
    Path(std::path::PathBuf),
    /// A file or directory of this machine, with options of a bind mount: `nosuid`; `dev` where
    /// device nodes may be opened.
    Bind(std::path::PathBuf, Vec<&'static str>),
    /// A path in a tree described by its mounts (of a snapshot). Unless read-only, writes are
    /// dropped with the container.
    Tree {
        /// How to mount the tree.
        mounts: Vec<oci_spec::runtime::Mount>,
        /// The path in it; links never lead out.
        path: String,
    },
    /// Memory.
    Tmpfs {
        /// Its limit in bytes.
        size: Option<u64>,
        /// The mode of its root.
        mode: u32,
    },
    /// A file that exists for this container only.
    File {
        /// The bytes.
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner in the container.
        uid: u32,
        /// Group in the container.
        gid: u32,
    },
}
