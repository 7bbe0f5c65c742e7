//! What goes wrong on real machines: killed processes, full disks, flipped bits, several processes
//! at once. Afterwards every build is right, without a prune.
//!
//! The rounds are bounded for CI; `STRAKE_FAULT_SECONDS` makes the killing last longer. Where the
//! random instants begin stands in the message of a failure.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::sealed::{Identity, Outcome, Sealed, run};

/// How long builds are killed in an ordinary run.
const KILLING: Duration = Duration::from_secs(20);

const FAULTY: &str = "FROM busybox AS one
RUN seq 1 2000 > /numbers && dd if=/dev/zero of=/zeros bs=64k count=8 2>/dev/null
FROM busybox
ARG ROUND
RUN echo \"$ROUND\" > /round && for i in 1 2 3 4 5 6 7 8; do echo $i > /file$i; done
COPY --from=one /numbers /numbers
COPY file /copied
RUN cat /round /numbers /copied > /all && rm /file8
";

/// A sealed place whose context `work` makes an image of which everything is known.
fn place() -> (Sealed, String) {
    let sealed = Sealed::with_busybox(Identity::Caller);
    sealed.write("work/Dockerfile", FAULTY);
    sealed.write("work/file", "from the context\n");
    let context = sealed.path().join("work").display().to_string();
    (sealed, context)
}

fn words(context: &str, round: usize, tag: &str) -> [String; 6] {
    let argument = format!("ROUND={round}");
    ["build", "-t", tag, "--build-arg", &argument, context].map(str::to_owned)
}

fn build(sealed: &Sealed, context: &str, round: usize, tag: &str) -> Outcome {
    sealed.strake(words(context, round, tag))
}

/// Builds, and looks into the image: it must be what a build that nothing ever disturbed makes.
#[track_caller]
fn check(sealed: &Sealed, context: &str, round: usize, why: &str) {
    let outcome = build(sealed, context, round, "checked");
    assert_eq!(outcome.code, 0, "{why}: {outcome}");
    let script =
        "cat /all | tail -n 1; wc -l < /all; head -n 1 /all; [ ! -e /file8 ] && cat /file7";
    let outcome = sealed.strake(["run", "--rm", "checked", "sh", "-c", script]);
    let expected = format!("from the context\n2002\n{round}\n7\n");
    assert_eq!(outcome.stdout, expected, "{why}: {outcome}");
}

