//! What the container's own namespace is like.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::{HOST_V4, in_container, in_container_with, on_a_host};
use crate::network::configure::proxied;
use crate::network::{CONTAINER_V4, CONTAINER_V6, NetnsMode, Proxy, ProxySockets, configure};

#[test]
fn network_none_has_loopback_and_nothing_else() {
    on_a_host("namespace::network_none_has_loopback_and_nothing_else", || {
        let container = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            assert!(configure(NetnsMode::LoopbackOnly).unwrap().is_none());
            talk_to_itself(Ipv4Addr::LOCALHOST.into());
            let error = TcpStream::connect((HOST_V4, 80)).expect_err("there is no route");
            assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
        });
        container.join().unwrap();
    });
}

#[test]
fn programs_of_one_container_reach_each_other_as_on_any_machine() {
    on_a_host("namespace::programs_of_one_container_reach_each_other_as_on_any_machine", || {
        in_container(|| {
            talk_to_itself(Ipv4Addr::LOCALHOST.into());
            talk_to_itself(CONTAINER_V4.into());
            talk_to_itself(std::net::Ipv6Addr::LOCALHOST.into());
            talk_to_itself(CONTAINER_V6.into());
            // And a port without a listener is closed.
            for address in [Ipv4Addr::LOCALHOST, CONTAINER_V4] {
                let error = TcpStream::connect((address, 1)).expect_err("nobody listens");
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            }
        });
    });
}

fn talk_to_itself(address: IpAddr) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.write_all(b"x").unwrap();
    let mut buffer = [0];
    listener.accept().unwrap().0.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"x");
}

#[test]
fn without_ipv6_outside_there_is_none_inside() {
    on_a_host("namespace::without_ipv6_outside_there_is_none_inside", || {
        let proxy = Proxy::start().unwrap();
        in_container_with(
            &proxy,
            false,
            || {
                let source = UdpSocket::bind("[::]:0").unwrap();
                let error = source.connect("[2001:db8::1]:9").expect_err("there is no route");
                assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
            },
            Some,
        );
    });
}

#[test]
fn the_source_address_is_the_containers() {
    on_a_host("namespace::the_source_address_is_the_containers", || {
        in_container(|| {
            for (address, expected) in [
                ("203.0.113.7:9", IpAddr::from(CONTAINER_V4)),
                ("[2001:db8::7]:9", CONTAINER_V6.into()),
            ] {
                let any = if expected.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).unwrap();
                socket.connect(address).unwrap();
                assert_eq!(socket.local_addr().unwrap().ip(), expected);
            }
        });
    });
}

#[test]
fn nobody_answers_an_echo_request_in_the_name_of_the_world() {
    on_a_host("namespace::nobody_answers_an_echo_request_in_the_name_of_the_world", || {
        in_container(|| {
            assert!(answers_echo_request(CONTAINER_V4));
            assert!(!answers_echo_request(Ipv4Addr::new(203, 0, 113, 99)));
        });
    });
}

fn answers_echo_request(address: Ipv4Addr) -> bool {
    let flags = SocketFlags::CLOEXEC;
    let icmp = Some(rustix::net::ipproto::ICMP);
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::RAW, flags, icmp).unwrap();
    let patience = std::time::Duration::from_millis(300);
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(patience)).unwrap();
    // Type 8, code 0, its checksum, identifier, sequence.
    let request = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    let to = std::net::SocketAddr::from((address, 0));
    rustix::net::sendto(&socket, &request, rustix::net::SendFlags::empty(), &to).unwrap();
    // The socket sees the request as well; the answer has type 0 behind the IP header.
    for _ in 0..4 {
        let mut buffer = [0; 128];
        match rustix::net::recv(&socket, &mut buffer, rustix::net::RecvFlags::empty()) {
            Ok(_) if buffer[20] == 0 => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}

#[test]
fn the_sockets_survive_as_plain_descriptors() {
    on_a_host("namespace::the_sockets_survive_as_plain_descriptors", || {
        for (ipv6, count) in [(false, 3), (true, 6)] {
            let sockets = thread::spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                proxied(ipv6).unwrap()
            });
            let descriptors: Vec<OwnedFd> = sockets.join().unwrap().into();
            assert_eq!(descriptors.len(), count);
            let mut some: Vec<OwnedFd> = Vec::from(ProxySockets::try_from(descriptors).unwrap());
            some.pop();
            let error = ProxySockets::try_from(some).unwrap_err().to_string();
            assert!(error.ends_with(&format!("received {}", count - 1)), "{error}");
        }
    });
}
