//! What one container may hold, and that it ends with its session.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use super::datagrams::{client, echo_datagrams};
use super::{
    HOST_V4, Proxy, connect, echo, eventually, exchange, in_container_with, on_a_host,
    open_descriptors, patient, server,
};
use crate::network::proxy::Limits;

#[test]
fn ten_thousand_flows_are_bounded_and_the_newest_ones_live() {
    on_a_host("bounds::ten_thousand_flows_are_bounded_and_the_newest_ones_live", || {
        let bound = Limits::default().flows;
        let address = echo_datagrams((HOST_V4, 0));
        let proxy = Proxy::start().unwrap();
        let before = open_descriptors();
        let during = in_container_with(
            &proxy,
            true,
            || {
                let socket = client(false);
                // A port each; the first byte of the answer shows that the proxy keeps up.
                for port in 10_000..20_000_u16 {
                    socket.send_to(b"x", (HOST_V4, port)).unwrap();
                    if port % 100 == 0 {
                        socket.send_to(b"y", address).unwrap();
                        while !matches!(socket.recv(&mut [0]), Ok(1)) {}
                    }
                }
                socket.send_to(b"z", address).unwrap();
                let mut buffer = [0];
                while !matches!(socket.recv_from(&mut buffer), Ok((1, from)) if from == address) {}
                open_descriptors() - before
            },
            Some,
        );
        assert!(during > bound / 2, "{during} descriptors: the flows never were");
        assert!(during < bound + 50, "{during} descriptors");
        assert!(open_descriptors() <= before + 2, "flows outlive their session");
    });
}

