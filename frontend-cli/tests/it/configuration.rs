//! Configuration files: which one counts, and what a mistake in one is told as.

use std::time::Duration;

use fs_err as fs;
use serde_json::Value;

use crate::sealed::{Identity, Outcome, Sealed, run};

/// A place with a context whose build leaves cache only: nothing is named.
fn place() -> Sealed {
    let sealed = Sealed::with_busybox(Identity::Caller);
    sealed.write("context/Dockerfile", "FROM busybox\nRUN seq 1 10000 > /numbers\n");
    sealed
}

fn build(sealed: &Sealed, flags: &[&str]) -> Outcome {
    let outcome =
        sealed.strake([&["build", "-o", "type=tar,dest=/dev/null"], flags, &["context"]].concat());
    outcome.success();
    outcome
}

/// How many results of steps are kept.
fn kept(sealed: &Sealed) -> usize {
    let listed = sealed.strake([
        "du",
        "--format",
        "json",
        "--filter",
        "private",
        "--filter",
        "type=regular",
    ]);
    listed.success().lines().count()
}

#[test]
fn a_configured_cap_holds_unless_a_variable_or_a_flag_says_otherwise() {
    let mut sealed = place();
    sealed.write("home/.config/strake/strake.toml", "[gc]\nmaxUsedSpace = 1\n");
    let outcome = build(&sealed, &[]);
    assert!(outcome.stderr.contains("hold the build cache to its limits"), "{outcome}");
    assert_eq!(kept(&sealed), 0);
    build(&sealed, &["--max-used-space", "0"]);
    assert!(kept(&sealed) > 0, "zero is no limit");
    build(&sealed, &["--max-used-space", "1k"]);
    assert_eq!(kept(&sealed), 0);
    sealed.set("STRAKE_MAX_USED_SPACE", "1g");
    build(&sealed, &[]);
    assert!(kept(&sealed) > 0, "the variable goes before the file");
    let outcome = build(&sealed, &["--max-used-space", "1k"]);
    assert!(outcome.stderr.contains("CACHED"), "{outcome}");
    assert_eq!(kept(&sealed), 0, "the flag goes before the variable");
    // A prune without limits is one of everything, whatever is configured.
    build(&sealed, &[]);
    assert!(sealed.strake(["prune", "--force"]).success().contains("regular"));
    assert_eq!(kept(&sealed), 0);
}

#[test]
fn a_mistake_in_a_file_is_told_with_its_line() {
    let mut sealed = Sealed::new();
    let file = sealed.write("home/.config/strake/strake.toml", "[gc]\n\nmaxUsedSpce = \"1g\"\n");
    let message = sealed.strake(["images"]).failure(1).to_owned();
    for part in ["unknown key `maxUsedSpce`", &format!("{}:3:1", file.display()), "`maxUsedSpace`?"]
    {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    // A file that is named stands in the place of the others, and must be there.
    let store = sealed.path().join("elsewhere");
    let text = format!("root = {:?}\n[history]\nmaxEntries = 0\n", store);
    sealed.set("STRAKE_CONFIG", sealed.write("other.toml", text));
    let mut command = sealed.strake_command(["images"]);
    command.env_remove("STRAKE_ROOT");
    run(command, Duration::from_secs(60)).success();
    assert!(store.join("state.json").exists());
    sealed.write("context/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    build(&sealed, &[]);
    let builds = sealed.strake(["history", "ls", "--quiet"]);
    assert_eq!(builds.success(), "", "none is kept");
    let missing = sealed.strake(["--config", "nowhere.toml", "images"]);
    assert!(missing.failure(1).contains("nowhere.toml"), "{missing}");
}

#[test]
fn the_users_file_goes_before_the_systems_key_by_key() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: needs root, to lay a file over /etc in a mount namespace");
        return;
    }
    let sealed = place();
    let system = "[gc]\nmaxUsedSpace = \"2 miles\"\n";
    sealed.write("etc/strake/strake.toml", system);
    let with_system = |words: &[&str]| {
        let script = "mount -t overlay overlay -o lowerdir=\"$1\":/etc /etc; shift; exec \"$@\"";
        let mut command = sealed.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]);
        command.arg(sealed.path().join("etc")).arg(sealed.program()).args(words);
        run(command, Duration::from_secs(60))
    };
    let refused = with_system(&["images"]);
    assert!(refused.failure(1).contains("/etc/strake/strake.toml:2:16"), "{refused}");
    sealed.write("etc/strake/strake.toml", "[gc]\nmaxUsedSpace = 1\n[history]\nmaxEntries = 1\n");
    sealed.write("home/.config/strake/strake.toml", "[gc]\nmaxUsedSpace = \"50%\"\n");
    for _ in 0..2 {
        with_system(&["build", "-o", "type=tar,dest=/dev/null", "context"]).success();
    }
    assert!(kept(&sealed) > 0, "the user's cap is large");
    let builds = with_system(&["history", "ls", "--format", "json"]);
    let builds: Vec<Value> =
        builds.success().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(builds.len(), 1, "the system's history is short");
    fs::remove_file(sealed.path().join("home/.config/strake/strake.toml")).unwrap();
    with_system(&["build", "-o", "type=tar,dest=/dev/null", "context"]).success();
    assert_eq!(kept(&sealed), 0);
}
