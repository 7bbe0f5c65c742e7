//! One process in a box, described by an OCI runtime spec.
//!
//! ```text
//!  engine (threads, much memory)          init helper (one thread, small)      container
//!  isolate()  ── own mount, user ns
//!  Spawner::start() ───────────────────►  waits on a socket
//!  Spawner::prepare() ─────────────────►  clone3 ───────────────────────────►  new namespaces,
//!                                                                              /proc /sys /dev
//!  Spawner::spawn(request) ───────────────────────────────────────────────► root, mounts, rights
//!  Container   ◄── started, or {stage, path, errno} ───────────────────────── exec
//!  wait()      ◄── exit status ─────────  waitid
//! ```
//!
//! Never does a process with threads fork: the init helper is this same binary, executed again
//! through a read-only view of itself ([`init::run_if_requested`]), and every container is one
//! clone of that small process, so that its program is PID 1 of its own pid namespace.
//!
//! Mounts live in private mount namespaces only ([`isolate`]): whatever happens to the engine,
//! nothing stays mounted on the host.
//!
//! This is the only crate with `unsafe` code. It knows no image, no store and no Dockerfile.

#![allow(unsafe_code)]

mod capabilities;
mod cgroup;
mod confined;
mod container;
mod error;
pub mod init;
mod isolate;
mod mount;
pub mod network;
mod pty;
mod request;
mod seccomp;
mod spawner;
mod spec;
mod sys;

pub use cgroup::{available_memory, remove_leftover_groups};
pub use container::{Container, ExitStatus, Usage};
pub use error::{RuntimeError, Stage};
pub use isolate::{IdRange, Identity, Isolation, isolate};
pub use mount::{MountGuard, mount};
pub use pty::{Pty, WindowSize};
pub use request::{ContainerIo, ContainerRequest, InjectedFile, NetworkMode, Stdin};
pub use spawner::Spawner;
pub use spec::{
    INSECURE_CAPABILITIES, SCRATCH_OPTION, SUBPATH_OPTION, default_spec, insecure_spec,
};
