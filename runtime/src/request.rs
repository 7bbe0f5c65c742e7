//! What a caller asks for: a process, its root, its network, its streams.

use std::path::PathBuf;

use oci_spec::runtime::{Mount, Spec};

use crate::pty::WindowSize;

/// Everything needed to start one container.
#[derive(Debug, Clone)]
pub struct ContainerRequest {
    /// Process, host name, mounts, masked paths, limits (of the resources: memory, memory and swap,
    /// CPU shares, quota, period and set, number of processes); best made from
    /// [`crate::default_spec`]. Namespaces, hooks, devices and `root.path` of the spec are not
    /// looked at: every container gets every namespace. `root.readonly` is honoured.
    ///
    /// Device nodes, wherever they come from, cannot be opened but for those of the runtime's /dev
    /// and in mounts with the option `dev`, unless the resources have a rule that allows all.
    ///
    /// /proc, /sys, /dev, /dev/pts and /dev/mqueue, where the spec has them, are always the
    /// runtime's own; of their options only `ro` and `rw` of /sys matter, and the `size` of
    /// /dev/shm.
    ///
    /// Mounts are performed in the order given. Their targets are resolved inside the root
    /// filesystem, and created where they are missing: see [`crate::Container::wait`] for what
    /// becomes of those.
    pub spec: Spec,
    /// How the root filesystem is made: one mount with destination `/` (overlay, or a bind of a
    /// directory), then others that belong to it, if any.
    pub rootfs: Vec<Mount>,
    /// What the container can reach.
    pub network: NetworkMode,
    /// Files that exist for this container only: `/etc/hosts`, `/etc/resolv.conf`, secrets. They
    /// are mounted after the spec's mounts, in the order given.
    pub files: Vec<InjectedFile>,
}

/// The network of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NetworkMode {
    /// A namespace of its own with a loopback interface and nothing else.
    None,
    /// The network of the engine.
    Host,
    /// A namespace of its own whose outgoing connections the engine relays.
    #[default]
    Proxied,
}

/// A file handed over in memory and bind-mounted from a tmpfs only this container sees; never
/// part of a layer.
///
/// The mount is nosuid, nodev and noexec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InjectedFile {
    /// Absolute path in the container.
    pub target: PathBuf,
    /// The bytes.
    pub content: Vec<u8>,
    /// Permission bits, such as 0o644.
    pub mode: u32,
    /// Owner, as the container sees it.
    pub uid: u32,
    /// Group, as the container sees it.
    pub gid: u32,
    /// Mount it read-only. If false the container's changes are lost with the container.
    pub read_only: bool,
}

/// Where the standard streams of the container lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerIo {
    /// Output goes to the engine's own standard output and error.
    Inherit {
        /// Standard input.
        stdin: Stdin,
    },
    /// Output goes to two pipes whose reading ends the caller takes from the [`crate::Container`].
    Pipes {
        /// Standard input.
        stdin: Stdin,
    },
    /// All three are a pseudo-terminal of the container; the caller takes the controlling side.
    Pty {
        /// Its first size.
        size: WindowSize,
    },
}

/// Standard input of a container without a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stdin {
    /// /dev/null.
    #[default]
    Null,
    /// The engine's own.
    Inherit,
}
