//! The helper's loop: orders in, processes out, and how they ended.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior};

use super::child;
use super::handshake::{self, Ended, Made, Network, Order};
use crate::sys::{self, Cloned, Disposition};

/// A process that has not ended.
struct Living {
    pidfd: OwnedFd,
    /// Its end goes here; that nobody reads it any more is no error.
    ended: OwnedFd,
}

/// Serves the engine until it closes `socket`.
pub(super) fn run(socket: OwnedFd) -> ! {
    let result = Helper::new().and_then(|mut helper| helper.serve(&socket));
    std::process::exit(if result.is_ok() { 0 } else { 1 });
}

struct Helper {
    living: BTreeMap<i32, Living>,
    children: OwnedFd,
    /// How often the kernel had killed for lack of memory when the first process was made; read
    /// right after that, so that nobody waits for it.
    oom_kills: Option<u64>,
}

impl Helper {
    fn new() -> io::Result<Helper> {
        // Nobody reads our memory or descriptors through /proc, above all not a container.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        // Executed by descriptor, its name would be a number.
        rustix::thread::set_name(super::ARGUMENT_ZERO)?;
        // Ctrl-C at the engine's terminal is the engine's affair.
        rustix::process::setsid()?;
        // Containers inherit what whoever started the engine left ignored.
        for signal in 1..=64 {
            sys::set_disposition(signal, Disposition::Default);
        }
        // An engine that does not read how a container ended is no reason to die.
        sys::set_disposition(libc::SIGPIPE, Disposition::Ignored);
        sys::set_blocked_signals(&[libc::SIGCHLD]);
        let children = sys::signalfd(&[libc::SIGCHLD])?;
        Ok(Helper { living: BTreeMap::new(), children, oom_kills: None })
    }

    fn serve(&mut self, socket: &OwnedFd) -> io::Result<()> {
        loop {
            let mut ready =
                [PollFd::new(socket, PollFlags::IN), PollFd::new(&self.children, PollFlags::IN)];
            match poll(&mut ready, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            let (order, child) = (ready[0].revents(), ready[1].revents());
            if !child.is_empty() {
                self.reap()?;
            }
            if order.is_empty() {
                continue;
            }
            match handshake::receive::<Order>(socket) {
                Ok(Some(received)) => {
                    let Order::Prepare { network } = received.message;
                    self.prepare(socket, network)?;
                    self.oom_kills.get_or_insert_with(oom_kills);
                }
                Ok(None) | Err(_) => {
                    self.kill_all();
                    return Ok(());
                }
            }
        }
    }

    /// Clones a process and tells the engine.
    fn prepare(&mut self, socket: &OwnedFd, network: Network) -> io::Result<()> {
        let (made, descriptors) = match self.clone_one(network) {
            Ok((pid, descriptors)) => (Made::Process { pid }, descriptors),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                (Made::Failed { errno }, Vec::new())
            }
        };
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        handshake::send(socket, &made, &[], &borrowed)
    }

    fn clone_one(&mut self, network: Network) -> io::Result<(i32, Vec<OwnedFd>)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        handshake::limit_waiting(&ours)?;
        let (end, ended) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut namespaces = libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP;
        if network != Network::Host {
            namespaces |= libc::CLONE_NEWNET;
        }
        // SAFETY: the helper has one thread.
        match unsafe { sys::clone_process(namespaces) }? {
            Cloned::Child => {
                // With our ends open it would wait for itself when everybody else is gone.
                drop((ours, end));
                child::run(theirs, network)
            }
            Cloned::Parent { pid, pidfd } => {
                let copy = pidfd.try_clone()?;
                self.living.insert(pid, Living { pidfd, ended });
                Ok((pid, vec![copy, ours, end]))
            }
        }
    }

    /// Notes every process that has ended.
    fn reap(&mut self) -> io::Result<()> {
        let mut siginfo = [0; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.children, &mut siginfo) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            result => drop(result?),
        }
        loop {
            let Some(reaped) = sys::reap_one()? else { return Ok(()) };
            let Some(living) = self.living.remove(&reaped.pid) else { continue };
            let killed = reaped.signal == Some(libc::SIGKILL);
            let ended = Ended {
                code: reaped.code,
                signal: reaped.signal,
                oom: killed && self.oom_kills.is_some_and(|before| oom_kills() > before),
                peak_memory: reaped.peak_memory,
                cpu_micros: reaped.cpu_micros,
            };
            let _ = rustix::io::write(&living.ended, &ended.to_bytes());
        }
    }

    fn kill_all(&mut self) {
        for living in self.living.values() {
            let _ = rustix::process::pidfd_send_signal(&living.pidfd, Signal::KILL);
        }
    }
}

/// The kernel's count of processes killed for lack of memory; 0 where it cannot be read.
fn oom_kills() -> u64 {
    let Ok(counters) = fs_err::read_to_string("/proc/vmstat") else { return 0 };
    counters
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}
