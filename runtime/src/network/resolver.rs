//! Which name servers a container asks.
//!
//! The host's `resolv.conf` holds for the container too, except that a resolver on the host's
//! loopback is out of its reach: that one becomes 10.0.2.3, and the proxy knows what is meant.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::RESOLVER_V4;

const PORT: u16 = 53;

/// The `resolv.conf` of a container, made of the host's.
///
/// Name servers on loopback are replaced by one `nameserver 10.0.2.3`; every other line stays as
/// it is. A file without any name server means the resolver on the local machine
/// (resolv.conf(5)), so it gets that line too.
pub fn resolv_conf(host: &str) -> String {
    let own = format!("nameserver {RESOLVER_V4}\n");
    let mut text = String::with_capacity(host.len() + own.len());
    let mut mapped = false;
    for line in host.lines() {
        if nameserver(line).is_some_and(is_local) {
            if !mapped {
                text.push_str(&own);
            }
            mapped = true;
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    if host.lines().all(|line| nameserver(line).is_none()) {
        text.push_str(&own);
    }
    text
}

/// The resolver on the host's loopback that 10.0.2.3 stands for, if the host's `resolv.conf`
/// names one (or names none at all, which means 127.0.0.1).
pub fn loopback_resolver(host: &str) -> Option<SocketAddr> {
    let mut servers = host.lines().filter_map(nameserver).peekable();
    if servers.peek().is_none() {
        return Some((Ipv4Addr::LOCALHOST, PORT).into());
    }
    let server = servers.find(|server| is_local(*server))?;
    // "This host" in the spelling that can be connected to everywhere.
    let server = if server.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { server };
    Some((server, PORT).into())
}

/// The address of a `nameserver` line; the keyword starts the line (resolv.conf(5)).
fn nameserver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    let keyword = words.next().filter(|_| line.starts_with("nameserver"))?;
    let address = words.next().filter(|_| keyword == "nameserver")?;
    // A zone (`fe80::1%eth0`) is no part of the address.
    address.split('%').next()?.parse().ok()
}

fn is_local(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, container: &str, resolver: Option<&str>) {
        assert_eq!(resolv_conf(host), container, "for {host:?}");
        let resolver = resolver.map(|address| address.parse::<SocketAddr>().unwrap());
        assert_eq!(loopback_resolver(host), resolver, "for {host:?}");
    }

    #[test]
    fn loopback_name_servers_become_one_that_the_proxy_knows() {
        check(
            "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch example.com\n",
            "nameserver 10.0.2.3\noptions edns0 trust-ad\nsearch example.com\n",
            Some("127.0.0.53:53"),
        );
        check(
            "nameserver ::1\nnameserver 127.0.0.1\nnameserver 192.0.2.1",
            "nameserver 10.0.2.3\nnameserver 192.0.2.1\n",
            Some("[::1]:53"),
        );
    }

    #[test]
    fn other_name_servers_stay() {
        let host = "# by hand\nnameserver\t192.0.2.1\nnameserver fe80::1%eth0\noptions ndots:2\n";
        check(host, host, None);
    }

    #[test]
    fn no_name_server_means_the_local_machine() {
        check("", "nameserver 10.0.2.3\n", Some("127.0.0.1:53"));
        check(
            "search example.com\n#nameserver 192.0.2.1\n",
            "search example.com\n#nameserver 192.0.2.1\nnameserver 10.0.2.3\n",
            Some("127.0.0.1:53"),
        );
    }
}