fn start(sealed: &Sealed, context: &str, round: usize) -> Child {
    let mut command = sealed.strake_command(words(context, round, "killed"));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// xorshift64*: instants that differ, and can be repeated by their seed.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[test]
fn builds_after_killed_builds_are_right() {
    let (sealed, context) = place();
    let started = Instant::now();
    build(&sealed, &context, 0, "warm").success();
    let whole = started.elapsed().max(Duration::from_millis(20));
    let patience = std::env::var("STRAKE_FAULT_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .map_or(KILLING, Duration::from_secs);
    let seed = u64::from(std::process::id()) << 16 | 1;
    let mut state = seed;
    let started = Instant::now();
    let mut round = 0;
    while started.elapsed() < patience {
        round += 1;
        let mut child = start(&sealed, &context, round);
        let instant = whole.as_micros() as u64 * 3 / 2;
        // Not a wait for something: the instant of the fault itself.
        std::thread::sleep(Duration::from_micros(next(&mut state) % instant));
        child.kill().unwrap();
        child.wait().unwrap();
        if round % 5 == 0 {
            check(&sealed, &context, round, &format!("seed {seed}, round {round}"));
        }
    }
    assert!(round >= 10, "only {round} builds were killed");
    check(&sealed, &context, round, &format!("seed {seed}, at the end"));
    sealed.strake(["fsck"]).success();
    // Nothing of the dead is left: everything that is not cache or image is gone.
    for (dir, left) in [("ingest", "lock"), ("trash", "")] {
        let names: Vec<_> = fs::read_dir(sealed.path().join("store").join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != left)
            .collect();
        assert!(names.len() <= 1, "{dir} holds {names:?}");
    }
}

#[test]
fn builds_beside_prunes_and_removals_are_right() {
    let (sealed, context) = place();
    let until = Instant::now() + Duration::from_secs(8);
    std::thread::scope(|scope| {
        for builder in 0..2 {
            let (sealed, context) = (&sealed, &context);
            scope.spawn(move || {
                let mut round = 0;
                while Instant::now() < until {
                    round += 1;
                    let tag = format!("beside-{builder}");
                    let number = builder * 1000 + round / 2;
                    let outcome = build(sealed, context, number, &tag);
                    assert_eq!(outcome.code, 0, "{outcome}");
                }
                assert!(round > 1);
            });
        }
        let sealed = &sealed;
        scope.spawn(move || {
            while Instant::now() < until {
                sealed.strake(["prune", "--all", "--force"]).success();
                // An image that is not there is an error, and not the point.
                sealed.strake(["rmi", "beside-0"]);
            }
        });
    });
    for round in [1, 1001] {
        check(&sealed, &context, round, "after prunes");
    }
    sealed.strake(["fsck"]).success();
}

#[test]
fn a_prune_beside_a_long_step_frees_the_rest_and_the_build_is_right() {
    let (sealed, context) = place();
    build(&sealed, &context, 1, "old").success();
    sealed.strake(["rmi", "old"]).success();
    let slow = "FROM busybox\nRUN echo made > /made\nRUN --mount=type=cache,target=/c \
                echo kept > /c/kept && sleep 5 && cat /made /c/kept > /all && cp /c/kept /kept\n";
    sealed.write("slow/Dockerfile", slow);
    let slow = sealed.path().join("slow").display().to_string();
    let mut command = sealed.strake_command(["build", "-t", "slow", &slow]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let data = sealed.path().join("store/cache-mounts");
    let mounted = || {
        let mut mounts = fs::read_dir(&data).unwrap();
        mounts.any(|mount| mount.unwrap().path().join("data/kept").exists())
    };
    while !mounted() {
        assert!(Instant::now() < until, "the step never ran");
    }
    let started = Instant::now();
    let pruned = sealed.strake(["prune", "--all", "--force"]);
    assert!(pruned.success().contains("COPY file /copied"), "{pruned}");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert!(child.try_wait().unwrap().is_none(), "the build ended before the prune did");
    let in_use = sealed.strake(["du", "--filter", "inuse"]);
    assert!(in_use.success().lines().count() > 5, "{in_use}");
    assert!(child.wait().unwrap().success());
    let outcome = sealed.strake(["run", "--rm", "slow", "cat", "/all", "/kept"]);
    assert_eq!(outcome.success(), "made\nkept\nkept\n");
    sealed.strake(["fsck"]).success();
}

#[test]
fn what_is_reported_free_becomes_free_and_images_stay() {
    let (sealed, context) = place();
    check(&sealed, &context, 1, "before");
    sealed.write("work/Dockerfile", FAULTY.replace("bs=64k", "bs=1024k"));
    build(&sealed, &context, 2, "other").success();
    sealed.strake(["rmi", "other"]).success();
    let blocks = || -> u64 {
        let mut command = sealed.command("du");
        command.args(["-s", "-B1"]).args(
            ["snapshots-v1", "content/blobs", "cache-mounts", "context-v1", "trash"]
                .map(|name| sealed.path().join("store").join(name)),
        );
        let outcome = run(command, Duration::from_secs(60));
        let sizes = outcome.success().lines().filter_map(|line| line.split('\t').next());
        sizes.map(|size| size.parse::<u64>().unwrap()).sum()
    };
    let entries = || sealed.strake(["du", "--format", "json"]).success().to_owned();
    let (before, listed) = (blocks(), entries());
    assert!(listed.contains("COPY file /copied"), "{listed}");
    let pruned = sealed.strake(["prune", "--force"]);
    let text = pruned.success();
    let said = text.rsplit("Total reclaimed space: ").next().unwrap().trim();
    let freed = before.saturating_sub(blocks());
    let number: f64 = said.trim_end_matches(char::is_alphabetic).parse().unwrap();
    let factor = if said.ends_with("MB") { 1e6 } else { 1e3 };
    // Three digits are printed.
    assert!((number * factor - freed as f64).abs() < freed as f64 * 0.01, "{said}, {freed} bytes");
    assert!(freed > 8 << 20, "{freed}");
    // The image still runs, and its steps are still known.
    sealed.strake(["run", "--rm", "checked", "true"]).success();
    sealed.write("work/Dockerfile", FAULTY);
    let again = build(&sealed, &context, 1, "checked");
    again.success();
    assert!(again.stderr.contains("CACHED"), "{again}");
    let rest = sealed.strake(["prune", "--force"]);
    assert!(!rest.success().contains("regular"), "{rest}");
}

#[test]
fn a_cap_holds_after_every_build_and_spares_what_was_just_made() {
    let (mut sealed, _) = place();
    let dockerfile =
        "FROM busybox\nARG N\nRUN dd if=/dev/urandom of=/big bs=1M count=4 && echo $N\n";
    sealed.write("big/Dockerfile", dockerfile);
    let context = sealed.path().join("big").display().to_string();
    sealed.set("STRAKE_MAX_USED_SPACE", "10m");
    let used = |sealed: &Sealed| -> u64 {
        let listed = sealed.strake(["du", "--format", "json", "--filter", "private"]);
        let entry = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        listed.success().lines().map(|line| entry(line)["Size"].as_u64().unwrap()).sum()
    };
    // Without a name the results are cache as soon as they are made.
    let words = |number: u32| {
        let argument = format!("N={number}");
        ["build", "-o", "type=tar,dest=/dev/null", "--build-arg", &argument, &context]
            .map(str::to_owned)
    };
    for number in 1..=4 {
        sealed.strake(words(number)).success();
        assert!(used(&sealed) <= 10 << 20, "after build {number}: {}", used(&sealed));
        let again = sealed.strake(words(number));
        again.success();
        assert!(again.stderr.contains("CACHED"), "the newest went: {again}");
    }
    // The oldest went, and the cap is no larger than it has to be.
    assert!(used(&sealed) > 8 << 20, "{}", used(&sealed));
    let first = sealed.strake(words(1));
    assert!(first.stderr.contains("entries removed"), "{first}");
    sealed.set("STRAKE_MAX_USED_SPACE", "200%");
    sealed.strake(words(1)).failure(1);
}

#[test]
fn damage_is_found_and_healed() {
    let (sealed, context) = place();
    check(&sealed, &context, 1, "before");
    sealed.strake(["fsck"]).success();
    let store = sealed.path().join("store");
    // A bit of every blob, and of one file that a step made.
    for entry in fs::read_dir(store.join("content/blobs/sha256")).unwrap() {
        flip(&entry.unwrap().path());
    }
    let numbers: Vec<_> = fs::read_dir(store.join("snapshots-v1"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("fs/all"))
        .filter(|path| path.exists())
        .collect();
    assert!(!numbers.is_empty());
    numbers.iter().for_each(|path| flip(path));
    let found = sealed.strake(["fsck"]);
    found.failure(1);
    for what in ["has other content", "were changed"] {
        assert!(found.stdout.contains(what), "{found}");
    }
    sealed.strake(["fsck", "--repair"]).success();
    sealed.strake(["fsck"]).success();
    // The base has no registry that could send it again.
    sealed.import("busybox", "busybox");
    check(&sealed, &context, 1, "after the repair");
}

fn flip(path: &std::path::Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
        fs::write(path, bytes).unwrap();
    }
}

/// A small file system is only to be had inside a namespace, so the whole story is a script there.
#[test]
fn a_full_disk_fails_the_build_and_nothing_else() {
    let (sealed, context) = place();
    let archive = crate::sealed::base_image("busybox");
    let script = r#"
mkdir small && mount -t tmpfs -o size=24m small small
export STRAKE_ROOT=$PWD/small/store
"$1" import "$2" busybox >/dev/null
printf 'FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=40\n' > Big
if "$1" build -f Big -t big "$3" 2> full; then echo 'it had room'; exit 1; fi
grep -qi 'no space left' full
"$1" build -t fits --build-arg ROUND=1 "$3" 2>&1
"$1" run --rm fits tail -n 1 /all
"$1" fsck
"#;
    let mut command = sealed.command("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--propagation", "private", "sh", "-exc", script, "small"]);
    command.arg(sealed.program()).arg(archive).arg(&context);
    let outcome = run(command, Duration::from_secs(120));
    assert!(outcome.success().contains("from the context"), "{outcome}");
}
