//! Our terminal as the container's: raw mode, both directions, its size.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use runtime::{Pty, WindowSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The size of the terminal that we are on.
pub(super) fn size() -> Option<WindowSize> {
    WindowSize::of(std::io::stdout())
        .or_else(|_| WindowSize::of(std::io::stdin()))
        .or_else(|_| WindowSize::of(std::io::stderr()))
        .ok()
}

/// A container's terminal while it is connected to ours.
pub(super) struct Attached {
    pty: Arc<OwnedFd>,
    output: Option<JoinHandle<()>>,
    _raw: Option<RawMode>,
}

/// Connects a container's terminal to our standard streams.
pub(super) fn attach(pty: Pty, interactive: bool) -> std::io::Result<Attached> {
    let pty = Arc::new(pty.into_fd());
    let raw = if interactive { RawMode::enter() } else { None };
    let output = {
        let mut from = std::fs::File::from(pty.try_clone()?);
        std::thread::Builder::new().name("terminal output".into()).spawn(move || {
            copy(&mut from, &mut std::io::stdout());
        })?
    };
    if interactive {
        let mut to = std::fs::File::from(pty.try_clone()?);
        // It ends with the process: nothing can interrupt its read of our terminal.
        std::thread::Builder::new().name("terminal input".into()).spawn(move || {
            copy(&mut std::io::stdin(), &mut to);
        })?;
    }
    Ok(Attached { pty, output: Some(output), _raw: raw })
}

impl Attached {
    /// Gives the container's terminal the size of ours.
    pub(super) fn resize(&self) {
        if let Some(size) = size() {
            let size = rustix::termios::Winsize {
                ws_row: size.rows,
                ws_col: size.columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // A container that has just ended has no size any more.
            let _ = rustix::termios::tcsetwinsize(&self.pty, size);
        }
    }

    /// Waits until everything that the container wrote is shown.
    pub(super) fn finish(mut self) {
        if let Some(output) = self.output.take() {
            // The thread ends with the last process of the container, which is gone.
            let _ = output.join();
        }
    }
}

fn copy(from: &mut dyn Read, to: &mut dyn Write) {
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if to.write_all(&buffer[..count]).and_then(|()| to.flush()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // EIO: the other side of the terminal is closed.
            Err(_) => return,
        }
    }
}

/// Raw mode of the terminal on standard input; the old mode comes back with the drop.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> Option<RawMode> {
        let stdin = std::io::stdin();
        let old = tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = old.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).ok()?;
        Some(RawMode(old))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that went away needs no mode.
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.0);
    }
}
