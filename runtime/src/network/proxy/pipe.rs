//! Pipes that carry bytes from socket to socket without copying them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

/// Bytes a pipe holds by the kernel's default. Pipes of 256 KiB were no faster on a busy
/// machine, and an ordinary user's share of pipe memory is small.
const CAPACITY: usize = 64 * 1024;

/// Empty pipes kept for the next transfer. A relay holds one only while bytes are in it.
const SPARE: usize = 32;

/// One pipe and the number of bytes in it.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { read, write, held: 0 })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves what a socket has received into the (empty) pipe; 0 is the end of the stream.
    pub(super) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let moved = splice(from, None, &self.write, None, CAPACITY, flags())?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves what is in the pipe to a socket, as much as it takes.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<()> {
        let moved = splice(&self.read, None, to, None, self.held, flags())?;
        self.held -= moved.min(self.held);
        Ok(())
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

/// Empty pipes, ready for use.
#[derive(Debug, Default)]
pub(super) struct Pipes(Vec<Pipe>);

impl Pipes {
    pub(super) fn take(&mut self) -> io::Result<Pipe> {
        self.0.pop().map_or_else(Pipe::new, Ok)
    }

    /// Takes an empty pipe back; one with bytes in it must not reach another connection.
    pub(super) fn give(&mut self, pipe: Pipe) {
        if pipe.is_empty() && self.0.len() < SPARE {
            self.0.push(pipe);
        }
    }
}
