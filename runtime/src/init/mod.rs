//! The init helper: a small process of one thread that clones containers.
//!
//! The engine has threads and much memory; cloning it would be slow and unsafe. So it starts this
//! binary once more under another name (`strake-init`) with one socket, and everything that
//! becomes a container is a clone of that process:
//!
//! ```text
//! engine ──Order::Prepare──► helper ──clone3──► first process of a container
//!        ◄──Made::Process───        (pidfd, a socket to it, a pipe for its end)
//!        ◄──Report::Ready──────────────────────  network up, /proc /sys /dev mounted aside
//!        ──Plan────────────────────────────────► root, mounts, pivot_root
//!        ◄──Report::Starting───────────────────  rights dropped, exec
//!        ◄──Ended───────────── helper
//! ```
//!
//! If the engine dies, its end of the socket closes; the helper then kills every container and
//! ends. If the helper dies, the kernel kills them (PR_SET_PDEATHSIG).

mod child;
mod devices;
mod exec;
mod fixtures;
pub(crate) mod handshake;
mod helper;
mod rights;
mod root;

pub(crate) use root::remove_stubs;

use std::os::fd::{FromRawFd, OwnedFd};

/// The name under which this binary is an init helper.
pub(crate) const ARGUMENT_ZERO: &std::ffi::CStr = c"strake-init";

/// The descriptor at which the helper finds its socket.
pub(crate) const SOCKET: libc::c_int = 3;

/// Becomes the init helper if this process was started as one, and then never returns.
///
/// Call it first thing in `main`, before threads and before arguments are looked at.
pub fn run_if_requested() {
    use std::os::unix::ffi::OsStrExt;
    let requested = std::env::args_os()
        .next()
        .is_some_and(|argument| argument.as_bytes() == ARGUMENT_ZERO.to_bytes());
    if requested {
        // SAFETY: whoever chose this name passed the socket there; nothing else uses it yet.
        let socket = unsafe { OwnedFd::from_raw_fd(SOCKET) };
        helper::run(socket);
    }
}
