//! IP packets as the raw sockets send them: a datagram, and "port unreachable".

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::{CONTAINER_V4, CONTAINER_V6};

/// Room in front of a payload for the largest header this module writes: IPv6 and UDP.
pub(super) const HEADROOM: usize = 48;

const UDP_HEADER: usize = 8;
const TTL: u8 = 64;

/// Writes the headers of a datagram directly in front of its payload, `buffer[HEADROOM..end]`,
/// and returns the start of the packet in `buffer`.
///
/// None if the two addresses are of different families or the packet would be longer than IP
/// allows.
pub(super) fn datagram(
    buffer: &mut [u8],
    end: usize,
    from: SocketAddr,
    to: SocketAddr,
) -> Option<usize> {
    let udp_start = HEADROOM - UDP_HEADER;
    let udp_length = u16::try_from(end - udp_start).ok()?;
    buffer[udp_start..udp_start + 2].copy_from_slice(&from.port().to_be_bytes());
    buffer[udp_start + 2..udp_start + 4].copy_from_slice(&to.port().to_be_bytes());
    buffer[udp_start + 4..udp_start + 6].copy_from_slice(&udp_length.to_be_bytes());
    // Zero is "no checksum" in IPv4: the packet never leaves this machine's memory.
    buffer[udp_start + 6..udp_start + 8].fill(0);
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            let start = udp_start - 20;
            let total = u16::try_from(end - start).ok()?;
            let header =
                ipv4_header(from.ip().octets(), to.ip().octets(), libc::IPPROTO_UDP as u8, total);
            buffer[start..udp_start].copy_from_slice(&header);
            Some(start)
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            let start = udp_start - 40;
            let header = ipv6_header(
                from.ip().octets(),
                to.ip().octets(),
                libc::IPPROTO_UDP as u8,
                udp_length,
            );
            let sum = transport_checksum(&header, &buffer[udp_start..end]);
            buffer[udp_start + 6..udp_start + 8].copy_from_slice(&sum.to_be_bytes());
            buffer[start..udp_start].copy_from_slice(&header);
            Some(start)
        }
        _ => None,
    }
}

/// The ICMP message by which a host says that nobody listens on the port of `to`, about a
/// datagram from `from`. It quotes that datagram's headers, which is how the kernel finds the
/// socket to tell.
pub(super) fn port_unreachable(from: SocketAddr, to: SocketAddr) -> Option<Vec<u8>> {
    let mut quoted = [0; HEADROOM];
    let start = datagram(&mut quoted, HEADROOM, from, to)?;
    let quoted = &quoted[start..];
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => Some(port_unreachable_v4(from, to, quoted)),
        (SocketAddr::V6(from), SocketAddr::V6(to)) => Some(port_unreachable_v6(from, to, quoted)),
        _ => None,
    }
}

fn port_unreachable_v4(from: SocketAddrV4, to: SocketAddrV4, quoted: &[u8]) -> Vec<u8> {
    // Type 3 (destination unreachable), code 3 (port), checksum, unused (RFC 792).
    let mut message = [&[3, 3, 0, 0, 0, 0, 0, 0], quoted].concat();
    let sum = fold(sum(&message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let total = (20 + message.len()) as u16;
    let header = ipv4_header(to.ip().octets(), from.ip().octets(), libc::IPPROTO_ICMP as u8, total);
    [&header, &message[..]].concat()
}

fn port_unreachable_v6(from: SocketAddrV6, to: SocketAddrV6, quoted: &[u8]) -> Vec<u8> {
    // Type 1 (destination unreachable), code 4 (port), checksum, unused (RFC 4443 section 3.1).
    let mut message = [&[1, 4, 0, 0, 0, 0, 0, 0], quoted].concat();
    let protocol = libc::IPPROTO_ICMPV6 as u8;
    let header = ipv6_header(to.ip().octets(), from.ip().octets(), protocol, message.len() as u16);
    let sum = transport_checksum(&header, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    [&header, &message[..]].concat()
}

/// RFC 791; a raw socket fills the checksum in.
fn ipv4_header(from: [u8; 4], to: [u8; 4], protocol: u8, total: u16) -> [u8; 20] {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[8] = TTL;
    header[9] = protocol;
    header[12..16].copy_from_slice(&from);
    header[16..20].copy_from_slice(&to);
    header
}

/// RFC 8200.
fn ipv6_header(from: [u8; 16], to: [u8; 16], protocol: u8, payload: u16) -> [u8; 40] {
    let mut header = [0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&payload.to_be_bytes());
    header[6] = protocol;
    header[7] = TTL;
    header[8..24].copy_from_slice(&from);
    header[24..40].copy_from_slice(&to);
    header
}

/// The checksum over IPv6's pseudo header and the payload (RFC 8200 section 8.1).
fn transport_checksum(header: &[u8; 40], payload: &[u8]) -> u16 {
    let pseudo = sum(&header[8..40]) + u64::from(header[6]) + payload.len() as u64;
    match fold(pseudo + sum(payload)) {
        0 => 0xffff,
        sum => sum,
    }
}

/// The ones' complement sum of 16-bit words (RFC 1071), not yet folded; a last odd byte counts as
/// the high one.
fn sum(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks_exact(2);
    let rest = pairs.remainder().first().map_or(0, |byte| u64::from(*byte) << 8);
    pairs.map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u64>() + rest
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether a datagram's source is the container's own address, the only one answers may go to.
pub(super) fn is_container(address: IpAddr) -> bool {
    address == CONTAINER_V4 || address == CONTAINER_V6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_what_was_checksummed_are_zero() {
        let from = "[2001:db8::7]:53".parse().unwrap();
        let to = "[fd00::100]:4567".parse().unwrap();
        let mut buffer = [vec![0; HEADROOM], b"odd".to_vec()].concat();
        let end = buffer.len();
        let start = datagram(&mut buffer, end, from, to).unwrap();
        assert_eq!(start, 0);
        let header: &[u8; 40] = buffer[..40].try_into().unwrap();
        let whole = sum(&header[8..40]) + 17 + 11 + sum(&buffer[40..]);
        assert_eq!(fold(whole), 0);

        let packet =
            port_unreachable("10.0.2.100:9".parse().unwrap(), "192.0.2.1:5".parse().unwrap())
                .unwrap();
        assert_eq!(fold(sum(&packet[20..])), 0);
        assert_eq!(packet.len(), 20 + 8 + 28);
    }

    #[test]
    fn families_do_not_mix_and_lengths_stay_within_ip() {
        let v4 = "192.0.2.1:5".parse().unwrap();
        let v6 = "[2001:db8::7]:53".parse().unwrap();
        let mut buffer = vec![0; HEADROOM + 65536];
        assert_eq!(datagram(&mut buffer, HEADROOM, v4, v6), None);
        assert_eq!(datagram(&mut buffer, HEADROOM + 65507, v4, v4), Some(20));
        assert_eq!(datagram(&mut buffer, HEADROOM + 65508, v4, v4), None);
    }
}
