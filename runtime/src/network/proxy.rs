//! The engine's side of containers' networks: one thread that relays for all of them.
//!
//! The thread sleeps in `epoll_wait`; a container that never uses the network costs the
//! registration of its sockets and nothing else. The thread alone owns every connection; other
//! threads only leave arriving and departing sessions in a queue.

mod destination;
mod pipe;
mod relay;
mod token;
mod udp;
mod worker;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};

use self::token::{Door, Token};
use self::worker::Worker;
use super::NetworkError;
use super::sockets::ProxySockets;

/// The thread that serves the containers of this process; it ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// One container's share of the [`Proxy`]. Dropping it closes everything of that container, before
/// the drop returns.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    shared: Arc<Shared>,
}

/// What one container may hold, and for how long.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// TCP connections at a time; further ones wait in the kernel's backlog.
    pub(super) relays: usize,
    /// UDP flows at a time; the one idle for longest makes room for the next.
    pub(super) flows: usize,
    /// Until a connection has to be there.
    pub(super) connect: Duration,
    /// Until a flow ends that sees no datagram in either direction.
    pub(super) idle: Duration,
    /// The same for questions to a name server, which nobody continues.
    pub(super) idle_dns: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            relays: 4096,
            flows: 2048,
            // The kernel would try for two minutes; a build step should hear of it while somebody
            // watches.
            connect: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            idle_dns: Duration::from_secs(10),
        }
    }
}

/// Counts the sessions of one proxy.
type SessionId = u64;

/// What the proxy's thread and its users share.
#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    wake: OwnedFd,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next: SessionId,
    arrivals: Vec<(SessionId, ProxySockets)>,
    departures: Vec<(SessionId, Sender<()>)>,
    closed: bool,
}

impl Proxy {
    /// Starts the thread, in the network namespace of the caller: the host's.
    ///
    /// Raises the process's soft limit of open files to its hard limit, since every relayed
    /// connection takes two.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Proxy`] if a descriptor or the thread could not be had.
    pub fn start() -> Result<Self, NetworkError> {
        Self::with_limits(Limits::default())
    }

    pub(super) fn with_limits(limits: Limits) -> Result<Self, NetworkError> {
        let failed = |step| move |source| NetworkError::Proxy { step, source };
        raise_open_files_limit();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(io::Error::from)
            .map_err(failed("create an epoll instance"))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(io::Error::from)
            .map_err(failed("create an eventfd"))?;
        epoll::add(&epoll, &wake, Token::Wake.data(), epoll::EventFlags::IN)
            .map_err(io::Error::from)
            .map_err(failed("watch an eventfd"))?;
        let shared = Arc::new(Shared { epoll, wake, queue: Mutex::default() });
        let worker = Worker::new(Arc::clone(&shared), limits);
        let thread = std::thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || worker.run())
            .map_err(failed("start the thread"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Serves a container until the session is dropped.
    ///
    /// The thread is not woken: it learns of the session with the container's first packet.
    pub(crate) fn serve(&self, sockets: ProxySockets) -> Session {
        let mut queue = self.shared.queue();
        let id = queue.next;
        queue.next += 1;
        // The session has to be in the queue before its first event can be seen; the lock is held
        // until both are done.
        for (door, descriptor) in doors(&sockets) {
            let token = Token::Door { session: id, door };
            let flags = epoll::EventFlags::IN;
            if let Err(error) = epoll::add(&self.shared.epoll, descriptor, token.data(), flags) {
                tracing::error!(%error, "a container's network cannot be watched, it will not work");
            }
        }
        queue.arrivals.push((id, sockets));
        drop(queue);
        Session { id, shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the network thread panicked");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(done) = self.depart() {
            self.shared.wake();
            // Answered, or given up because the thread is gone with all it held.
            let _ = done.recv();
        }
    }
}

impl Session {
    /// Takes the session out of the queue, or else asks the thread for its end.
    fn depart(&self) -> Option<Receiver<()>> {
        let mut queue = self.shared.queue();
        if let Some(unused) = queue.arrivals.iter().position(|(id, _)| *id == self.id) {
            let (_, sockets) = queue.arrivals.swap_remove(unused);
            self.shared.unwatch(&sockets);
            return None;
        }
        if queue.closed {
            return None;
        }
        let (sender, receiver) = channel();
        queue.departures.push((self.id, sender));
        Some(receiver)
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only if the counter is full, and then the thread is being woken already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Takes note of being woken. This has to come before looking at the queue: the other way
    /// round, what arrives in between has no wake left.
    fn quiet(&self) {
        // Somebody else cannot have read it; were it empty, that would do as well.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// A closed socket leaves the epoll set by itself only when its last copy is closed, and the
    /// container's first process may still hold one.
    fn unwatch(&self, sockets: &ProxySockets) {
        for (_, descriptor) in doors(sockets) {
            // Not watched is what is wanted.
            let _ = epoll::delete(&self.epoll, descriptor);
        }
    }
}

/// The sockets that packets of the container arrive at.
fn doors(sockets: &ProxySockets) -> impl Iterator<Item = (Door, impl AsFd + '_)> {
    let v6 = sockets.v6.iter().flat_map(|family| {
        [(Door::TcpV6, family.listener.as_fd()), (Door::UdpV6, family.datagrams.as_fd())]
    });
    [(Door::TcpV4, sockets.v4.listener.as_fd()), (Door::UdpV4, sockets.v4.datagrams.as_fd())]
        .into_iter()
        .chain(v6)
}

fn raise_open_files_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays");
    }
}
