//! The engine's side of starting containers.

mod helper;
mod plan;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, pipe_with};

use self::helper::Helper;
use crate::cgroup::Cgroup;
use crate::container::{Container, Parts};
use crate::error::{RuntimeError, Stage};
use crate::init::handshake::{self, Failure, Made, Network, Order, Report};
use crate::isolate;
use crate::network::{Proxy, ProxySockets};
use crate::pty::Pty;
use crate::request::{ContainerIo, ContainerRequest, NetworkMode, Stdin};

/// More processes than this are never kept ready: each holds half a megabyte and a network
/// namespace, and builds rarely start more containers than there are processors at once.
const MOST_PREPARED: usize = 4;

/// Starts containers, through the init helper it owns. Dropping it kills them all.
#[derive(Debug)]
pub struct Spawner {
    helper: Mutex<Orders>,
    proxy: OnceLock<Proxy>,
}

/// The helper, and what was ordered from it and not taken yet, in the order of its answers.
#[derive(Debug)]
struct Orders {
    /// Not there before the first order, unless it was started ahead.
    helper: Option<Helper>,
    pending: Vec<Network>,
    /// A container has been started before: more will follow.
    repeated: bool,
}

/// A process in its namespaces that waits for its plan.
#[derive(Debug)]
struct Prepared {
    pid: i32,
    pidfd: OwnedFd,
    socket: OwnedFd,
    exit: OwnedFd,
}

impl Spawner {
    /// Starts the init helper. Call [`crate::isolate`] first, and start the helper while the
    /// working directory and the mounts are what containers shall be made from.
    pub fn start() -> Result<Spawner, RuntimeError> {
        let spawner = Spawner::deferred();
        spawner.orders().helper()?;
        Ok(spawner)
    }

    /// As [`Spawner::start`], but the helper starts with the first container or with
    /// [`Spawner::prepare`]: for a caller that may need none.
    pub fn deferred() -> Spawner {
        let orders = Orders { helper: None, pending: Vec::new(), repeated: false };
        Spawner { helper: Mutex::new(orders), proxy: OnceLock::new() }
    }

    /// Lets the helper make the namespaces and the fixed mounts of the next container while the
    /// caller does something else. Never needed, and from the second container on done unasked; a
    /// prepared container that no request matches is thrown away. Does not wait for the helper.
    ///
    /// Mounts that the engine makes afterwards are not visible to it as sources of overlays.
    pub fn prepare(&self, network: NetworkMode) {
        let mut orders = self.orders();
        if orders.pending.len() < MOST_PREPARED
            && let Err(error) = orders.order(network.into())
        {
            // The next spawn meets the same error and reports it.
            tracing::debug!(error = &error as &dyn std::error::Error, "cannot prepare a container");
        }
    }

    /// Lets the helper end, once no container lives that shall not be killed, while the caller does
    /// something else: dropping the spawner waits for that. No container can be started any more.
    pub fn retire(&self) {
        if let Some(helper) = &self.orders().helper {
            // If that fails the helper ends when this is dropped.
            let _ = rustix::net::shutdown(helper.socket(), Shutdown::Write);
        }
    }

    /// Starts a container. Returns once its program has been executed, or could not be.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Exec`] if only the program is at fault, with Docker's text;
    /// [`RuntimeError::Setup`] with the step that failed; others if it did not come so far.
    /// Nothing of the container is left then.
    pub fn spawn(
        &self,
        request: &ContainerRequest,
        io: ContainerIo,
    ) -> Result<Container, RuntimeError> {
        let mut descriptors = Vec::new();
        let streams = Streams::open(io, &mut descriptors)?;
        let plan::Draft { plan, attachment } = plan::draft(request, io, &mut descriptors)?;

        let resources = request.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let cgroup = resources.map(Cgroup::create).transpose()?.flatten();

        let network = request.network.into();
        let prepared = self.orders().take(network)?;
        if let Some(cgroup) = &cgroup {
            // It waits for its plan: whatever it becomes or starts is limited from the beginning.
            cgroup.add(prepared.pid)?;
        }
        // Not after it has said that it is ready: then it would have to wait for us.
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        match handshake::send(&prepared.socket, &plan, &attachment, &borrowed) {
            Ok(()) => {}
            // It failed before it read all: its report is more to the point.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) => return Err(RuntimeError::Channel(error)),
        }
        self.orders().expect_another(network);
        // The container holds its own copies; the ends of pipes must not stay open here.
        drop(descriptors);
        self.finish(prepared, streams, cgroup)
    }

    /// Waits for the program to start and puts the container together. If that fails, nothing of
    /// it is left.
    fn finish(
        &self,
        prepared: Prepared,
        streams: Streams,
        cgroup: Option<Cgroup>,
    ) -> Result<Container, RuntimeError> {
        let Prepared { pid, pidfd, socket, exit } = prepared;
        let Streams { stdout, stderr } = streams;
        let mut parts = Parts {
            pid,
            pidfd,
            exit,
            stdout,
            stderr,
            pty: None,
            notes: Vec::new(),
            stubs: Vec::new(),
            parents: Vec::new(),
            session: None,
            cgroup,
        };
        let outcome = self.follow(&socket, &mut parts);
        // Dropped for a failure it is killed, if it lives, and its root file system tidied up.
        let container = Container::new(parts);
        outcome.map(|()| container)
    }

