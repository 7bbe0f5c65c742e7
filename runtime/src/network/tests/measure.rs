//! Numbers, on demand: `cargo test --release -p runtime measure -- --ignored --nocapture`.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::datagrams::{client, echo_datagrams};
use super::{HOST_V4, Proxy, connect, echo, exchange, in_container, on_a_host, server};
use crate::network::configure::{parent_has_ipv6_route, proxied};
use crate::network::{NetnsMode, configure};

/// Prints the median and the range of `samples`.
fn report(what: &str, mut samples: Vec<Duration>) {
    samples.sort();
    let (first, median) = (samples[0], samples[samples.len() / 2]);
    let last = samples[samples.len() - 1];
    println!("{what}: median {median:?}, from {first:?} to {last:?}");
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn in_new_namespaces(count: usize, work: fn()) -> Vec<Duration> {
    let sample = |_| {
        let container = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            timed(work)
        });
        container.join().unwrap()
    };
    (0..count).map(sample).collect()
}

#[test]
#[ignore = "prints numbers, asserts nothing"]
fn measure_configure() {
    on_a_host("measure::measure_configure", || {
        report(
            "loopback only",
            in_new_namespaces(100, || {
                configure(NetnsMode::LoopbackOnly).unwrap();
            }),
        );
        report("proxied, IPv4", in_new_namespaces(100, || drop(proxied(false).unwrap())));
        report("proxied, both", in_new_namespaces(100, || drop(proxied(true).unwrap())));
        report(
            "look for an IPv6 route",
            in_new_namespaces(100, || {
                parent_has_ipv6_route();
            }),
        );
        let unshared: Vec<_> = (0..100)
            .map(|_| {
                let unshared =
                    thread::spawn(|| timed(|| unshare(CloneFlags::CLONE_NEWNET).unwrap()));
                unshared.join().unwrap()
            })
            .collect();
        report("for comparison, unshare(CLONE_NEWNET)", unshared);
        let proxy = Proxy::start().unwrap();
        let sockets: Vec<_> = (0..100)
            .map(|_| {
                let container = thread::spawn(|| {
                    unshare(CloneFlags::CLONE_NEWNET).unwrap();
                    proxied(true).unwrap()
                });
                container.join().unwrap()
            })
            .collect();
        let mut sockets = sockets.into_iter();
        let serve = std::iter::from_fn(|| sockets.next())
            .map(|sockets| timed(|| drop(proxy.serve(sockets))))
            .collect();
        report("serve and drop, unused", serve);
    });
}

#[test]
#[ignore = "prints numbers, asserts nothing"]
fn measure_throughput() {
    const TOTAL: usize = 2 << 30;
    fn sink(mut stream: std::net::TcpStream) {
        let mut buffer = vec![0; 1 << 20];
        while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
    }
    fn source(mut stream: std::net::TcpStream) {
        let block = vec![7; 1 << 20];
        for _ in 0..TOTAL / block.len() {
            stream.write_all(&block).unwrap();
        }
    }
    fn upload(address: std::net::SocketAddr) {
        let mut stream = connect(address);
        let block = vec![7; 1 << 20];
        for _ in 0..TOTAL / block.len() {
            stream.write_all(&block).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    fn download(address: std::net::SocketAddr) {
        sink(connect(address));
    }
    on_a_host("measure::measure_throughput", || {
        let (sinks, sources) = (server((HOST_V4, 0), sink), server((HOST_V4, 0), source));
        let echoes = server((HOST_V4, 0), echo);
        let datagrams = echo_datagrams((HOST_V4, 0));
        let rate = |what: &str, took: Duration| {
            println!("{what}: {:.2} GB/s", TOTAL as f64 / took.as_secs_f64() / 1e9);
        };
        let round_trips = |what: &str| {
            let mut stream = connect(echoes);
            stream.set_nodelay(true).unwrap();
            report(what, (0..5000).map(|_| timed(|| drop(exchange(&mut stream, "x")))).collect());
        };
        for _ in 0..3 {
            rate("upload, direct", timed(|| upload(sinks)));
            in_container(|| {
                rate("upload, proxied", timed(|| upload(sinks)));
                rate("download, proxied", timed(|| download(sources)));
            });
            rate("download, direct", timed(|| download(sources)));
        }
        round_trips("TCP round trip, direct");
        in_container(|| {
            round_trips("TCP round trip, proxied");
            let connects = || drop(exchange(&mut connect(echoes), "x"));
            report("connect and one round trip", (0..2000).map(|_| timed(connects)).collect());
            let socket = client(false);
            let question = || {
                socket.send_to(b"x", datagrams).unwrap();
                assert_eq!(socket.recv(&mut [0]).unwrap(), 1);
            };
            report("UDP round trip, proxied", (0..5000).map(|_| timed(question)).collect());
        });
    });
}
