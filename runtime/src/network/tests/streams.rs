//! TCP through the proxy.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;

use super::{
    HOST_V4, HOST_V6, PATIENCE, connect, echo, exchange, in_container, on_a_host, patient, server,
};

const BIG: usize = 50 << 20;

/// Bytes that a shift, a loss or a repetition anywhere would change.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn fifty_mebibytes_arrive_whole_in_both_directions_at_once() {
    on_a_host("streams::fifty_mebibytes_arrive_whole_in_both_directions_at_once", || {
        let address = server((HOST_V4, 0), echo);
        in_container(|| {
            let mut stream = connect(address);
            let mut writer = stream.try_clone().unwrap();
            let sent = pattern(BIG);
            let mut received = Vec::new();
            thread::scope(|scope| {
                scope.spawn(|| {
                    writer.write_all(&sent).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                stream.read_to_end(&mut received).unwrap();
            });
            assert!(received == sent, "{} of {BIG} bytes, or others", received.len());
        });
    });
}

#[test]
fn the_end_of_one_direction_leaves_the_other_open() {
    on_a_host("streams::the_end_of_one_direction_leaves_the_other_open", || {
        // Answers only when it has seen the end of the question.
        let asks_first = server((HOST_V4, 0), |mut stream| {
            let mut question = String::new();
            stream.read_to_string(&mut question).unwrap();
            stream.write_all(question.to_uppercase().as_bytes()).unwrap();
        });
        // Ends its own direction first, and answers to what comes then on a second connection.
        let ends_first = server((HOST_V4, 0), |mut stream| {
            stream.write_all(b"go on").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut rest = String::new();
            stream.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "after the end");
            let mut report = TcpListener::bind((HOST_V4, 7777)).unwrap().accept().unwrap().0;
            report.write_all(b"seen").unwrap();
        });
        in_container(|| {
            let mut stream = connect(asks_first);
            stream.write_all(b"question").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "QUESTION");

            let mut stream = connect(ends_first);
            let mut greeting = String::new();
            stream.read_to_string(&mut greeting).unwrap();
            assert_eq!(greeting, "go on");
            stream.write_all(b"after the end").unwrap();
            drop(stream);
            let mut report = String::new();
            super::eventually("the server reports", || {
                report.clear();
                TcpStream::connect((HOST_V4, 7777))
                    .and_then(|stream| patient(stream).read_to_string(&mut report))
                    .is_ok_and(|_| report == "seen")
            });
        });
    });
}

#[test]
fn refused_and_unreachable_become_a_reset() {
    on_a_host("streams::refused_and_unreachable_become_a_reset", || {
        in_container(|| {
            let closed = (HOST_V4, 9).into();
            let no_route = (Ipv4Addr::new(198, 51, 100, 1), 80).into();
            for address in [closed, no_route, (HOST_V6, 9).into()] {
                // The reset may overtake the return of `connect`.
                let error = TcpStream::connect_timeout(&address, PATIENCE)
                    .and_then(|stream| patient(stream).read(&mut [0]))
                    .expect_err("nobody listens");
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{address}: {error}");
            }
        });
    });
}

#[test]
fn a_reset_by_the_server_reaches_the_client() {
    on_a_host("streams::a_reset_by_the_server_reaches_the_client", || {
        let address = server((HOST_V4, 0), |mut stream| {
            stream.read_exact(&mut [0]).unwrap();
            super::reset(stream);
        });
        in_container(|| {
            let mut stream = connect(address);
            stream.write_all(b"x").unwrap();
            let error = stream.read(&mut [0]).expect_err("the server resets");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        });
    });
}

#[test]
fn many_connections_are_open_at_once() {
    on_a_host("streams::many_connections_are_open_at_once", || {
        let address = server((HOST_V4, 0), echo);
        in_container(|| {
            let mut streams: Vec<_> = (0..300).map(|_| connect(address)).collect();
            for round in 0..3 {
                for (number, stream) in streams.iter_mut().enumerate() {
                    let text = format!("connection {number}, round {round}");
                    assert_eq!(exchange(stream, &text), text);
                }
            }
        });
    });
}

#[test]
fn a_server_that_does_not_read_stops_the_client() {
    on_a_host("streams::a_server_that_does_not_read_stops_the_client", || {
        let listener = TcpListener::bind((HOST_V4, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, written) = thread::scope(|scope| {
            let accepting = scope.spawn(|| listener.accept().unwrap().0);
            let written = in_container(|| {
                let mut stream = connect(address);
                stream.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
                let block = vec![7; 1 << 20];
                let mut written = 0;
                loop {
                    match stream.write(&block) {
                        Ok(length) => written += length,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => return written,
                        Err(error) => panic!("{error}"),
                    }
                    assert!(written < 128 << 20, "nothing holds the client back");
                }
            });
            (accepting.join().unwrap(), written)
        });
        drop(accepted);
        assert!(written > 0);
    });
}

#[test]
fn ipv6_is_carried_too() {
    on_a_host("streams::ipv6_is_carried_too", || {
        let address = server((HOST_V6, 0), echo);
        in_container(|| {
            let mut stream = connect(address);
            assert_eq!(stream.peer_addr().unwrap(), address);
            assert_eq!(exchange(&mut stream, "hello"), "hello");
        });
    });
}

#[test]
fn the_hosts_loopback_is_not_reachable() {
    on_a_host("streams::the_hosts_loopback_is_not_reachable", || {
        let v4 = server((Ipv4Addr::LOCALHOST, 0), echo);
        let v6 = server((std::net::Ipv6Addr::LOCALHOST, 0), echo);
        let other = server((Ipv4Addr::new(127, 1, 2, 3), 0), echo);
        in_container(|| {
            let unspecified = (Ipv4Addr::UNSPECIFIED, v4.port()).into();
            let mapped = format!("[::ffff:127.0.0.1]:{}", v4.port()).parse().unwrap();
            let compatible = format!("[::127.0.0.1]:{}", v4.port()).parse().unwrap();
            for address in [v4, v6, other, unspecified, mapped, compatible] {
                let answer = TcpStream::connect_timeout(&address, PATIENCE)
                    .and_then(|stream| patient(stream).read(&mut [0]));
                assert!(answer.is_err(), "{address} answers");
            }
        });
    });
}