    /// Takes what the process sends until it has become the program.
    fn follow(&self, socket: &OwnedFd, parts: &mut Parts) -> Result<(), RuntimeError> {
        let mut missing = Some("make namespaces");
        while let Some(received) =
            handshake::receive::<Report>(socket).map_err(RuntimeError::Channel)?
        {
            match received.message {
                Report::Ready { proxied } => {
                    missing = Some("start a container");
                    if proxied {
                        let sockets = ProxySockets::try_from(received.descriptors)
                            .map_err(RuntimeError::Network)?;
                        parts.session = Some(self.proxy()?.serve(sockets));
                    }
                }
                Report::Starting { terminal, stubs, notes } => {
                    let mut descriptors = received.descriptors.into_iter();
                    if terminal {
                        parts.pty = descriptors.next().map(Pty::new);
                    }
                    parts.stubs = stubs;
                    parts.parents = descriptors.collect();
                    parts.notes = notes;
                    missing = None;
                }
                Report::Failed(failure) => return Err(failure.into()),
            }
        }
        match missing {
            None => Ok(()),
            Some(expected) => Err(RuntimeError::InitLost { expected }),
        }
    }

    fn proxy(&self) -> Result<&Proxy, RuntimeError> {
        if let Some(proxy) = self.proxy.get() {
            return Ok(proxy);
        }
        let proxy = Proxy::start().map_err(RuntimeError::Network)?;
        // Of two threads that come here at once, one has started a proxy in vain.
        Ok(self.proxy.get_or_init(|| proxy))
    }

    fn orders(&self) -> std::sync::MutexGuard<'_, Orders> {
        self.helper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Orders {
    fn helper(&mut self) -> Result<&Helper, RuntimeError> {
        match &mut self.helper {
            Some(helper) => Ok(helper),
            none => Ok(none.insert(Helper::start()?)),
        }
    }

    fn order(&mut self, network: Network) -> Result<(), RuntimeError> {
        handshake::send(self.helper()?.socket(), &Order::Prepare { network }, &[], &[])
            .map_err(RuntimeError::Channel)?;
        self.pending.push(network);
        Ok(())
    }

    /// From the second container on, has the next one made ready while this one starts: who starts
    /// two starts twenty.
    fn expect_another(&mut self, network: Network) {
        let repeated = std::mem::replace(&mut self.repeated, true);
        if repeated && self.pending.is_empty() {
            // The next spawn meets the same error and reports it.
            let _ = self.order(network);
        }
    }

    /// The next process with this network; those with another in front of it are thrown away.
    fn take(&mut self, network: Network) -> Result<Prepared, RuntimeError> {
        if !self.pending.contains(&network) {
            self.order(network)?;
        }
        loop {
            let made = handshake::receive::<Made>(self.helper()?.socket())
                .map_err(RuntimeError::Channel)?
                .ok_or(RuntimeError::InitLost { expected: "clone a process" })?;
            let wanted = self.pending.remove(0) == network;
            let mut descriptors = made.descriptors.into_iter();
            let prepared = match made.message {
                Made::Failed { errno } => Err(RuntimeError::from(Failure {
                    stage: Stage::Namespaces,
                    object: None,
                    message: None,
                    errno,
                })),
                Made::Process { pid } => {
                    match (descriptors.next(), descriptors.next(), descriptors.next()) {
                        (Some(pidfd), Some(socket), Some(exit)) => {
                            Ok(Prepared { pid, pidfd, socket, exit })
                        }
                        _ => Err(RuntimeError::Channel(io::ErrorKind::InvalidData.into())),
                    }
                }
            };
            if wanted {
                return prepared;
            }
        }
    }
}

/// The engine's ends of a container's streams.
#[derive(Debug, Default)]
struct Streams {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Streams {
    /// Opens what `io` asks for; the container's ends become the first three of `descriptors`.
    fn open(io: ContainerIo, descriptors: &mut Vec<OwnedFd>) -> Result<Streams, RuntimeError> {
        let failed =
            |source: io::Error| RuntimeError::Control { attempt: "open the streams of", source };
        let input = |stdin| match stdin {
            Stdin::Null => {
                rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(io::Error::from)
            }
            Stdin::Inherit => io::stdin().as_fd().try_clone_to_owned(),
        };
        match io {
            ContainerIo::Pty { .. } => Ok(Streams::default()),
            ContainerIo::Inherit { stdin } => {
                descriptors.push(input(stdin).map_err(failed)?);
                descriptors.push(io::stdout().as_fd().try_clone_to_owned().map_err(failed)?);
                descriptors.push(io::stderr().as_fd().try_clone_to_owned().map_err(failed)?);
                Ok(Streams::default())
            }
            ContainerIo::Pipes { stdin } => {
                descriptors.push(input(stdin).map_err(failed)?);
                let mut pipe = || {
                    let (reading, writing) =
                        pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
                    descriptors.push(writing);
                    Ok::<_, RuntimeError>(reading)
                };
                Ok(Streams { stdout: Some(pipe()?), stderr: Some(pipe()?) })
            }
        }
    }
}

impl From<Failure> for RuntimeError {
    fn from(failure: Failure) -> Self {
        let Failure { stage, object, message, errno } = failure;
        match (stage, message) {
            (Stage::Exec, Some(message)) => RuntimeError::Exec { message, errno },
            (stage, hint) => RuntimeError::Setup {
                stage,
                path: object,
                // What the kernel calls invalid is an id that our namespace does not have.
                hint: hint.or_else(|| match (stage, errno) {
                    (Stage::User | Stage::File, libc::EINVAL) => isolate::why_ids_are_missing(),
                    (Stage::Namespaces, libc::ENOSPC) => {
                        Some("the limits in /proc/sys/user/max_*_namespaces are reached".to_owned())
                    }
                    _ => None,
                }),
                source: io::Error::from_raw_os_error(errno),
            },
        }
    }
}
