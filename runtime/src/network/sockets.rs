//! The sockets that stay inside a container's network namespace and are served from outside.

use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{
    AddressFamily, Protocol, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};

use super::NetworkError;
use super::configure::{V4, V6};

/// Port of the inner listeners: one that no program binds, for a listener on it keeps others from
/// binding it to the unspecified address.
pub(super) const HIDDEN_PORT: u16 = 1;

/// Connections that wait for the proxy to accept them; the kernel caps it at `somaxconn`.
const BACKLOG: i32 = 1024;

/// Where the inner listeners of a family are bound. Not on loopback: port 1 of loopback is a
/// popular example of a closed port.
pub(super) fn hidden(family: AddressFamily) -> SocketAddr {
    if family == V6 {
        (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2), HIDDEN_PORT).into()
    } else {
        (Ipv4Addr::new(10, 0, 2, 2), HIDDEN_PORT).into()
    }
}

/// The three sockets of one address family.
#[derive(Debug)]
pub(super) struct FamilySockets {
    /// Accepts every TCP connection; the local address of an accepted one is what the container
    /// asked for.
    pub(super) listener: OwnedFd,
    /// Receives every datagram, with its original destination as a control message.
    pub(super) datagrams: OwnedFd,
    /// Sends whole IP packets: an answer has to come from the address and port the container
    /// wrote to, and one raw socket does that for all flows.
    pub(super) raw: OwnedFd,
}

/// What [`configure`](super::configure) leaves behind for the [`Proxy`](super::Proxy).
#[derive(Debug)]
pub(crate) struct ProxySockets {
    pub(super) v4: FamilySockets,
    pub(super) v6: Option<FamilySockets>,
}

impl ProxySockets {
    /// Makes them in the current network namespace.
    pub(super) fn bind(ipv6: bool) -> io::Result<Self> {
        Ok(Self {
            v4: FamilySockets::bind(V4)?,
            v6: ipv6.then(|| FamilySockets::bind(V6)).transpose()?,
        })
    }
}

/// The order the descriptors travel in: listener, datagrams, raw; IPv4 before IPv6.
impl From<ProxySockets> for Vec<OwnedFd> {
    fn from(sockets: ProxySockets) -> Self {
        [Some(sockets.v4), sockets.v6]
            .into_iter()
            .flatten()
            .flat_map(|family| [family.listener, family.datagrams, family.raw])
            .collect()
    }
}

impl TryFrom<Vec<OwnedFd>> for ProxySockets {
    type Error = NetworkError;

    fn try_from(descriptors: Vec<OwnedFd>) -> Result<Self, NetworkError> {
        let received = descriptors.len();
        let mut descriptors = descriptors.into_iter();
        let mut family = || {
            Some(FamilySockets {
                listener: descriptors.next()?,
                datagrams: descriptors.next()?,
                raw: descriptors.next()?,
            })
        };
        match (received, family(), family()) {
            (3, Some(v4), None) => Ok(Self { v4, v6: None }),
            (6, Some(v4), Some(v6)) => Ok(Self { v4, v6: Some(v6) }),
            _ => Err(NetworkError::Sockets { received }),
        }
    }
}

impl FamilySockets {
    fn bind(family: AddressFamily) -> io::Result<Self> {
        let listener = transparent(family, SocketType::STREAM)?;
        bind(&listener, &hidden(family))?;
        listen(&listener, BACKLOG)?;
        let datagrams = transparent(family, SocketType::DGRAM)?;
        let (level, option) = if family == V6 {
            (libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR)
        } else {
            (libc::SOL_IP, libc::IP_RECVORIGDSTADDR)
        };
        enable(&datagrams, level, option)?;
        bind(&datagrams, &hidden(family))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let raw = socket_with(family, SocketType::RAW, flags, Some(rustix::net::ipproto::RAW))?;
        Ok(Self { listener, datagrams, raw })
    }
}

/// A socket that may speak for addresses which are not its own.
fn transparent(family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, None::<Protocol>)?;
    if family == V6 {
        sockopt::set_ipv6_v6only(&socket, true)?;
        enable(&socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT)?;
    } else {
        enable(&socket, libc::SOL_IP, libc::IP_TRANSPARENT)?;
    }
    Ok(socket)
}

/// Sets an option that the safe wrappers do not know to 1.
#[allow(unsafe_code)]
fn enable(socket: impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the descriptor is borrowed and open for the whole call; the value pointer is that of
    // a live `c_int` and the length is its size; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
