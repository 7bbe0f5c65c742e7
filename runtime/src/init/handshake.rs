//! What the engine, the init helper and a container's first process say to each other.
//!
//! ```text
//! frame := bytes of JSON (u32) · bytes of attachment (u32) · descriptors (u32) · JSON · attachment
//! ```
//!
//! Descriptors travel with the first byte of their frame. The attachment carries what JSON would
//! blow up: file contents and the seccomp filter. Both ends are this same binary, so numbers are
//! native and there is no version; lengths are checked all the same, because a container's first
//! process still holds its socket when its mounts already come from an image.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::Timeout;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::NetworkMode;
use crate::capabilities::CapabilityMasks;
use crate::error::Stage;
use crate::mount::MountPlan;
use crate::pty::WindowSize;

/// Longest JSON part; a request with thousands of mounts and a full environment stays below.
const MAX_JSON: usize = 16 << 20;
/// Longest attachment; secrets are at most 500 KiB each.
const MAX_ATTACHMENT: usize = 256 << 20;
/// Most descriptors in one frame: the kernel's SCM_MAX_FD.
const MAX_DESCRIPTORS: usize = 253;

/// Engine to helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Make one more process ready; answered by a [`Made`].
    Prepare { network: Network },
}

/// [`NetworkMode`] on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Network {
    None,
    Host,
    Proxied,
}

/// Helper to engine. With `Process` come three descriptors: the pidfd, the engine's end of the
/// process's own socket, and the reading end of a pipe that will say how it ended ([`Ended`]).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Made {
    Process { pid: i32 },
    Failed { errno: i32 },
}

/// A container's first process to the engine, in this order: `Ready`, then after the [`Plan`]
/// `Starting`, then the socket closes because the program was executed. `Failed` may come at any
/// point and is the last.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Namespaces, network and fixed mounts are there. The descriptors are the network's sockets.
    Ready { proxied: bool },
    /// All is mounted and the root changed. Descriptors: the terminal if there is one, then the
    /// parents of `stubs`.
    Starting { terminal: bool, stubs: Vec<Stub>, notes: Vec<String> },
    /// It could not be done.
    Failed(Failure),
}

/// Why a container could not be started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    /// What it was about, as the container sees it.
    pub(crate) object: Option<String>,
    /// Docker's text, for [`Stage::Exec`]; a hint otherwise.
    pub(crate) message: Option<String>,
    pub(crate) errno: i32,
}

/// A file or directory that had to be made to mount something on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stub {
    /// Its name in the parent, a descriptor of which travels along.
    pub(crate) name: String,
    pub(crate) directory: bool,
}

/// Everything a container's first process needs to know to become the program.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) rootfs: Vec<MountPlan>,
    pub(crate) read_only_root: bool,
    /// Device nodes that the container makes or finds may be opened.
    pub(crate) any_device: bool,
    pub(crate) mounts: Vec<MountPlan>,
    pub(crate) files: Vec<FilePlan>,
    pub(crate) masked: Vec<String>,
    pub(crate) read_only: Vec<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    /// Length of the seccomp filter in instructions of 8 bytes; it comes first in the attachment.
    pub(crate) filter: Option<usize>,
    pub(crate) terminal: Option<WindowSize>,
    /// The pipes for output were made by us and may be given to the user.
    pub(crate) own_streams: bool,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    pub(crate) capabilities: CapabilityMasks,
    pub(crate) no_new_privileges: bool,
    /// (resource, soft, hard)
    pub(crate) rlimits: Vec<(u32, u64, u64)>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<String>,
    pub(crate) directory: String,
}

/// A file whose content is in the attachment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FilePlan {
    pub(crate) target: String,
    pub(crate) length: usize,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) read_only: bool,
}

/// How a process ended: a few bytes on its pipe, fewer than any pipe takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// The kernel's count of processes killed for lack of memory had grown since the start.
    pub(crate) oom: bool,
    /// Bytes of its largest process, or of one that it waited for.
    pub(crate) peak_memory: u64,
    /// Microseconds on processors, its own and those of processes that it waited for.
    pub(crate) cpu_micros: u64,
}

