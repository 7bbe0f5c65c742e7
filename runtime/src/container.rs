//! A running container, as the engine holds it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::RuntimeError;
use crate::cgroup::Cgroup;
use crate::init::handshake::{Ended, Stub};
use crate::init::remove_stubs;
use crate::network::Session;
use crate::pty::Pty;

/// How long a killed container may take to end when it is dropped. The kernel has seconds of work
/// with gigabytes of memory; a process in an uninterruptible wait (a dead NFS server) never ends,
/// and must not hold us.
const KILL_PATIENCE_SECONDS: i64 = 10;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that killed it, if one did.
    pub signal: Option<i32>,
    /// It was killed by SIGKILL, and the machine has killed for lack of memory since the engine
    /// started: most likely it was this one.
    pub oom: bool,
    /// The kernel has killed in the container because of its own limit of memory, in bytes: perhaps
    /// not its first process, but one that it waited for.
    pub memory_limit: Option<u64>,
    /// What it took.
    pub usage: Usage,
}

/// What a container took in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of memory of its largest process, at its largest.
    pub peak_memory: u64,
    /// Time on processors, of all its processes that were waited for.
    pub cpu: Duration,
}

impl ExitStatus {
    /// What a shell shows: the exit code, or 128 + the signal.
    pub fn shell_code(&self) -> i32 {
        self.code.unwrap_or(128 + self.signal.unwrap_or(0))
    }
}

/// A running container. Dropping it kills every process in it and waits for their end.
#[derive(Debug)]
pub struct Container {
    pid: i32,
    pidfd: OwnedFd,
    /// The helper writes an [`Ended`] here.
    exit: OwnedFd,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    pty: Option<Pty>,
    notes: Vec<String>,
    state: Mutex<State>,
}

/// What ends with the container.
#[derive(Debug)]
struct State {
    ended: Option<ExitStatus>,
    stubs: Vec<Stub>,
    parents: Vec<OwnedFd>,
    /// Limits it.
    cgroup: Option<Cgroup>,
    /// Relays its connections while it is there.
    _session: Option<Session>,
}

/// What a container consists of when it starts.
pub(crate) struct Parts {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) exit: OwnedFd,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) pty: Option<Pty>,
    pub(crate) notes: Vec<String>,
    pub(crate) stubs: Vec<Stub>,
    pub(crate) parents: Vec<OwnedFd>,
    pub(crate) session: Option<Session>,
    pub(crate) cgroup: Option<Cgroup>,
}

impl Container {
    pub(crate) fn new(parts: Parts) -> Container {
        let state = State {
            ended: None,
            stubs: parts.stubs,
            parents: parts.parents,
            cgroup: parts.cgroup,
            _session: parts.session,
        };
        Container {
            pid: parts.pid,
            pidfd: parts.pidfd,
            exit: parts.exit,
            stdout: parts.stdout,
            stderr: parts.stderr,
            pty: parts.pty,
            notes: parts.notes,
            state: Mutex::new(state),
        }
    }

    /// Process id of its first process, in the engine's pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Refers to its first process.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Becomes readable when the container has ended; [`Container::wait`] does not block then.
    /// For event loops: register it for reading, do not read from it.
    pub fn exit_fd(&self) -> BorrowedFd<'_> {
        self.exit.as_fd()
    }

    /// The reading end of its standard output, once, with [`crate::ContainerIo::Pipes`].
    pub fn take_stdout(&mut self) -> Option<OwnedFd> {
        self.stdout.take()
    }

    /// The reading end of its standard error, once, with [`crate::ContainerIo::Pipes`].
    pub fn take_stderr(&mut self) -> Option<OwnedFd> {
        self.stderr.take()
    }

    /// Its terminal, once, with [`crate::ContainerIo::Pty`].
    pub fn take_pty(&mut self) -> Option<Pty> {
        self.pty.take()
    }

    /// Where the box is weaker than asked for because of the machine around it, one sentence
    /// each; empty as a rule.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Sends a signal to its first process. A container that has ended is no error.
    ///
    /// The first process of a pid namespace only gets signals that it has a handler for, except
    /// SIGKILL and SIGSTOP.
    pub fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        // SAFETY: the descriptor is open, no siginfo is passed, and an invalid number is refused
        // by the kernel.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match io::Error::last_os_error() {
            _ if result == 0 => Ok(()),
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            source => Err(RuntimeError::Control { attempt: "signal", source }),
        }
    }

    /// Blocks until it ends; then no process of it is left, even those in the background.
    ///
    /// Mount targets that had to be created in the root filesystem are gone afterwards and their
    /// parents have their old modification time, except `/dev`, `/proc` and `/sys`. May be called
    /// again.
    pub fn wait(&self) -> Result<ExitStatus, RuntimeError> {
        let failed = |source| RuntimeError::Control { attempt: "wait for", source };
        let mut ready = [PollFd::new(&self.exit, PollFlags::IN)];
        while let Err(errno) = poll(&mut ready, None) {
            if errno != rustix::io::Errno::INTR {
                return Err(failed(errno.into()));
            }
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ended) = state.ended {
            return Ok(ended);
        }
        let mut bytes = [0; Ended::LENGTH];
        let length =
            rustix::io::read(&self.exit, &mut bytes).map_err(|errno| failed(errno.into()))?;
        if length != bytes.len() {
            return Err(RuntimeError::InitLost { expected: "wait for a container" });
        }
        let Ended { code, signal, oom, peak_memory, cpu_micros } = Ended::from_bytes(bytes);
        // Removed here: nobody is in it any more.
        let memory_limit = state.cgroup.take().and_then(|cgroup| cgroup.memory_ran_out());
        let usage = Usage { peak_memory, cpu: Duration::from_micros(cpu_micros) };
        let status = ExitStatus { code, signal, oom, memory_limit, usage };
        state.ended = Some(status);
        state._session = None;
        let stubs = std::mem::take(&mut state.stubs);
        let parents = std::mem::take(&mut state.parents);
        remove_stubs(&stubs, &parents)
            .map_err(|source| RuntimeError::Control { attempt: "tidy up after", source })?;
        Ok(status)
    }

    fn kill_and_wait(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.ended.is_some() {
            return;
        }
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        let mut ready = [PollFd::new(&self.exit, PollFlags::IN)];
        let patience = Timespec { tv_sec: KILL_PATIENCE_SECONDS, tv_nsec: 0 };
        if matches!(poll(&mut ready, Some(&patience)), Ok(1..))
            && let Err(error) = self.wait()
        {
            tracing::debug!(pid = self.pid, error = &error as &dyn std::error::Error, "killed");
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill_and_wait();
    }
}
