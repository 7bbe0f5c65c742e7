//! The whole way: a container's namespace, the proxy, and servers in a host of the test's own.
//!
//! Every test runs once more in a child process that has entered a user namespace and an empty
//! network namespace, root or not: that is the "host", with [`HOST_V4`] and [`HOST_V6`] for the
//! rest of the world. A container is a thread that unshares its network namespace once more.

#![allow(unsafe_code)]

mod bounds;
mod datagrams;
mod namespace;
mod streams;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::configure::{self, Step};
use super::netlink::{self, Batch};
use super::{NetnsMode, Proxy, Session, configure as configure_namespace};

const HOST_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Tells the child process that it is the host.
const ROLE: &str = "STRAKE_TEST_NETWORK_HOST";

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// A whole test takes no longer, unless it hangs.
const HANGS: Duration = Duration::from_secs(90);

/// Runs `body` on a host of its own; `test` is the path of the calling test below this module.
#[track_caller]
fn on_a_host(test: &str, body: impl FnOnce()) {
    if std::env::var_os(ROLE).is_some() {
        let mut batch = Batch::default();
        configure_namespace(NetnsMode::LoopbackOnly).expect("lo comes up");
        configure::address(&mut batch, Step::AddressV6, HOST_V6.into(), 0);
        configure::address(&mut batch, Step::Address, HOST_V4.into(), libc::NLM_F_ACK as u16);
        let refused = batch.exchange(netlink::open(None).unwrap()).unwrap();
        assert!(refused.is_empty(), "{refused:?}");
        // The kernel adds the local route of an IPv6 address from a work queue.
        let listener = TcpListener::bind((HOST_V6, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        eventually("the host reaches itself", || TcpStream::connect(address).is_ok());
        drop(listener);
        return body();
    }
    let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let maps = [
        (c"/proc/self/setgroups", "deny".to_owned()),
        (c"/proc/self/uid_map", format!("0 {uid} 1")),
        (c"/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&name, "--exact", "--nocapture", "--include-ignored"]).env(ROLE, "1");
    // SAFETY: between fork and exec the closure makes system calls on data that was made before,
    // and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            unshare(
                CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS,
            )?;
            for (path, text) in &maps {
                let file = rustix::fs::open(
                    *path,
                    rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC,
                    rustix::fs::Mode::empty(),
                )?;
                rustix::io::write(&file, text.as_bytes())?;
            }
            Ok(())
        });
    }
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("the test runs in namespaces");
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    let (done, is_done) = channel::<()>();
    let guard = thread::spawn(move || {
        // A test that hangs is a test that fails.
        if is_done.recv_timeout(HANGS).is_err_and(|error| error == RecvTimeoutError::Timeout) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    guard.join().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "on a host of its own:\n{text}\n{complaints}"
    );
    print!("{text}");
}

/// Runs `body` in a container that `proxy` serves; the session is handed to the thread that
/// waits, which keeps it until the body ends unless `with_session` does otherwise.
fn in_container_with<T: Send>(
    proxy: &Proxy,
    ipv6: bool,
    body: impl FnOnce() -> T + Send,
    with_session: impl FnOnce(Session) -> Option<Session>,
) -> T {
    thread::scope(|scope| {
        let (sender, receiver) = channel();
        let (go, went) = channel();
        let container = scope.spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            sender.send(configure::proxied(ipv6).expect("a container's network")).unwrap();
            went.recv().unwrap();
            body()
        });
        let session = proxy.serve(receiver.recv().expect("the container's sockets"));
        go.send(()).unwrap();
        let session = with_session(session);
        let result = container.join();
        drop(session);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn in_container<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    in_container_with(&Proxy::start().unwrap(), true, body, Some)
}

/// A TCP server on `address` that runs `serve` for every connection, in a thread each.
fn server(address: impl Into<SocketAddr>, serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind(address.into()).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = patient(stream.unwrap());
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Echoes until the end, then ends too.
fn echo(mut stream: TcpStream) {
    let mut copy = stream.try_clone().unwrap();
    // A client may leave as it likes.
    let _ = io::copy(&mut stream, &mut copy);
    let _ = copy.shutdown(std::net::Shutdown::Write);
}

/// Closes with RST.
fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect_timeout(&address, PATIENCE).unwrap())
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn exchange(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// Polls until `done` or the patience ends.
#[track_caller]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn open_descriptors() -> usize {
    fs_err::read_dir("/proc/self/fd").unwrap().count()
}
