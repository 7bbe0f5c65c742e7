//! A disk that answers with errors: whatever call on whatever file of the store fails, the builds
//! that come after are right, without a prune.
//!
//! The errors are injected into the engine's system calls by strace, at the N-th call of a kind in
//! each thread, or from the N-th on. They hit the programs of the steps as well, which is why those
//! look at the result of everything they do. The rounds are bounded for CI; `STRAKE_FAULT_SECONDS`
//! makes them last longer.
//!
//! `write` is not among these calls: strace would hit the eventfds that wake threads as well, and a
//! thread that no kernel fails to wake waits for ever (7 of 36 builds hung so, all of them with an
//! eventfd hit, and none of those without). `testdata/faults/write.c` fails the writes to the store's
//! files alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::sealed::{Identity, Sealed, run};

/// How many faulty builds there are in an ordinary run.
const ROUNDS: usize = 18;

/// How many of them fail to write to a file.
const WRITE_ROUNDS: usize = 12;

/// A build of ours makes about so many writes to files of the store.
const WRITES: u64 = 40;

/// Calls that change what is on the disk, in groups that tell what was hit: files, the index (SQLite
/// alone writes so), names, durability, metadata.
const CALLS: [&str; 6] = [
    "copy_file_range,sendfile,pwritev,fallocate",
    "pwrite64,ftruncate",
    "rename,renameat,renameat2,link,linkat,symlink,symlinkat",
    "fsync,fdatasync,sync_file_range,syncfs",
    "mkdir,mkdirat,unlink,unlinkat,rmdir",
    "chmod,fchmod,fchmodat,chown,fchown,fchownat,lchown,utimensat,setxattr,fsetxattr,lsetxattr",
];

const DOCKERFILE: &str = "FROM busybox AS one
RUN set -e; seq 1 2000 > /numbers
FROM busybox
ARG ROUND
RUN set -e; echo \"$ROUND\" > /round; mkdir /d; for i in 1 2 3 4; do echo $i > /d/$i; done
COPY --from=one /numbers /numbers
COPY file /copied
RUN set -e; cat /round /numbers /copied > /all; rm /d/4
";

#[test]
fn builds_after_disk_errors_are_right() {
    // A traced process gets no rights from set-user-ID programs, which ordinary users' namespaces
    // need.
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: only root can be traced whole");
        return;
    }
    let sealed = Sealed::with_busybox(Identity::Caller);
    sealed.write("work/Dockerfile", DOCKERFILE);
    sealed.write("work/file", "from the context\n");
    let patience = std::env::var("STRAKE_FAULT_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .map(Duration::from_secs);
    let seed = u64::from(std::process::id()) << 16 | 1;
    let mut state = seed;
    let (started, mut round, mut hits) = (Instant::now(), 0, 0);
    while patience.map_or(round < ROUNDS, |patience| started.elapsed() < patience) {
        let calls = CALLS[round % CALLS.len()];
        let first = 1 + next(&mut state) % 12;
        let on = if next(&mut state).is_multiple_of(3) { "+" } else { "" };
        round += 1;
        let fault = format!("{calls}:error=EIO:when={first}{on}");
        let why = format!("seed {seed}, round {round}, {fault}");
        hits += usize::from(build_with(&sealed, &fault, calls, round, &why));
        check(&sealed, round, &why);
    }
    assert!(hits * 3 >= round, "only {hits} of {round} builds met an error");
    sealed.strake(["fsck"]).success();
}