/// A received frame.
#[derive(Debug)]
pub(crate) struct Received<T> {
    pub(crate) message: T,
    pub(crate) attachment: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Ended {
    pub(crate) const LENGTH: usize = 28;

    pub(crate) fn to_bytes(self) -> [u8; Self::LENGTH] {
        let (kind, value) = match (self.code, self.signal) {
            (Some(code), _) => (0i32, code),
            (None, signal) => (1, signal.unwrap_or(0)),
        };
        let mut bytes = [0; Self::LENGTH];
        bytes[..4].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&value.to_ne_bytes());
        bytes[8..12].copy_from_slice(&i32::from(self.oom).to_ne_bytes());
        bytes[12..20].copy_from_slice(&self.peak_memory.to_ne_bytes());
        bytes[20..].copy_from_slice(&self.cpu_micros.to_ne_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: [u8; Self::LENGTH]) -> Ended {
        let word = |at: usize| {
            i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let (code, signal) = match word(0) {
            0 => (Some(word(4)), None),
            _ => (None, Some(word(4))),
        };
        let long = |at: usize| {
            let mut value = [0; 8];
            value.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(value)
        };
        let (peak_memory, cpu_micros) = (long(12), long(20));
        Ended { code, signal, oom: word(8) != 0, peak_memory, cpu_micros }
    }
}

impl From<NetworkMode> for Network {
    fn from(mode: NetworkMode) -> Self {
        match mode {
            NetworkMode::None => Network::None,
            NetworkMode::Host => Network::Host,
            NetworkMode::Proxied => Network::Proxied,
        }
    }
}

impl From<Network> for NetworkMode {
    fn from(network: Network) -> Self {
        match network {
            Network::None => NetworkMode::None,
            Network::Host => NetworkMode::Host,
            Network::Proxied => NetworkMode::Proxied,
        }
    }
}

/// Longest wait of the engine for the next message. Mounting takes milliseconds, and seconds on a
/// machine that swaps; longer only on a dead disk or server, where it may take for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes receiving from `socket`, an engine's end, fail after [`PATIENCE`].
pub(crate) fn limit_waiting(socket: impl AsFd) -> io::Result<()> {
    rustix::net::sockopt::set_socket_timeout(socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(())
}

/// Sends one frame.
pub(crate) fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    attachment: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let too_long = || io::Error::from_raw_os_error(libc::EMSGSIZE);
    let json = serde_json::to_vec(message).map_err(io::Error::other)?;
    if json.len() > MAX_JSON
        || attachment.len() > MAX_ATTACHMENT
        || descriptors.len() > MAX_DESCRIPTORS
    {
        return Err(too_long());
    }
    let mut head = [0; 12];
    for (place, length) in
        head.chunks_exact_mut(4).zip([json.len(), attachment.len(), descriptors.len()])
    {
        place.copy_from_slice(&(length as u32).to_ne_bytes());
    }

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(too_long());
    }
    let mut parts: [&[u8]; 3] = [&head, &json, attachment];
    let mut first = true;
    while parts.iter().any(|part| !part.is_empty()) {
        let slices = parts.map(IoSlice::new);
        let mut nothing = SendAncillaryBuffer::default();
        let control = if first { &mut control } else { &mut nothing };
        let mut sent = match sendmsg(&socket, &slices, control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        first = false;
        for part in &mut parts {
            let done = sent.min(part.len());
            *part = &part[done..];
            sent -= done;
        }
    }
    Ok(())
}

/// Receives one frame; `None` if the other side has closed.
pub(crate) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<Received<T>>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut descriptors = Vec::new();
    let mut head = [0; 12];
    match fill(&socket, &mut head, &mut descriptors)? {
        0 => return Ok(None),
        12 => {}
        _ => return Err(io::ErrorKind::UnexpectedEof.into()),
    }
    let length = |at: usize| {
        u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize
    };
    if length(0) > MAX_JSON || length(4) > MAX_ATTACHMENT {
        return Err(invalid("a message is too long"));
    }
    let mut json = vec![0; length(0)];
    let mut attachment = vec![0; length(4)];
    for part in [&mut json, &mut attachment] {
        if fill(&socket, part, &mut descriptors)? != part.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if descriptors.len() != length(8) {
        return Err(invalid("descriptors were lost: the limit on open files may be too low"));
    }
    let message = serde_json::from_slice(&json).map_err(io::Error::other)?;
    Ok(Some(Received { message, attachment, descriptors }))
}

/// Reads until `buffer` is full or the stream ends; returns the bytes read.
fn fill(socket: impl AsFd, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer[filled..])];
        let received = match recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        if received.bytes == 0 {
            break;
        }
        filled += received.bytes;
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_frame_arrives_with_its_attachment_and_descriptors() {
        let (ours, theirs) = pair();
        let attachment: Vec<u8> = (0..2_000_000u32).map(|index| index as u8).collect();
        let sent = attachment.clone();
        let sender = std::thread::spawn(move || {
            let order = Order::Prepare { network: Network::None };
            send(&ours, &order, &sent, &[ours.as_fd(), ours.as_fd()]).unwrap();
            send(&ours, &order, &[], &[]).unwrap();
        });
        let first = receive::<Order>(&theirs).unwrap().unwrap();
        assert_eq!(first.attachment, attachment);
        assert_eq!(first.descriptors.len(), 2);
        let second = receive::<Order>(&theirs).unwrap().unwrap();
        assert!(matches!(second.message, Order::Prepare { network: Network::None }));
        assert!(second.descriptors.is_empty());
        sender.join().unwrap();
        drop(first);
        assert!(receive::<Order>(&theirs).unwrap().is_none());
    }

    #[test]
    fn an_absurd_length_is_refused_before_memory_is_taken() {
        let (ours, theirs) = pair();
        rustix::io::write(&ours, &[0xff; 12]).unwrap();
        let error = receive::<Order>(&theirs).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn an_end_survives_its_bytes() {
        for ended in [
            Ended { code: Some(3), signal: None, oom: false, peak_memory: 1, cpu_micros: 0 },
            Ended { code: None, signal: Some(9), oom: true, peak_memory: 0, cpu_micros: 1 << 40 },
        ] {
            assert_eq!(Ended::from_bytes(ended.to_bytes()), ended);
        }
    }
}
