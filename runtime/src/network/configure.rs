//! From an empty network namespace to one the proxy can serve.
//!
//! Two netlink exchanges and a handful of sockets. IPv6 is set up only where it leads somewhere:
//! the proxy accepts a connection before it knows whether the far end does, so a program that
//! prefers IPv6 would never fall back to IPv4.

use std::io::{self, BufRead, BufReader, Read};
use std::net::IpAddr;

use rustix::net::{AddressFamily, Protocol};

use super::netlink::{self, Batch};
use super::sockets::ProxySockets;
use super::{CONTAINER_V4, CONTAINER_V6, NetworkError, nftables};

pub(super) const V4: AddressFamily = AddressFamily::INET;
pub(super) const V6: AddressFamily = AddressFamily::INET6;

/// What a container's network namespace is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NetnsMode {
    /// `--network=none`: loopback and nothing else.
    LoopbackOnly,
    /// Outgoing connections through the [`Proxy`](super::Proxy).
    Proxied,
}

/// One netlink message of the set-up; also its sequence number.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Step {
    AddressV6 = 1,
    RouteV6,
    Loopback,
    Address,
    Route,
    Table,
    Chain,
    Rule,
    LastRule,
}

impl Step {
    const ALL: [Self; 9] = [
        Self::AddressV6,
        Self::RouteV6,
        Self::Loopback,
        Self::Address,
        Self::Route,
        Self::Table,
        Self::Chain,
        Self::Rule,
        Self::LastRule,
    ];

    fn of(sequence: u32) -> Self {
        Self::ALL.into_iter().find(|step| *step as u32 == sequence).unwrap_or(Self::Loopback)
    }

    fn is_optional(self) -> bool {
        matches!(self, Self::AddressV6 | Self::RouteV6)
    }

    fn what(self) -> &'static str {
        match self {
            Self::Loopback => "bring `lo` up",
            Self::Address | Self::AddressV6 => "give `lo` the container's address",
            Self::Route | Self::RouteV6 => "route everything to `lo`",
            Self::Table => "create an nf_tables table",
            Self::Chain => "create an nf_tables chain",
            Self::Rule => "create the nf_tables rule `tproxy`",
            Self::LastRule => "create an nf_tables rule",
        }
    }

    /// The error of this step, with the missing kernel part named where the kernel's answer says
    /// that there is one.
    fn failed(self, source: io::Error) -> NetworkError {
        let step = self.what();
        let feature = match (self, source.raw_os_error()) {
            (Self::Table, Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT))
            | (Self::Chain, Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL)) => "nf_tables",
            (Self::Rule, Some(libc::ENOENT | libc::EOPNOTSUPP)) => "nft_tproxy",
            _ => return NetworkError::Setup { step, source },
        };
        NetworkError::KernelLacks { step, feature, source }
    }
}

/// Sets the current network namespace up, in which the caller must be alone and privileged.
///
/// Returns the sockets the proxy serves the container by; none for [`NetnsMode::LoopbackOnly`].
///
/// # Errors
///
/// Names the step the kernel refused, and the kernel module that is missing.
pub(crate) fn configure(mode: NetnsMode) -> Result<Option<ProxySockets>, NetworkError> {
    match mode {
        NetnsMode::LoopbackOnly => loopback_only().map(|()| None),
        NetnsMode::Proxied => proxied(parent_has_ipv6_route()).map(Some),
    }
}

fn loopback_only() -> Result<(), NetworkError> {
    let mut batch = Batch::default();
    bring_up(&mut batch, libc::NLM_F_ACK as u16);
    apply(&batch, None, Step::Loopback).map(|_| ())
}

/// [`NetnsMode::Proxied`], with IPv6 if `ipv6` wants it and the kernel has it.
pub(super) fn proxied(ipv6: bool) -> Result<ProxySockets, NetworkError> {
    let mut batch = Batch::default();
    bring_up(&mut batch, 0);
    if ipv6 {
        address(&mut batch, Step::AddressV6, CONTAINER_V6.into(), 0);
        route(&mut batch, Step::RouteV6, CONTAINER_V6.into(), 0);
    }
    address(&mut batch, Step::Address, CONTAINER_V4.into(), 0);
    route(&mut batch, Step::Route, CONTAINER_V4.into(), libc::NLM_F_ACK as u16);
    let ipv6 = apply(&batch, None, Step::Loopback)? && ipv6;
    apply(&nftables::transaction(ipv6), Some(rustix::net::netlink::NETFILTER), Step::Table)?;
    ProxySockets::bind(ipv6)
        .map_err(|source| NetworkError::Setup { step: "make transparent sockets", source })
}

/// Exchanges a batch; `first` stands for failures of the exchange itself. True if the kernel took
/// every message, false if it refused only optional ones.
fn apply(batch: &Batch, protocol: Option<Protocol>, first: Step) -> Result<bool, NetworkError> {
    let socket = netlink::open(protocol).map_err(|source| first.failed(source))?;
    let refused = batch.exchange(&socket).map_err(|source| first.failed(source))?;
    let mut complete = true;
    for (sequence, source) in refused {
        let step = Step::of(sequence);
        if !step.is_optional() {
            return Err(step.failed(source));
        }
        complete = false;
    }
    Ok(complete)
}

/// `lo` is the first interface of every namespace.
const LOOPBACK_INDEX: u32 = 1;

fn bring_up(batch: &mut Batch, flags: u16) {
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    // `struct ifinfomsg`: family, padding, type, index, flags, mask of changed flags.
    let header = [[0; 4], LOOPBACK_INDEX.to_ne_bytes(), up, up].concat();
    batch.message(libc::RTM_NEWLINK, flags, Step::Loopback as u32, &header, |_| ());
}

