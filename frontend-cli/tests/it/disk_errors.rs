//! A disk that answers with errors: whatever call on whatever file of the store fails, the builds
//! that come after are right, without a prune.
//!
//! The errors are injected into the engine's system calls by strace, at the N-th call of a kind in
//! each thread, or from the N-th on. They hit the programs of the steps as well, which is why those
//! look at the result of everything they do. The rounds are bounded for CI; `STRAKE_FAULT_SECONDS`
//! makes them last longer.

use std::time::{Duration, Instant};

use fs_err as fs;

use crate::sealed::{Identity, Sealed, run};

/// How many faulty builds there are in an ordinary run.
const ROUNDS: usize = 18;

/// Calls that change what is on the disk, in groups that tell what was hit: files, the index (SQLite
/// alone writes so), names, durability, metadata. Not `write`: it wakes threads and draws the progress
/// as well, where the kernel never answers so. That it fails on files is what a full disk is for.
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