#[test]
fn builds_after_failed_writes_are_right() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    sealed.write("work/Dockerfile", DOCKERFILE);
    sealed.write("work/file", "from the context\n");
    let shim = compiled(sealed.path());
    let trace = sealed.path().join("writes");
    let seed = u64::from(std::process::id()) << 16 | 1;
    let (mut state, mut hits) = (seed, 0);
    for round in 1..=WRITE_ROUNDS {
        // The first ones make the directory of the process known to others, and are the rarest.
        let first = if round <= 4 { round as u64 } else { 1 + next(&mut state) % WRITES };
        let on = next(&mut state).is_multiple_of(3);
        let why = format!("seed {seed}, round {round}, write {first}, on: {on}");
        let _ = fs::remove_file(&trace);
        let mut command = sealed.strake_command(words(&sealed, round));
        command.env("LD_PRELOAD", &shim).env("FAULT_DIR", sealed.path().join("store"));
        command.env("FAULT_FIRST", first.to_string()).env("FAULT_TRACE", &trace);
        if on {
            command.env("FAULT_ON", "1");
        }
        let outcome = run(command, Duration::from_secs(60));
        let hit = trace.exists();
        assert!(outcome.code == 0 || hit, "{why}: {outcome}");
        // The base is here, whatever the disk says.
        assert!(!outcome.stderr.contains("is not asked: offline"), "{why}: {outcome}");
        hits += usize::from(hit);
        check(&sealed, round, &why);
    }
    assert!(hits * 2 >= WRITE_ROUNDS, "only {hits} of {WRITE_ROUNDS} builds met an error");
    sealed.strake(["fsck"]).success();
}

/// The library that fails writes, made in `directory`.
fn compiled(directory: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/faults/write.c");
    let library = directory.join("write.so");
    let mut command = Command::new("gcc");
    command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source);
    let outcome = run(command, Duration::from_secs(60));
    outcome.success();
    library
}

#[test]
fn a_store_that_cannot_be_read_is_an_error_with_its_path() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    sealed.write("work/Dockerfile", "FROM busybox\nRUN true\n");
    let context = sealed.path().join("work").display().to_string();
    let build = || sealed.strake(["build", "--offline", &context]);
    build().success();
    // A link to itself: whoever walks through it gets an error that is not `NotFound`.
    for name in ["content/blobs/sha256", "snapshots-v1"] {
        let directory = sealed.path().join("store").join(name);
        let aside = directory.with_extension("aside");
        fs::rename(&directory, &aside).unwrap();
        std::os::unix::fs::symlink(&directory, &directory).unwrap();
        let outcome = build();
        let said = outcome.failure(1);
        assert!(said.contains(&format!("{name}/")), "{outcome}");
        assert!(said.contains("Too many levels of symbolic links"), "{outcome}");
        assert!(!said.contains("is not asked"), "{outcome}");
        fs::remove_file(&directory).unwrap();
        fs::rename(&aside, &directory).unwrap();
        build().success();
    }
}

fn words(sealed: &Sealed, round: usize) -> Vec<String> {
    let context = sealed.path().join("work").display().to_string();
    let argument = format!("ROUND={round}");
    // A base that cannot be read for the moment is not looked for elsewhere.
    let words = ["build", "--offline", "-t", "faulty", "--build-arg", &argument, &context];
    words.map(str::to_owned).to_vec()
}

/// Builds on a faulty disk, and says whether anything was hit. How the build ends is its own affair,
/// as long as it ends.
fn build_with(sealed: &Sealed, fault: &str, calls: &str, round: usize, why: &str) -> bool {
    let trace = sealed.path().join("trace");
    let mut command = sealed.command("strace");
    command.args(["-f", "--seccomp-bpf", "-qq", "-o"]).arg(&trace);
    command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={fault}")]);
    command.arg(sealed.program()).args(words(sealed, round));
    let outcome = run(command, Duration::from_secs(60));
    let hit = fs::read_to_string(trace).unwrap().contains("(INJECTED)");
    assert!(outcome.code == 0 || hit, "{why}: {outcome}");
    hit
}

/// The same build on a sound disk must make what a build that nothing ever disturbed makes.
fn check(sealed: &Sealed, round: usize, why: &str) {
    let outcome = sealed.strake(words(sealed, round));
    assert_eq!(outcome.code, 0, "{why}: {outcome}");
    let script = "cat /all | tail -n 1; wc -l < /all; head -n 1 /all; echo /d/*";
    let outcome = sealed.strake(["run", "--rm", "faulty", "sh", "-c", script]);
    let expected = format!("from the context\n2002\n{round}\n/d/1 /d/2 /d/3\n");
    assert_eq!(outcome.stdout, expected, "{why}: {outcome}");
}

/// xorshift64*: faults that differ, and can be repeated by their seed.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
}