pub(super) fn address(batch: &mut Batch, step: Step, address: IpAddr, flags: u16) {
    let (family, octets) = family_and_octets(address);
    // `struct ifaddrmsg`: family, prefix length, flags, scope (global), index. Duplicate address
    // detection on `lo` would only delay.
    let first =
        [family, (octets.len() * 8) as u8, libc::IFA_F_NODAD as u8, libc::RT_SCOPE_UNIVERSE];
    let header = [first, LOOPBACK_INDEX.to_ne_bytes()].concat();
    let flags = flags | libc::NLM_F_CREATE as u16;
    batch.message(libc::RTM_NEWADDR, flags, step as u32, &header, |batch| {
        batch.attribute(libc::IFA_LOCAL, &octets);
        batch.attribute(libc::IFA_ADDRESS, &octets);
    });
}

/// Makes every address of the family local to the namespace.
fn route(batch: &mut Batch, step: Step, source: IpAddr, flags: u16) {
    let (family, octets) = family_and_octets(source);
    // `struct rtmsg`: family, lengths of the two prefixes, tos, table, protocol, scope, type, flags.
    let header = [
        [family, 0, 0, 0],
        [libc::RT_TABLE_LOCAL, libc::RTPROT_STATIC, libc::RT_SCOPE_HOST, libc::RTN_LOCAL],
        [0; 4],
    ]
    .concat();
    let flags = flags | libc::NLM_F_CREATE as u16;
    batch.message(libc::RTM_NEWROUTE, flags, step as u32, &header, |batch| {
        batch.attribute(libc::RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
        batch.attribute(libc::RTA_PREFSRC, &octets);
    });
}

fn family_and_octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    }
}

/// Whether the namespace this process came from (its parent's) has a default route for IPv6.
///
/// The own namespace is already the container's, but `/proc` still is the one outside: it names
/// the parent as seen from there, and shows that process's routes. Anything unreadable is a no.
pub(super) fn parent_has_ipv6_route() -> bool {
    // One read of both: the kernel composes these texts anew for every one.
    let mut stat = [0; 512];
    let length = fs_err::File::open("/proc/self/stat").and_then(|mut file| file.read(&mut stat));
    let Ok(length) = length else { return false };
    let Some(parent) = parent_of(&String::from_utf8_lossy(&stat[..length])) else { return false };
    let Ok(routes) = fs_err::File::open(format!("/proc/{parent}/net/ipv6_route")) else {
        return false;
    };
    BufReader::with_capacity(ROUTES_READ, routes)
        .lines()
        .map_while(Result::ok)
        .take(MAX_ROUTES)
        .any(|line| is_default_route(&line))
}

/// The table is walked from its root, where the default route is; a router may have a million more.
const MAX_ROUTES: usize = 1000;
const ROUTES_READ: usize = 16 * 1024;

/// The parent's pid out of `/proc/<pid>/stat`: the second field behind the parenthesised name.
fn parent_of(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok().filter(|pid| *pid != 0)
}

/// Whether a line of `/proc/net/ipv6_route` is a way to the internet: a route to `::/0` or
/// `2000::/3` (destination and prefix length are the first two columns, flags the ninth) that is
/// neither on `lo` nor a reject route.
fn is_default_route(line: &str) -> bool {
    /// `RTF_REJECT`
    const REJECT: u32 = 0x200;
    let columns: Vec<&str> = line.split_whitespace().collect();
    let &[destination, length, .., flags, device] = columns.as_slice() else { return false };
    let everything = (length == "00" && destination.bytes().all(|digit| digit == b'0'))
        || (length == "03" && destination.starts_with("2000"));
    let rejects = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & REJECT != 0);
    everything && device != "lo" && !rejects
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: &str = "00000000000000000000000000000000";

    fn route_line(destination: &str, length: &str, flags: &str, device: &str) -> String {
        format!(
            "{destination} {length} {ZERO} 00 {ZERO} 00000400 00000001 00000000 {flags} {device}"
        )
    }

    #[test]
    fn only_a_default_route_that_leads_out_turns_ipv6_on() {
        let global = "20000000000000000000000000000000";
        let local = "fd000000000000000000000000000000";
        for (line, expected) in [
            (route_line(ZERO, "00", "00000003", "    eth0"), true),
            (route_line(global, "03", "00000003", "    eth0"), true),
            (route_line(ZERO, "00", "00200200", "      lo"), false),
            (route_line(ZERO, "00", "00000200", "    eth0"), false),
            (route_line(local, "40", "00000001", "    eth0"), false),
            ("nonsense".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_default_route(&line), expected, "{line}");
        }
    }

    #[test]
    fn the_parent_is_found_behind_any_process_name() {
        assert_eq!(parent_of("12 (a) b) c) S 7 12 12 0"), Some(7));
        assert_eq!(parent_of("12 (init) S 0 12 12 0"), None);
        assert_eq!(parent_of(""), None);
    }

    #[test]
    fn a_missing_kernel_part_is_named() {
        let failed = |step: Step, errno| step.failed(io::Error::from_raw_os_error(errno));
        for (error, expected) in [
            (failed(Step::Table, libc::EOPNOTSUPP), Some("modprobe nf_tables")),
            (failed(Step::Rule, libc::ENOENT), Some("modprobe nft_tproxy")),
            (failed(Step::Rule, libc::EPERM), None),
        ] {
            let hint = error.hint().unwrap();
            assert!(hint.contains("--network=host"), "{hint}");
            match expected {
                Some(text) => assert!(hint.contains(text), "{hint}"),
                None => assert!(!hint.contains("modprobe"), "{hint}"),
            }
        }
    }
}
