//! `--offline`: nothing opens a socket towards a network, and what would have to says so.

use std::time::Duration;

use fs_err as fs;

use crate::sealed::{Identity, Outcome, Sealed, run};

const DOCKERFILE: &str = "FROM busybox AS one
RUN ls /sys/class/net > /net && echo made > /made
FROM busybox
COPY file /copied
COPY --from=one /made /net /
RUN cat /made /copied /net > /all
";

fn place() -> (Sealed, String) {
    let sealed = Sealed::with_busybox(Identity::Caller);
    sealed.write("work/Dockerfile", DOCKERFILE);
    sealed.write("work/file", "from the context\n");
    let context = sealed.path().join("work").display().to_string();
    (sealed, context)
}

/// Runs `strake` in a network namespace that has nothing, not even a loopback that is up.
fn without_network(sealed: &Sealed, words: &[&str]) -> Outcome {
    let mut command = sealed.command("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--net").arg(sealed.program()).args(words);
    run(command, Duration::from_secs(60))
}

#[test]
fn a_machine_without_network_builds_runs_and_pulls_what_is_there() {
    let (sealed, context) = place();
    without_network(&sealed, &["build", "--offline", "-t", "made", &context]).success();
    let shown = without_network(&sealed, &["run", "--rm", "--offline", "made", "cat", "/all"]);
    assert_eq!(shown.success(), "made\nfrom the context\nlo\n");
    let pulled = without_network(&sealed, &["pull", "--offline", "busybox"]);
    assert_eq!(pulled.success(), "docker.io/library/busybox:latest\n");
}

/// The kernel's own list of the sockets that a command and everything it starts opened.
fn sockets(sealed: &Sealed, words: &[&str]) -> String {
    let trace = sealed.path().join("trace");
    let mut command = sealed.command("strace");
    command.args(["-f", "-qq", "-e", "trace=socket,socketpair", "-o"]).arg(&trace);
    command.arg(sealed.program()).args(words);
    run(command, Duration::from_secs(120)).success();
    fs::read_to_string(trace).unwrap()
}

#[test]
fn no_socket_towards_a_network_is_opened() {
    // A traced process gets no rights from set-user-ID programs, which ordinary users' namespaces
    // need.
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: only root can be traced whole");
        return;
    }
    let (sealed, context) = place();
    let offline = ["build", "--offline", "--no-cache", "-t", "made", &context];
    for words in [
        &offline[..],
        &["run", "--rm", "--offline", "made", "true"],
        &["pull", "--offline", "busybox"],
    ] {
        let opened = sockets(&sealed, words);
        assert!(!opened.contains("AF_INET"), "{words:?} opened\n{opened}");
        // A build and a run start containers, whose processes speak through sockets of another kind.
        assert_eq!(opened.contains("AF_UNIX"), words[0] != "pull", "{words:?} opened\n{opened}");
    }
    // Without the flag the same build has them, so that the trace would have shown them.
    let online = ["build", "--no-cache", "-t", "made", &context];
    assert!(sockets(&sealed, &online).contains("AF_INET"));
}

#[test]
fn what_needs_the_network_is_named() {
    let (sealed, context) = place();
    let fails = |dockerfile: &str, flags: &[&str], parts: &[&str]| {
        sealed.write("work/Dockerfile", dockerfile);
        let mut words = vec!["build", "--offline"];
        words.extend(flags);
        words.push(&context);
        let outcome = sealed.strake(words);
        for part in parts {
            assert!(outcome.failure(1).contains(part), "{part} is not in {outcome}");
        }
    };
    let hint = "leave out --offline";
    let registry = "127.0.0.1:1/no/such";
    fails(&format!("FROM {registry}\n"), &[], &[registry, "offline", hint, "Dockerfile:1"]);
    let add = "FROM busybox\nADD https://host.invalid/file /\n";
    fails(add, &[], &["https://host.invalid/file", "needs the network", hint]);
    let git = "FROM busybox\nADD https://host.invalid/repository.git#main /x\n";
    fails(git, &[], &["https://host.invalid/repository.git#main", "needs the network", hint]);
    let host = "FROM busybox\nRUN --network=host true\n";
    fails(host, &["--allow", "network.host"], &["--network=host needs the network", hint]);
    let named = ["--build-context", "more=https://host.invalid/more.tar"];
    fails("FROM busybox\n", &named, &["https://host.invalid/more.tar", hint]);
    fails("FROM busybox\n", &["-o", "type=registry", "-t", registry], &["publishing", hint]);
    for words in [
        &["pull", "--offline", registry][..],
        &["run", "--offline", registry, "true"],
        &["run", "--offline", "--network", "host", "busybox", "true"],
        &["run", "--offline", "--pull", "always", "busybox", "true"],
    ] {
        let outcome = sealed.strake(words);
        assert!(outcome.code != 0 && outcome.stderr.contains(hint), "{outcome}");
    }
}
