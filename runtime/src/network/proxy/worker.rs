//! The proxy's thread: a loop over epoll events, and the bounds on what a container may hold.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::destination::destination;
use super::pipe::Pipes;
use super::relay::{Outcome, Relay, reset_on_close};
use super::token::{Door, Side, Token};
use super::udp::{self, Flow, FlowId};
use super::{Limits, SessionId, Shared};
use crate::network::packet::{self, HEADROOM};
use crate::network::slab::{Key, Slab};
use crate::network::sockets::{FamilySockets, ProxySockets};

/// Out of descriptors, the next attempt to accept is made after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections accepted, or datagrams received, from one socket before the next has its turn.
const BATCH: usize = 64;
/// Events of one `epoll_wait`.
const EVENTS: usize = 256;

/// Everything the thread owns.
pub(super) struct Worker {
    shared: Arc<Shared>,
    limits: Limits,
    sessions: HashMap<SessionId, Served>,
    places: Slab<Place>,
    ready: VecDeque<Key>,
    connecting: VecDeque<(Instant, Key)>,
    resume_at: Option<Instant>,
    pipes: Pipes,
    buffer: Vec<u8>,
    control: Vec<u8>,
    now: Instant,
}

enum Place {
    Relay(Relay),
    Flow(Flow),
}

/// What one container holds.
struct Served {
    sockets: ProxySockets,
    relays: HashSet<Key>,
    flows: HashMap<FlowId, Key>,
    /// Flows in the order of their deadlines as of when they were queued; a flow used since then
    /// is queued anew when it comes up. Name server flows, with their own idle time, are apart.
    idle: [VecDeque<(Instant, Key)>; 2],
    /// Not accepting connections for the moment.
    paused: bool,
}

impl Served {
    fn new(sockets: ProxySockets) -> Self {
        Self {
            sockets,
            relays: HashSet::new(),
            flows: HashMap::new(),
            idle: Default::default(),
            paused: false,
        }
    }

