//! One TCP connection of a container and its continuation in the host's network.
//!
//! Each direction moves bytes only as fast as its far side takes them: what cannot be written
//! stays in the direction's pipe, then in the kernel's receive buffer, then the sender waits. The
//! end of one direction is passed on by itself, a reset on either side resets the other.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::SessionId;
use super::pipe::{Pipe, Pipes};
use super::token::Side;

/// Transfers of one direction before the other connections get their turn.
const TURN: usize = 16;

/// Turns to send out what a container left behind: up to 16 MiB, more than socket buffers hold.
const LAST_TURNS: usize = 32;

/// The two sockets of a relay and the two directions between them.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) session: SessionId,
    client: TcpStream,
    upstream: TcpStream,
    pub(super) connecting: bool,
    failed: bool,
    /// Already in the list of relays that have something to do.
    pub(super) ready: bool,
    up: Direction,
    down: Direction,
}

/// Where a relay stands after its turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The next event will tell.
    Waiting,
    /// The turn ended before the bytes did.
    More,
    /// Both directions came to their end.
    Finished,
    /// One side failed; the other is to hear of it.
    Broken,
}

#[derive(Debug, Default)]
struct Direction {
    readable: bool,
    writable: bool,
    pipe: Option<Pipe>,
    stage: Stage,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The source has ended, its last bytes may still be in the pipe.
    Ended,
    /// And the destination knows.
    Closed,
}

impl Relay {
    /// Starts to connect to `target` on behalf of `client`.
    pub(super) fn open(
        session: SessionId,
        client: TcpStream,
        target: SocketAddr,
    ) -> Result<Self, (TcpStream, io::Error)> {
        match start_connecting(target) {
            Ok(upstream) => Ok(Self {
                session,
                client,
                upstream,
                connecting: true,
                failed: false,
                ready: false,
                up: Direction::default(),
                down: Direction::default(),
            }),
            Err(error) => Err((client, error)),
        }
    }

    pub(super) fn socket(&self, side: Side) -> &TcpStream {
        match side {
            Side::Client => &self.client,
            Side::Upstream => &self.upstream,
        }
    }

    /// Takes note of an edge that epoll reports.
    pub(super) fn note(&mut self, side: Side, flags: EventFlags) {
        let (outward, inward) = match side {
            Side::Client => (&mut self.up, &mut self.down),
            Side::Upstream => (&mut self.down, &mut self.up),
        };
        let over = EventFlags::HUP | EventFlags::ERR;
        outward.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | over);
        inward.writable |= flags.intersects(EventFlags::OUT | over);
        self.failed |= flags.contains(EventFlags::ERR);
    }

    /// Moves what can be moved.
    pub(super) fn advance(&mut self, pipes: &mut Pipes) -> Outcome {
        self.step(pipes).unwrap_or(Outcome::Broken)
    }

    fn step(&mut self, pipes: &mut Pipes) -> io::Result<Outcome> {
        if self.failed {
            self.failed = false;
            for socket in [&self.upstream, &self.client] {
                if let Some(error) = socket.take_error()? {
                    return Err(error);
                }
            }
        }
        if self.connecting {
            if !self.up.writable {
                return Ok(Outcome::Waiting);
            }
            self.connecting = false;
        }
        let more_up = self.up.advance(&self.client, &self.upstream, pipes)?;
        let more_down = self.down.advance(&self.upstream, &self.client, pipes)?;
        if self.up.stage == Stage::Closed && self.down.stage == Stage::Closed {
            return Ok(Outcome::Finished);
        }
        Ok(if more_up || more_down { Outcome::More } else { Outcome::Waiting })
    }

    /// Ends the relay because the container is gone: what it has sent still goes out, as it would
    /// from the buffers of a kernel; the rest is cut off.
    pub(super) fn abandon(mut self, pipes: &mut Pipes) {
        self.up.readable = true;
        let mut outcome = Outcome::More;
        for _ in 0..LAST_TURNS {
            if outcome == Outcome::More {
                outcome = self.advance(pipes);
            }
        }
        if outcome == Outcome::Broken || self.up.stage != Stage::Closed {
            self.reset();
        }
    }

    /// Ends both connections the hard way.
    pub(super) fn reset(self) {
        for socket in [&self.client, &self.upstream] {
            reset_on_close(socket);
        }
    }
}

impl Direction {
    /// True if there is more to do at once.
    fn advance(&mut self, from: &TcpStream, to: &TcpStream, pipes: &mut Pipes) -> io::Result<bool> {
        for _ in 0..TURN {
            if let Some(mut pipe) = self.pipe.take_if(|_| self.writable) {
                let drained = pipe.drain(to);
                if pipe.is_empty() {
                    pipes.give(pipe);
                } else {
                    self.pipe = Some(pipe);
                }
                self.writable = happened(drained)?;
            } else if self.pipe.is_some() {
                return Ok(false);
            } else if self.stage == Stage::Ended {
                self.stage = Stage::Closed;
                // The far side may have closed meanwhile, which its own direction will show.
                let _ = to.shutdown(Shutdown::Write);
                return Ok(false);
            } else if self.readable && self.stage == Stage::Open {
                let mut pipe = pipes.take()?;
                let filled = pipe.fill(from);
                if pipe.is_empty() {
                    pipes.give(pipe);
                } else {
                    self.pipe = Some(pipe);
                }
                if matches!(filled, Ok(0)) {
                    self.stage = Stage::Ended;
                }
                self.readable = happened(filled.map(|_| ()))?;
            } else {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// False if the socket was not ready.
fn happened(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(error),
    }
}

fn start_connecting(target: SocketAddr) -> io::Result<TcpStream> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    // Small writes were gathered, or not, by the program in the container.
    sockopt::set_tcp_nodelay(&socket, true)?;
    // A far end that vanished must not hold its place for ever.
    sockopt::set_socket_keepalive(&socket, true)?;
    match connect(&socket, &target) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// Makes closing the socket send RST: "connection refused" cannot be said any more once the
/// container's kernel has completed the handshake.
pub(super) fn reset_on_close(socket: &TcpStream) {
    // It fails only on what is no socket.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}
