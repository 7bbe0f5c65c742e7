//! UDP through the proxy, and the name server.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;

use super::{HOST_V4, HOST_V6, PATIENCE, connect, echo, exchange, in_container, on_a_host, server};
use crate::network::RESOLVER_V4;

/// Echoes datagrams, with the address it saw them come from in front.
pub(super) fn echo_datagrams(address: impl Into<SocketAddr>) -> SocketAddr {
    let socket = UdpSocket::bind(address.into()).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // The client may be gone.
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    address
}

pub(super) fn client(v6: bool) -> UdpSocket {
    let any: IpAddr =
        if v6 { std::net::Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn answers_come_from_the_address_and_port_that_were_asked() {
    on_a_host("datagrams::answers_come_from_the_address_and_port_that_were_asked", || {
        let servers =
            [(HOST_V4.into(), 0), (HOST_V4.into(), 0), (HOST_V6.into(), 0), (HOST_V6.into(), 5353)]
                .map(|address: (IpAddr, u16)| echo_datagrams(address));
        in_container(|| {
            let mut buffer = vec![0; 65536];
            // One unconnected socket of each family talks to two servers in turn.
            for v6 in [false, true] {
                let socket = client(v6);
                for length in [0, 1, 7, 1400, 60_000] {
                    for server in servers.iter().filter(|server| server.is_ipv6() == v6) {
                        let sent: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
                        socket.send_to(&sent, server).unwrap();
                        let (received, from) = socket.recv_from(&mut buffer).unwrap();
                        assert_eq!((&buffer[..received], from), (&sent[..], *server));
                    }
                }
            }
            // A connected one takes nothing from anybody else.
            let socket = client(false);
            socket.connect(servers[0]).unwrap();
            socket.send(b"ping").unwrap();
            assert_eq!(socket.recv(&mut buffer).unwrap(), 4);
        });
    });
}

#[test]
fn a_closed_port_is_reported() {
    on_a_host("datagrams::a_closed_port_is_reported", || {
        in_container(|| {
            for (address, v6) in [
                (SocketAddr::from((HOST_V4, 9)), false),
                ((HOST_V6, 9).into(), true),
                // No route leads there.
                ((Ipv4Addr::new(198, 51, 100, 1), 53).into(), false),
            ] {
                let socket = client(v6);
                socket.connect(address).unwrap();
                socket.send(b"anybody?").unwrap();
                let error = socket.recv(&mut [0; 8]).expect_err("nobody listens");
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}: {error}");
            }
        });
    });
}

#[test]
fn the_name_server_given_to_the_container_is_the_hosts_own_on_loopback() {
    on_a_host(
        "datagrams::the_name_server_given_to_the_container_is_the_hosts_own_on_loopback",
        || {
            let own = Ipv4Addr::new(127, 0, 0, 53);
            let file = tempfile::NamedTempFile::new().unwrap();
            fs_err::write(file.path(), format!("nameserver {own}\n")).unwrap();
            rustix::mount::mount_change(
                "/",
                rustix::mount::MountPropagationFlags::PRIVATE
                    | rustix::mount::MountPropagationFlags::REC,
            )
            .unwrap();
            rustix::mount::mount_bind(file.path(), "/etc/resolv.conf").unwrap();
            echo_datagrams((own, 53));
            server((own, 53), echo);
            in_container(|| {
                let resolver = SocketAddr::from((RESOLVER_V4, 53));
                let socket = client(false);
                socket.send_to(b"question", resolver).unwrap();
                let mut buffer = [0; 16];
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..length], from), (&b"question"[..], resolver));
                assert_eq!(exchange(&mut connect(resolver), "question"), "question");
            });
        },
    );
}