    fn family(&self, v4: bool) -> Option<&FamilySockets> {
        if v4 { Some(&self.sockets.v4) } else { self.sockets.v6.as_ref() }
    }
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, limits: Limits) -> Self {
        Self {
            shared,
            limits,
            sessions: HashMap::new(),
            places: Slab::new(),
            ready: VecDeque::new(),
            connecting: VecDeque::new(),
            resume_at: None,
            pipes: Pipes::default(),
            buffer: Vec::new(),
            control: udp::control_buffer(),
            now: Instant::now(),
        }
    }

    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let timeout = self.timeout().map(|timeout| Timespec {
                tv_sec: timeout.as_secs() as i64,
                tv_nsec: i64::from(timeout.subsec_nanos()),
            });
            let waited = epoll::wait(
                &self.shared.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            );
            if let Err(error) = waited
                && error != Errno::INTR
            {
                tracing::error!(%error, "the network thread cannot wait for events, it ends");
                self.shared.queue().closed = true;
                return;
            }
            self.now = Instant::now();
            let events = events.iter().map(|event| {
                let (flags, data) = (event.flags, event.data);
                (Token::decode(data.u64()), flags)
            });
            if events.clone().any(|(token, _)| token == Token::Wake) {
                self.shared.quiet();
            }
            if !self.take_queue() {
                return;
            }
            for (token, flags) in events {
                self.handle(token, flags);
            }
            self.advance_ready();
            self.expire();
        }
    }

    /// Sessions that came and went; false if the proxy is to end.
    fn take_queue(&mut self) -> bool {
        let (arrivals, departures, closed) = {
            let mut queue = self.shared.queue();
            (
                std::mem::take(&mut queue.arrivals),
                std::mem::take(&mut queue.departures),
                queue.closed,
            )
        };
        for (id, sockets) in arrivals {
            self.sessions.insert(id, Served::new(sockets));
        }
        for (id, done) in departures {
            self.end_session(id);
            // Its session waits; if not, nobody is left to tell.
            let _ = done.send(());
        }
        !closed
    }

    fn end_session(&mut self, id: SessionId) {
        let Some(served) = self.sessions.remove(&id) else { return };
        self.shared.unwatch(&served.sockets);
        for key in served.relays.into_iter().chain(served.flows.into_values()) {
            if let Some(Place::Relay(relay)) = self.places.remove(key) {
                relay.abandon(&mut self.pipes);
            }
        }
    }

    fn handle(&mut self, token: Token, flags: epoll::EventFlags) {
        match token {
            // The queue has been looked at.
            Token::Wake => {}
            Token::Door { session, door: Door::TcpV4 } => self.accept(session, true),
            Token::Door { session, door: Door::TcpV6 } => self.accept(session, false),
            Token::Door { session, door: Door::UdpV4 } => self.receive(session, true),
            Token::Door { session, door: Door::UdpV6 } => self.receive(session, false),
            Token::Place { key, side } => match self.places.get_mut(key) {
                Some(Place::Relay(relay)) => {
                    relay.note(side, flags);
                    if !std::mem::replace(&mut relay.ready, true) {
                        self.ready.push_back(key);
                    }
                }
                Some(Place::Flow(flow)) => {
                    let family = self
                        .sessions
                        .get(&flow.session)
                        .and_then(|served| served.family(flow.id.client.is_ipv4()));
                    if let Some(family) = family {
                        flow.deliver(&mut self.buffer, &family.raw, BATCH, self.now);
                    }
                }
                None => {}
            },
        }
    }

    /// Accepts what waits at a container's listener and starts to connect for it.
    fn accept(&mut self, session: SessionId, v4: bool) {
        for _ in 0..BATCH {
            let Some(served) = self.sessions.get_mut(&session) else { return };
            if served.relays.len() >= self.limits.relays {
                self.pause(session);
                return;
            }
            let Some(family) = served.family(v4) else { return };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(&family.listener, flags) {
                Ok(socket) => self.connect(session, socket.into()),
                Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
                    self.pause(session);
                    self.resume_at = Some(self.now + ACCEPT_PAUSE);
                    return;
                }
                Err(Errno::AGAIN) => return,
                // A connection that is gone already, or a signal.
                Err(_) => {}
            }
        }
    }

    fn connect(&mut self, session: SessionId, client: TcpStream) {
        // The local address of a transparent connection is what its client asked for.
        let opened = match client.local_addr().map(destination) {
            Ok(Some(target)) => Relay::open(session, client, target),
            Ok(None) => Err((client, Errno::ACCESS.into())),
            Err(error) => Err((client, error)),
        };
        let relay = match opened {
            Ok(relay) => relay,
            Err((client, error)) => {
                tracing::debug!(%error, "a container's connection is refused");
                return reset_on_close(&client);
            }
        };
        // As with the upstream socket; the kernel's buffers work without it too.
        let _ = relay.socket(Side::Client).set_nodelay(true);
        let key = self.places.insert(Place::Relay(relay));
        if let Err(error) = self.watch_relay(key) {
            tracing::debug!(%error, "a container's connection cannot be watched");
            if let Some(Place::Relay(relay)) = self.places.remove(key) {
                relay.reset();
            }
            return;
        }
        if let Some(served) = self.sessions.get_mut(&session) {
            served.relays.insert(key);
        }
        self.connecting.push_back((self.now + self.limits.connect, key));
    }

    fn watch_relay(&mut self, key: Key) -> io::Result<()> {
        let Some(Place::Relay(relay)) = self.places.get_mut(key) else { return Ok(()) };
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        for side in [Side::Client, Side::Upstream] {
            let token = Token::Place { key, side };
            epoll::add(&self.shared.epoll, relay.socket(side), token.data(), flags)?;
        }
        Ok(())
    }

    /// One turn for every relay that has something to do.
    fn advance_ready(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { return };
            let Some(Place::Relay(relay)) = self.places.get_mut(key) else { continue };
            relay.ready = false;
            match relay.advance(&mut self.pipes) {
                Outcome::Waiting => {}
                Outcome::More => {
                    relay.ready = true;
                    self.ready.push_back(key);
                }
                Outcome::Finished => drop(self.remove_relay(key)),
                Outcome::Broken => self.reset_relay(key),
            }
        }
    }

    fn reset_relay(&mut self, key: Key) {
        if let Some(relay) = self.remove_relay(key) {
            relay.reset();
        }
    }

    fn remove_relay(&mut self, key: Key) -> Option<Relay> {
        let Some(Place::Relay(relay)) = self.places.remove(key) else { return None };
        if let Some(served) = self.sessions.get_mut(&relay.session) {
            served.relays.remove(&key);
            if served.paused {
                self.resume_at = Some(self.now);
            }
        }
        Some(relay)
    }

    /// Leaves further connections in the backlog.
    fn pause(&mut self, session: SessionId) {
        if let Some(served) = self.sessions.get_mut(&session) {
            served.paused = true;
            watch_listeners(&self.shared, session, served, epoll::EventFlags::empty());
        }
    }

    fn resume(&mut self) {
        for (session, served) in &mut self.sessions {
            if served.paused && served.relays.len() < self.limits.relays {
                served.paused = false;
                watch_listeners(&self.shared, *session, served, epoll::EventFlags::IN);
            }
        }
    }

    /// Receives what a container's programs have sent.
    fn receive(&mut self, session: SessionId, v4: bool) {
        // Its pages are touched only once there are datagrams at all.
        self.buffer.resize(udp::BUFFER, 0);
        for _ in 0..BATCH {
            let Some(family) = self.sessions.get(&session).and_then(|served| served.family(v4))
            else {
                return;
            };
            match udp::receive(&family.datagrams, &mut self.buffer, &mut self.control) {
                // Answers to any other address would come back here instead of reaching it.
                Ok(Some((id, length))) if packet::is_container(id.client.ip()) => {
                    self.forward(session, id, length);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Sends the datagram in the buffer on, through its flow or a new one.
    fn forward(&mut self, session: SessionId, id: FlowId, length: usize) {
        let Some(served) = self.sessions.get(&session) else { return };
        let key = match served.flows.get(&id) {
            Some(key) => *key,
            None => match self.open_flow(session, id) {
                Ok(key) => key,
                Err(error) => {
                    tracing::debug!(%error, to = %id.original, "a container's datagram is refused");
                    if let Some(family) = self
                        .sessions
                        .get(&session)
                        .and_then(|served| served.family(id.client.is_ipv4()))
                    {
                        udp::refuse(id, &family.raw);
                    }
                    return;
                }
            },
        };
        let Some(served) = self.sessions.get(&session) else { return };
        if let Some(Place::Flow(flow)) = self.places.get_mut(key)
            && let Some(family) = served.family(id.client.is_ipv4())
        {
            flow.forward(&self.buffer[HEADROOM..HEADROOM + length], &family.raw, self.now);
        }
    }

    fn open_flow(&mut self, session: SessionId, id: FlowId) -> io::Result<Key> {
        let target = destination(id.original).ok_or(Errno::ACCESS)?;
        if self.sessions.get(&session).is_some_and(|served| served.flows.len() >= self.limits.flows)
        {
            self.evict_flow(session);
        }
        let flow = Flow::open(session, id, target, &self.limits, self.now)?;
        let (deadline, queue) = (flow.deadline(), usize::from(flow.dns));
        let key = self.places.insert(Place::Flow(flow));
        let token = Token::Place { key, side: Side::Upstream };
        if let Some(Place::Flow(flow)) = self.places.get_mut(key)
            && let Err(error) =
                epoll::add(&self.shared.epoll, flow.socket(), token.data(), epoll::EventFlags::IN)
        {
            self.places.remove(key);
            return Err(error.into());
        }
        if let Some(served) = self.sessions.get_mut(&session) {
            served.flows.insert(id, key);
            served.idle[queue].push_back((deadline, key));
        }
        Ok(key)
    }

    /// Ends the flow that has been idle for longest.
    fn evict_flow(&mut self, session: SessionId) {
        let Some(served) = self.sessions.get_mut(&session) else { return };
        // Every flow stands in exactly one queue, so after as many steps the front is the oldest.
        for _ in 0..=self.limits.flows {
            let queue = usize::from(!served.idle[1].is_empty());
            let Some((queued, key)) = served.idle[queue].pop_front() else { return };
            let Some(Place::Flow(flow)) = self.places.get_mut(key) else { continue };
            if flow.deadline() > queued {
                served.idle[queue].push_back((flow.deadline(), key));
                continue;
            }
            served.flows.remove(&flow.id);
            self.places.remove(key);
            return;
        }
    }

    /// What has waited too long.
    fn expire(&mut self) {
        while let Some(&(deadline, key)) = self.connecting.front() {
            let waiting =
                matches!(self.places.get_mut(key), Some(Place::Relay(relay)) if relay.connecting);
            if waiting && deadline > self.now {
                break;
            }
            self.connecting.pop_front();
            if waiting {
                self.reset_relay(key);
            }
        }
        if self.resume_at.is_some_and(|at| at <= self.now) {
            self.resume_at = None;
            self.resume();
        }
        for served in self.sessions.values_mut() {
            for queue in 0..served.idle.len() {
                while let Some(&(deadline, key)) = served.idle[queue].front()
                    && deadline <= self.now
                {
                    served.idle[queue].pop_front();
                    let Some(Place::Flow(flow)) = self.places.get_mut(key) else { continue };
                    if flow.deadline() > self.now {
                        served.idle[queue].push_back((flow.deadline(), key));
                    } else {
                        served.flows.remove(&flow.id);
                        self.places.remove(key);
                    }
                }
            }
        }
    }

    /// How long nothing is due.
    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let idle = self.sessions.values().flat_map(|served| &served.idle);
        idle.chain([&self.connecting])
            .filter_map(|queue| queue.front().map(|(deadline, _)| *deadline))
            .chain(self.resume_at)
            .min()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// Asks epoll for connections, or for none.
fn watch_listeners(shared: &Shared, session: SessionId, served: &Served, flags: epoll::EventFlags) {
    for (door, family) in [(Door::TcpV4, served.family(true)), (Door::TcpV6, served.family(false))]
    {
        if let Some(family) = family {
            let token = Token::Door { session, door };
            if let Err(error) = epoll::modify(&shared.epoll, &family.listener, token.data(), flags)
            {
                tracing::error!(%error, "a container's listener is no longer watched");
            }
        }
    }
}
