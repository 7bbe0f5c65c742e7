//! Datagrams: what a container sends, and the flows that bring the answers.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg,
};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, connect, sendto, socket_with,
};

use super::{Limits, SessionId};
use crate::network::packet::{self, HEADROOM};

/// A buffer for the largest datagram, with room for headers in front.
pub(super) const BUFFER: usize = HEADROOM + 65536;

/// Who writes to whom, in the container's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FlowId {
    pub(super) client: SocketAddr,
    pub(super) original: SocketAddr,
}

/// A connected socket in the host's network for one [`FlowId`].
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) session: SessionId,
    pub(super) id: FlowId,
    pub(super) dns: bool,
    socket: UdpSocket,
    idle: Duration,
    last: Instant,
}

impl Flow {
    pub(super) fn open(
        session: SessionId,
        id: FlowId,
        target: SocketAddr,
        limits: &Limits,
        now: Instant,
    ) -> io::Result<Self> {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
        connect(&socket, &target)?;
        let dns = super::destination::is_dns(id.original);
        let idle = if dns { limits.idle_dns } else { limits.idle };
        Ok(Self { session, id, dns, socket: socket.into(), idle, last: now })
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// When the flow ends if nothing happens until then.
    pub(super) fn deadline(&self) -> Instant {
        self.last + self.idle
    }

    /// Sends a datagram of the container on. It may get lost, as datagrams may.
    pub(super) fn forward(&mut self, payload: &[u8], raw: &OwnedFd, now: Instant) {
        self.last = now;
        // The first failure may be the report on an earlier datagram.
        for _ in 0..2 {
            match self.socket.send(payload) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.refuse(raw),
                _ => return,
            }
        }
    }

    /// Brings up to `limit` answers back into the container.
    pub(super) fn deliver(&mut self, buffer: &mut [u8], raw: &OwnedFd, limit: usize, now: Instant) {
        for _ in 0..limit {
            match self.socket.recv(&mut buffer[HEADROOM..]) {
                Ok(length) => {
                    self.last = now;
                    let end = HEADROOM + length;
                    if let Some(start) =
                        packet::datagram(buffer, end, self.id.original, self.id.client)
                    {
                        send_packet(raw, &buffer[start..end], self.id.client);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.refuse(raw),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Tells the container that nobody listens there.
    fn refuse(&self, raw: &OwnedFd) {
        refuse(self.id, raw);
    }
}

/// Tells the container that nobody listens where it wrote to.
pub(super) fn refuse(id: FlowId, raw: &OwnedFd) {
    if let Some(packet) = packet::port_unreachable(id.client, id.original) {
        send_packet(raw, &packet, id.client);
    }
}

fn send_packet(raw: &OwnedFd, packet: &[u8], to: SocketAddr) {
    let mut to = to;
    // To an IPv6 raw socket the port is a protocol number.
    to.set_port(0);
    // A full receive buffer loses datagrams everywhere.
    let _ = sendto(raw, packet, SendFlags::DONTWAIT, &to);
}

/// Room for the original destination of a received datagram.
pub(super) fn control_buffer() -> Vec<u8> {
    nix::cmsg_space!(libc::sockaddr_in6)
}

/// Receives one datagram of the container behind the headroom of `buffer`, with its length; none
/// if the kernel did not say where from and where to.
pub(super) fn receive(
    socket: &OwnedFd,
    buffer: &mut [u8],
    control: &mut [u8],
) -> io::Result<Option<(FlowId, usize)>> {
    let mut slices = [IoSliceMut::new(&mut buffer[HEADROOM..])];
    let received = recvmsg::<SockaddrStorage>(
        socket.as_fd().as_raw_fd(),
        &mut slices,
        Some(control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let mut original = None;
    for message in received.cmsgs()? {
        match message {
            ControlMessageOwned::Ipv4OrigDstAddr(address) => {
                original = Some(SocketAddr::V4(SocketAddrV4::from(SockaddrIn::from(address))));
            }
            ControlMessageOwned::Ipv6OrigDstAddr(address) => {
                original = Some(SocketAddr::V6(plain(SockaddrIn6::from(address).into())));
            }
            _ => {}
        }
    }
    let client = received.address.and_then(|address| {
        address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into())).or_else(|| {
            address.as_sockaddr_in6().map(|address| SocketAddr::V6(plain((*address).into())))
        })
    });
    Ok(client.zip(original).map(|(client, original)| (FlowId { client, original }, received.bytes)))
}

/// Flow labels and scopes of the container's namespace mean nothing outside.
fn plain(address: SocketAddrV6) -> SocketAddrV6 {
    SocketAddrV6::new(*address.ip(), address.port(), 0, 0)
}
