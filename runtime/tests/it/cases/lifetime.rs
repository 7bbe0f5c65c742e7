//! Nothing is left when the engine goes, whichever way it goes.

use std::time::{Duration, Instant};

use runtime::{NetworkMode, Spawner};

use crate::harness::Role;
use crate::sandbox::Sandbox;

cases! {
    EVERYBODY:
        containers_die_with_a_killed_engine,
        a_hundred_containers_leave_no_descriptor_and_no_process,
        dropping_the_spawner_ends_its_helper,
        a_deferred_helper_starts_with_the_first_order,
        a_retired_helper_ends_while_its_spawner_lives,
        a_lost_helper_is_an_error_and_no_hang,
        network_none_has_loopback_only,
        the_host_network_is_the_engines,
        a_proxied_container_reaches_the_machine_but_not_its_loopback;
}

fn descriptors() -> usize {
    fs_err::read_dir("/proc/self/fd").unwrap().count()
}

fn children() -> Vec<String> {
    let pid = std::process::id();
    let text = fs_err::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Whether `condition` comes true within ten seconds.
fn eventually(condition: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() > Duration::from_secs(10) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn containers_die_with_a_killed_engine(_: Role) {
    let sandbox = Sandbox::new();
    let request = sandbox.request(&["sleep", "600"]);
    // An engine of its own, with a spawner of its own, in our namespaces.
    // SAFETY: this process has one thread; the child ends without returning.
    let engine = unsafe { libc::fork() };
    if engine == 0 {
        let spawner = Spawner::start().unwrap();
        spawner.prepare(NetworkMode::None);
        let io = runtime::ContainerIo::Inherit { stdin: runtime::Stdin::Null };
        let container = spawner.spawn(&request, io).unwrap();
        fs_err::write(sandbox.path("pid"), container.pid().to_string()).unwrap();
        fs_err::rename(sandbox.path("pid"), sandbox.path("started")).unwrap();
        loop {
            // SAFETY: waits for the signal that ends this process.
            unsafe { libc::pause() };
        }
    }
    assert!(eventually(|| sandbox.path("started").exists()));
    let container = fs_err::read_to_string(sandbox.path("started")).unwrap();
    let process = std::path::PathBuf::from(format!("/proc/{container}"));
    assert!(process.exists());
    // SAFETY: our own child.
    unsafe {
        libc::kill(engine, libc::SIGKILL);
        libc::waitpid(engine, std::ptr::null_mut(), 0);
    }
    assert!(eventually(|| !process.exists() || is_zombie(&process)), "{container} lives on");
}

/// In a machine without an init process nobody reaps orphans.
fn is_zombie(process: &std::path::Path) -> bool {
    fs_err::read_to_string(process.join("status")).is_ok_and(|text| text.contains("State:\tZ"))
}

fn a_hundred_containers_leave_no_descriptor_and_no_process(_: Role) {
    let sandbox = Sandbox::new();
    sandbox.shell("true");
    let (before, processes) = (descriptors(), children());
    for number in 0..100 {
        match number % 4 {
            0 => drop(sandbox.spawn(&sandbox.request(&["sleep", "600"])).unwrap()),
            1 => drop(sandbox.spawn(&sandbox.request(&["not-there"])).unwrap_err()),
            2 => drop(sandbox.shell("sleep 600 & true")),
            _ => drop(sandbox.shell("true")),
        }
    }
    assert_eq!(descriptors(), before);
    assert_eq!(children(), processes);
    let helper = &processes[0];
    let of_helper = format!("/proc/{helper}/task/{helper}/children");
    let left = fs_err::read_to_string(of_helper).unwrap();
    // The one that is ready for the next request.
    assert!(left.split_whitespace().count() <= 1, "{left}");
    // All mounts were in namespaces that are gone.
    let mounts = fs_err::read_to_string("/proc/self/mounts").unwrap();
    let directory = sandbox.directory.path().display().to_string();
    assert!(!mounts.contains(&directory), "{mounts}");
}

fn dropping_the_spawner_ends_its_helper(_: Role) {
    let sandbox = Sandbox::new();
    let before = (descriptors(), children());
    let spawner = Spawner::start().unwrap();
    spawner.prepare(NetworkMode::None);
    spawner.prepare(NetworkMode::Host);
    assert_eq!(children().len(), before.1.len() + 1);
    drop(spawner);
    assert_eq!((descriptors(), children()), before);
    drop(sandbox);
}

fn a_deferred_helper_starts_with_the_first_order(_: Role) {
    let before = children();
    let spawner = Spawner::deferred();
    assert_eq!(children(), before);
    spawner.prepare(NetworkMode::None);
    assert_eq!(children().len(), before.len() + 1);
    drop(spawner);
    assert_eq!(children(), before);
}

fn a_retired_helper_ends_while_its_spawner_lives(_: Role) {
    let sandbox = Sandbox::new();
    let before = children();
    let spawner = Spawner::start().unwrap();
    let helper = children().into_iter().find(|child| !before.contains(child)).unwrap();
    spawner.retire();
    let process = std::path::PathBuf::from(format!("/proc/{helper}"));
    assert!(eventually(|| is_zombie(&process)), "{helper} lives on");
    let io = runtime::ContainerIo::Inherit { stdin: runtime::Stdin::Null };
    spawner.spawn(&sandbox.request(&["true"]), io).unwrap_err();
    drop(spawner);
    assert_eq!(children(), before);
}

fn a_lost_helper_is_an_error_and_no_hang(_: Role) {
    let sandbox = Sandbox::new();
    let container = sandbox.spawn(&sandbox.request(&["sleep", "600"])).unwrap();
    let pid = container.pid();
    let helper: i32 = children()[0].parse().unwrap();
    // SAFETY: our own child.
    unsafe { libc::kill(helper, libc::SIGKILL) };
    container.wait().unwrap_err();
    sandbox.spawn(&sandbox.request(&["true"])).unwrap_err();
    let process = std::path::PathBuf::from(format!("/proc/{pid}"));
    assert!(eventually(|| !process.exists() || is_zombie(&process)));
}

fn network_none_has_loopback_only(_: Role) {
    let sandbox = Sandbox::new();
    let script = "ls /sys/class/net; ip -o addr show dev lo | grep -c 127.0.0.1; ip route";
    assert_eq!(sandbox.shell(script), "lo\n1\n");
}

fn a_proxied_container_reaches_the_machine_but_not_its_loopback(_: Role) {
    let sandbox = Sandbox::new();
    let address = own_address();
    let listener = std::net::TcpListener::bind((address, 0)).unwrap();
    let hidden = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    hidden.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "echo hello | nc -w 10 {address} {port}; nc -w 2 127.0.0.1 {} </dev/null 2>&1 | head -n 1",
        hidden.local_addr().unwrap().port()
    );
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(&stream), &mut line).unwrap();
        std::io::Write::write_all(&mut stream, b"good bye\n").unwrap();
        line
    });
    let mut request = sandbox.request(&["sh", "-c", &script]);
    request.network = NetworkMode::Proxied;
    let output = sandbox.run(&request);
    assert!(output.stdout.starts_with("good bye\n"), "{output:?}");
    assert_eq!(server.join().unwrap(), "hello\n");
    assert_eq!(hidden.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// An address of this machine that is not loopback.
fn own_address() -> std::net::IpAddr {
    // Connecting a datagram socket sends nothing; it picks the address that leads there.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("this machine must have a network besides loopback");
    socket.local_addr().unwrap().ip()
}

fn the_host_network_is_the_engines(_: Role) {
    let sandbox = Sandbox::new();
    let mut request = sandbox.request(&["readlink", "/proc/self/ns/net"]);
    request.network = NetworkMode::Host;
    let ours = fs_err::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(sandbox.run(&request).stdout.trim(), ours.display().to_string());
}
