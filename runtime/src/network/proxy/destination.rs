//! Where a container's packet may go.

use std::net::{IpAddr, SocketAddr};

use crate::network::{RESOLVER_V4, loopback_resolver};

const DNS_PORT: u16 = 53;
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";

/// The address to connect to for what the container calls `original`; none if that is out of its
/// reach.
///
/// The host's loopback is, in every spelling: services there trust whoever can reach them. The one
/// exception is the resolver that the container's `resolv.conf` promised. It is looked up per
/// connection, since the host's file changes with the networks it joins.
pub(super) fn destination(original: SocketAddr) -> Option<SocketAddr> {
    if original == SocketAddr::from((RESOLVER_V4, DNS_PORT))
        && let Ok(host) = fs_err::read_to_string(HOST_RESOLV_CONF)
        && let Some(resolver) = loopback_resolver(&host)
    {
        return Some(resolver);
    }
    reachable(original.ip()).then_some(original)
}

/// Whether this is an address beyond the host itself: the rest (multicast, broadcast, unspecified)
/// has no meaning for a relay.
fn reachable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            // All of 0.0.0.0/8 is "this host" (RFC 1122 section 3.2.1.3).
            !(address.octets()[0] == 0
                || address.is_loopback()
                || address.is_multicast()
                || address.is_broadcast())
        }
        IpAddr::V6(address) => {
            // `::/96` once embedded IPv4 addresses (RFC 4291 section 2.5.5.1); it holds `::1`.
            let compatible = address.segments()[..6].iter().all(|segment| *segment == 0);
            !(compatible || address.is_multicast())
        }
    }
}

/// Whether flows to this address end early: one question, one answer.
pub(super) fn is_dns(original: SocketAddr) -> bool {
    original.port() == DNS_PORT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_loopback_is_out_of_reach_in_every_spelling() {
        for (address, expected) in [
            ("127.0.0.1", false),
            ("127.255.0.9", false),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("224.0.0.251", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::7f00:1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:0.0.0.0", false),
            ("ff02::1", false),
            ("192.0.2.1", true),
            ("10.0.2.2", true),
            ("169.254.169.254", true),
            ("::ffff:192.0.2.1", true),
            ("2001:db8::1", true),
            ("fd00::2", true),
        ] {
            assert_eq!(reachable(address.parse().unwrap()), expected, "{address}");
        }
    }
}
