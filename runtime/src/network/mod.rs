//! Outgoing network for containers, without root, bridge, veth, tap device or helper program.
//!
//! A container's network namespace has nothing but `lo`. Every address in the world is made local
//! to it, so every packet the container sends comes back in on `lo`, where one nf_tables rule
//! hands it (`tproxy`) to sockets that [`configure`] leaves behind:
//!
//! ```text
//! container's namespace                          │ host's namespace
//!                                                │
//! connect(203.0.113.7:443) ──► lo ──► tproxy ──► │ listener ──► Proxy ══splice══► connect(…:443)
//! sendto(203.0.113.7:53)   ──► lo ──► tproxy ──► │ udp      ──► Proxy ──► one socket per flow
//!                          ◄── lo ◄───────────── │ raw      ◄── Proxy ◄──
//! ```
//!
//! A socket belongs to the namespace it was made in, whoever holds it: the [`ProxySockets`] are
//! made inside, cross a unix socket as plain file descriptors, and are served by one thread of the
//! engine, the [`Proxy`], which makes its own sockets in the host's namespace.
//!
//! | address            | is                                                               |
//! |--------------------|------------------------------------------------------------------|
//! | 10.0.2.100, fd00::100 | the container                                                 |
//! | 10.0.2.2:1, [fd00::2]:1 | where the inner listeners hide; no program binds port 1      |
//! | 10.0.2.3:53        | the host's resolver, if the host's own listens on loopback only  |
//!
//! What this deliberately does not do: the host's loopback is out of reach; nothing can connect
//! *to* the container from outside; only TCP and UDP are carried (an echo request is dropped, for
//! the kernel would answer it itself in the name of the whole world).

mod configure;
mod netlink;
mod nftables;
mod packet;
mod proxy;
mod resolver;
mod slab;
mod sockets;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) use configure::{NetnsMode, configure};
pub use proxy::{Proxy, Session};
pub use resolver::{loopback_resolver, resolv_conf};
pub(crate) use sockets::ProxySockets;

/// The container's own addresses.
const CONTAINER_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
const CONTAINER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);

/// The name server a container is given when the host's own listens on loopback.
const RESOLVER_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// What can go wrong between an empty network namespace and a served one.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused one step of the set-up inside the container's namespace.
    #[error("cannot {step} in the container's network namespace")]
    Setup {
        /// What was attempted, as a verb phrase.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel lacks a part that the set-up needs.
    #[error("cannot {step} in the container's network namespace: the kernel has no `{feature}`")]
    KernelLacks {
        /// What was attempted, as a verb phrase.
        step: &'static str,
        /// The missing kernel module.
        feature: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The thread or the descriptors of the proxy could not be had.
    #[error("cannot {step} for the network proxy")]
    Proxy {
        /// What was attempted, as a verb phrase.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A list of descriptors is not one that [`ProxySockets`] was turned into.
    #[error("expected 3 or 6 sockets of a container's network, received {received}")]
    Sockets {
        /// How many descriptors there were.
        received: usize,
    },
}

impl NetworkError {
    /// What was attempted, as a verb phrase; small enough to cross a pipe beside [`Self::errno`].
    pub fn step(&self) -> &'static str {
        match self {
            Self::Setup { step, .. }
            | Self::KernelLacks { step, .. }
            | Self::Proxy { step, .. } => step,
            Self::Sockets { .. } => "receive the sockets",
        }
    }

    /// The system's error number, 0 where there is none.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Setup { source, .. }
            | Self::KernelLacks { source, .. }
            | Self::Proxy { source, .. } => source.raw_os_error().unwrap_or(0),
            Self::Sockets { .. } => 0,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::KernelLacks { feature, .. } => Some(format!(
                "load the kernel module `{feature}` (modprobe {feature}), or share the host's \
                 network with --network=host"
            )),
            Self::Setup { .. } => {
                Some("--network=host shares the host's network instead".to_owned())
            }
            Self::Proxy { .. } | Self::Sockets { .. } => None,
        }
    }
}
