//! `--memory`, `--cpus` and their like: kept, or an error that says what is missing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::sealed::{Identity, Sealed};

/// Takes 64 MiB and more.
const GREEDY: &str = "dd if=/dev/zero of=/dev/null bs=96M count=1";

/// Whether groups with limits can be made here: tried in the way that the kernel documents it, not
/// by asking strake.
fn can_limit() -> bool {
    let can = parents().iter().any(|parent| {
        let group = parent.join(format!("limits-test-{}", std::process::id()));
        let made = fs::create_dir(&group).is_ok();
        let limited = ["memory.limit_in_bytes", "memory.max"]
            .iter()
            .any(|file| group.join(file).exists() && fs::write(group.join(file), "64M").is_ok());
        if made {
            fs::remove_dir(&group).unwrap();
        }
        limited
    });
    if !can {
        eprintln!("left out: no cgroup with the memory controller can be made here");
    }
    can
}

/// Our own group in each hierarchy that counts memory, and those above it.
fn parents() -> Vec<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mut parents = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, names, own) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
        let mount = match names {
            "" if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() => "/sys/fs/cgroup",
            "memory" => "/sys/fs/cgroup/memory",
            _ => continue,
        };
        let own = Path::new(mount).join(own.trim_start_matches('/'));
        let above = own.ancestors().take_while(|path| path.starts_with(mount));
        parents.extend(above.map(Path::to_owned));
    }
    parents
}

/// What is left of strake's groups.
fn groups() -> Vec<PathBuf> {
    let entries = parents().into_iter().filter_map(|parent| fs::read_dir(parent).ok());
    let paths = entries.flat_map(|entries| entries.flatten().map(|entry| entry.path()));
    let is_ours =
        |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("strake-");
    paths.filter(is_ours).collect()
}

#[test]
fn who_takes_too_much_memory_is_killed_and_told_so() {
    if !can_limit() {
        return;
    }
    let sealed = Sealed::with_busybox(Identity::Caller);
    let outcome = sealed.strake(["run", "--rm", "-m", "32m", "busybox", "sh", "-c", GREEDY]);
    assert!(outcome.failure(137).contains("killed: out of memory at 32 MiB"), "{outcome}");
    // The same code of a program that memory has nothing to do with.
    let plain = sealed.strake(["run", "--rm", "-m", "32m", "busybox", "sh", "-c", "exit 137"]);
    assert!(!plain.failure(137).contains("memory"), "{plain}");
    sealed.write("work/Dockerfile", format!("FROM busybox\nRUN {GREEDY}\n"));
    let context = sealed.path().join("work").display().to_string();
    let limited = sealed.strake(["build", "--memory", "32m", "-t", "x", &context]);
    let text = limited.failure(1);
    assert!(text.contains("was killed: out of memory at 32 MiB"), "{limited}");
    assert!(text.contains("--memory") && text.contains("Dockerfile:2"), "{limited}");
    sealed.strake(["build", "--memory", "512m", "-t", "x", &context]).success();
}

#[test]
fn the_other_limits_are_kept() {
    if !can_limit() {
        return;
    }
    let sealed = Sealed::with_busybox(Identity::Caller);
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done 2>&1; wait";
    let run = |flags: &[&str], script: &str| {
        let words = ["run", "--rm"].iter().chain(flags).chain(&["busybox", "sh", "-c"]);
        sealed.strake(words.copied().chain([script]))
    };
    let forked = run(&["--pids-limit", "4"], script);
    assert!(forked.stdout.contains("fork") || forked.stderr.contains("fork"), "{forked}");
    assert_eq!(run(&["--pids-limit", "-1"], "true").code, 0);
    let cpus = run(&["--cpuset-cpus", "0"], "grep Cpus_allowed_list /proc/self/status");
    assert_eq!(cpus.success(), "Cpus_allowed_list:\t0\n");
    // A second of work in a tenth of a processor: the shell's own clock counts what it took.
    let busy = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; cat /proc/uptime";
    let free = run(&[], busy);
    let throttled = run(&["--cpus", "0.1"], busy);
    assert!(throttled.elapsed > free.elapsed, "{free} {throttled}");
    let nodes = run(&["--cpuset-mems", "0"], "grep Mems_allowed_list /proc/self/status");
    assert_eq!(nodes.success(), "Mems_allowed_list:\t0\n");
    let absurd = run(&["--cpuset-mems", "4000"], "true");
    assert!(absurd.failure(125).contains("the kernel refuses `4000`"), "{absurd}");
    let absurd = run(&["--cpuset-cpus", "4000"], "true");
    assert!(absurd.failure(125).contains("the kernel refuses `4000`"), "{absurd}");
}

#[test]
fn a_limit_that_cannot_be_kept_is_an_error() {
    // An ordinary user has no group of his own in the first version, nor without delegation.
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: whether an ordinary user has a delegated group differs");
        return;
    }
    let sealed = Sealed::with_busybox(Identity::Ranges);
    let outcome = sealed.strake(["run", "--rm", "-m", "64m", "busybox", "true"]);
    let text = outcome.failure(125);
    for part in ["cannot limit the memory", "`memory`", "Delegate=yes"] {
        assert!(text.contains(part), "{outcome}");
    }
}

#[test]
fn no_group_is_left_not_even_by_a_killed_engine() {
    if !can_limit() {
        return;
    }
    let sealed = Sealed::with_busybox(Identity::Caller);
    let words = ["run", "--rm", "-m", "64m", "--pids-limit", "50", "busybox"];
    let limited: Vec<&str> = words.iter().chain(&["true"]).copied().collect();
    // The next container with limits removes them, and so does a prune.
    for tidy in [&limited[..], &["prune", "--force"], &["image", "prune", "--force"]] {
        let mut command = sealed.strake_command(words.iter().chain(&["sleep", "600"]));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let name = format!("strake-{}-", child.id());
        let of_child = || {
            let is_its = |path: &PathBuf| path.to_string_lossy().contains(&name);
            groups().into_iter().filter(is_its).count()
        };
        let until = |what: &str, reached: &dyn Fn() -> bool| {
            let started = Instant::now();
            while !reached() {
                assert!(started.elapsed() < Duration::from_secs(60), "{what}: {:?}", groups());
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        until("no group is made", &|| of_child() > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        // Once their processes have ended.
        until("the groups stay", &|| {
            sealed.strake(tidy).success();
            of_child() == 0
        });
    }
}