#[test]
fn dropping_the_session_closes_both_sides_at_once() {
    on_a_host("bounds::dropping_the_session_closes_both_sides_at_once", || {
        let listener = TcpListener::bind((HOST_V4, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Proxy::start().unwrap();
        let other_address = server((HOST_V4, 0), echo);
        // Another container of the same proxy goes on.
        let (stop_other, other_stopped) = channel::<()>();
        thread::scope(|scope| {
            let proxy = &proxy;
            let other = scope.spawn(move || {
                in_container_with(
                    proxy,
                    true,
                    move || {
                        let mut stream = connect(other_address);
                        assert_eq!(exchange(&mut stream, "before"), "before");
                        other_stopped.recv().unwrap();
                        assert_eq!(exchange(&mut stream, "after"), "after");
                    },
                    Some,
                );
            });
            let (connected, is_connected) = channel();
            in_container_with(
                proxy,
                true,
                move || {
                    let mut stream = connect(address);
                    stream.write_all(b"x").unwrap();
                    connected.send(()).unwrap();
                    // A reset or an end, but soon.
                    let read = stream.read(&mut [0]);
                    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
                },
                |session| {
                    is_connected.recv().unwrap();
                    let mut accepted = patient(listener.accept().unwrap().0);
                    accepted.read_exact(&mut [0]).unwrap();
                    drop(session);
                    let read = accepted.read(&mut [0]);
                    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
                    None
                },
            );
            stop_other.send(()).unwrap();
            other.join().unwrap();
        });
    });
}

#[test]
fn what_a_container_sent_before_its_end_still_arrives() {
    on_a_host("bounds::what_a_container_sent_before_its_end_still_arrives", || {
        let listener = TcpListener::bind((HOST_V4, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Proxy::start().unwrap();
        for _ in 0..20 {
            let (sent, was_sent) = channel();
            in_container_with(
                &proxy,
                true,
                move || {
                    let mut stream = connect(address);
                    // Connected on the far side too, which is not what `connect` says.
                    assert_eq!(exchange_one(&mut stream), b'!');
                    stream.write_all(&[b'x'; 100_000]).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                    sent.send(()).unwrap();
                },
                |session| {
                    let mut accepted = patient(listener.accept().unwrap().0);
                    accepted.write_all(b"!").unwrap();
                    was_sent.recv().unwrap();
                    drop(session);
                    let mut received = Vec::new();
                    accepted.read_to_end(&mut received).unwrap();
                    assert_eq!(received.len(), 100_000);
                    None
                },
            );
        }
    });
}

fn exchange_one(stream: &mut std::net::TcpStream) -> u8 {
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    byte[0]
}

#[test]
fn finished_connections_leave_nothing_behind() {
    on_a_host("bounds::finished_connections_leave_nothing_behind", || {
        let address = server((HOST_V4, 0), echo);
        let proxy = Proxy::start().unwrap();
        in_container_with(
            &proxy,
            true,
            || {
                let before = open_descriptors();
                for _ in 0..200 {
                    assert_eq!(exchange(&mut connect(address), "hello"), "hello");
                }
                // What stays are spare pipes.
                eventually("the connections are gone", || open_descriptors() < before + 20);
            },
            Some,
        );
        eventually("an unused container leaves nothing behind", || {
            // The server's threads may still be closing their ends meanwhile.
            let before = open_descriptors();
            in_container_with(&proxy, true, || (), Some);
            open_descriptors() == before
        });
    });
}

#[test]
fn a_session_may_outlive_its_proxy() {
    on_a_host("bounds::a_session_may_outlive_its_proxy", || {
        let address = server((HOST_V4, 0), echo);
        let proxy = Proxy::start().unwrap();
        let session = std::sync::Mutex::new(None);
        let (used, was_used) = channel();
        let (end, ended) = channel();
        thread::scope(|scope| {
            let proxy = &proxy;
            let session = &session;
            scope.spawn(move || {
                in_container_with(
                    proxy,
                    true,
                    move || {
                        assert_eq!(exchange(&mut connect(address), "hello"), "hello");
                        used.send(()).unwrap();
                        ended.recv().unwrap();
                    },
                    |given| {
                        *session.lock().unwrap() = Some(given);
                        None
                    },
                );
            });
            was_used.recv().unwrap();
            end.send(()).unwrap();
        });
        drop(proxy);
        drop(session.into_inner().unwrap().expect("the session was kept"));
    });
}

#[test]
fn connections_beyond_the_bound_wait_for_their_turn() {
    on_a_host("bounds::connections_beyond_the_bound_wait_for_their_turn", || {
        let address = server((HOST_V4, 0), echo);
        let proxy = Proxy::with_limits(Limits { relays: 4, ..Limits::default() }).unwrap();
        in_container_with(
            &proxy,
            true,
            || {
                let mut streams: Vec<_> = (0..4).map(|_| connect(address)).collect();
                for stream in &mut streams {
                    assert_eq!(exchange(stream, "hello"), "hello");
                }
                let mut waiting = connect(address);
                waiting.write_all(b"x").unwrap();
                waiting.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                let error = waiting.read(&mut [0]).expect_err("there is no place");
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                let mut waiting = patient(waiting);
                streams.pop();
                assert_eq!(exchange_one(&mut waiting), b'x');
            },
            Some,
        );
    });
}

#[test]
fn a_connection_that_nobody_answers_is_given_up() {
    on_a_host("bounds::a_connection_that_nobody_answers_is_given_up", || {
        // A listener whose backlog is full drops what comes.
        let listener = TcpListener::bind((HOST_V4, 0)).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let fill = || TcpStream::connect_timeout(&address, Duration::from_millis(100));
        let full: Vec<_> = std::iter::from_fn(|| fill().ok()).take(16).collect();
        assert!(full.len() < 16, "the backlog never fills");
        let connect_timeout = Duration::from_millis(300);
        let limits = Limits { connect: connect_timeout, ..Limits::default() };
        in_container_with(
            &Proxy::with_limits(limits).unwrap(),
            true,
            || {
                let start = Instant::now();
                let error = connect(address).read(&mut [0]).expect_err("nobody answers");
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                assert!(start.elapsed() >= connect_timeout - Duration::from_millis(50));
            },
            Some,
        );
    });
}

#[test]
fn idle_flows_end_and_used_ones_stay() {
    on_a_host("bounds::idle_flows_end_and_used_ones_stay", || {
        let (used, idle) = (echo_datagrams((HOST_V4, 0)), echo_datagrams((HOST_V4, 0)));
        let limits = Limits { idle: Duration::from_millis(400), ..Limits::default() };
        in_container_with(
            &Proxy::with_limits(limits).unwrap(),
            true,
            move || {
                let before = open_descriptors();
                let socket = client(false);
                let ask = |address| {
                    socket.send_to(b"x", address).unwrap();
                    assert_eq!(socket.recv_from(&mut [0]).unwrap(), (1, address));
                };
                ask(idle);
                let start = Instant::now();
                // The client's socket, and one flow: the other is gone.
                eventually("the idle flow ends", || {
                    ask(used);
                    open_descriptors() == before + 2
                });
                assert!(start.elapsed() >= Duration::from_millis(300));
                // And comes back when it is needed.
                ask(idle);
            },
            Some,
        );
    });
}
