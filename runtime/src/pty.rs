//! The engine's side of a container's pseudo-terminal.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl WindowSize {
    /// The size of the terminal behind `fd`; an error if it is none.
    pub fn of(fd: impl AsFd) -> io::Result<WindowSize> {
        let size = rustix::termios::tcgetwinsize(fd)?;
        Ok(WindowSize { rows: size.ws_row, columns: size.ws_col })
    }
}

/// The controlling ("master") side: what is written here the container reads, and the reverse.
///
/// Reading fails with EIO once the last process of the container has closed the other side.
#[derive(Debug)]
pub struct Pty {
    master: OwnedFd,
}

impl Pty {
    pub(crate) fn new(master: OwnedFd) -> Pty {
        Pty { master }
    }

    /// Changes the size; processes in the foreground of the terminal get SIGWINCH.
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        rustix::termios::tcsetwinsize(&self.master, size.into())?;
        Ok(())
    }

    /// Takes the descriptor out, for callers that hand it to their event loop.
    pub fn into_fd(self) -> OwnedFd {
        self.master
    }
}

impl AsFd for Pty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

impl From<WindowSize> for rustix::termios::Winsize {
    fn from(size: WindowSize) -> Self {
        rustix::termios::Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        }
    }
}
