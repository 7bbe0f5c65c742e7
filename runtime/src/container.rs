//! skeleton
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::pty::Pty;
use crate::RuntimeError;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that killed it, if one did.
    pub signal: Option<i32>,
    /// It was killed by SIGKILL while the kernel ran out of memory.
    pub oom: bool,
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
    pidfd: OwnedFd,
}

impl Container {
    /// Process id of its first process, in the engine's pid namespace.
    pub fn pid(&self) -> i32 {
        todo!()
    }

    /// Refers to its first process.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Becomes readable when the container has ended; [`Container::wait`] does not block then.
    /// For event loops: register it for reading, do not read from it.
    pub fn exit_fd(&self) -> BorrowedFd<'_> {
        todo!()
    }

    /// The reading end of its standard output, once, with [`crate::ContainerIo::Pipes`].
    pub fn take_stdout(&mut self) -> Option<OwnedFd> {
        todo!()
    }

    /// The reading end of its standard error, once, with [`crate::ContainerIo::Pipes`].
    pub fn take_stderr(&mut self) -> Option<OwnedFd> {
        todo!()
    }

    /// Its terminal, once, with [`crate::ContainerIo::Pty`].
    pub fn take_pty(&mut self) -> Option<Pty> {
        todo!()
    }

    /// Sends a signal to its first process. A container that has ended is no error.
    pub fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        todo!("{signal}")
    }

    /// Blocks until it ends; then no process of it is left, even those in the background.
    ///
    /// Mount targets that had to be created in the root filesystem are gone afterwards and their
    /// parents have their old modification time, except `/dev`, `/proc` and `/sys`. May be called
    /// again.
    pub fn wait(&self) -> Result<ExitStatus, RuntimeError> {
        todo!()
    }
}
