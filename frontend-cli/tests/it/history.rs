//! The history of builds: what was built, how it ended, and what the steps printed.

use std::process::Stdio;
use std::time::{Duration, Instant};

use fs_err as fs;
use serde_json::Value;

use crate::sealed::{Identity, Sealed, run};

const SECRET: &str = "correct-horse-battery-staple";

fn place(dockerfile: &str) -> (Sealed, String) {
    let sealed = Sealed::with_busybox(Identity::Caller);
    sealed.write("work/Dockerfile", dockerfile);
    let context = sealed.path().join("work").display().to_string();
    (sealed, context)
}

fn builds(sealed: &Sealed) -> Vec<Value> {
    let outcome = sealed.strake(["history", "ls", "--format", "json"]);
    outcome.success().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The files below `dir` that hold `value`.
fn holding(sealed: &Sealed, dir: &str, value: &str) -> String {
    let mut command = sealed.command("grep");
    command.args(["-rlF", "--", value]).arg(sealed.path().join(dir));
    let outcome = run(command, Duration::from_secs(60));
    assert!(outcome.code <= 1, "{outcome}");
    outcome.stdout
}

#[test]
fn builds_are_listed_with_their_steps_results_and_logs() {
    let (sealed, context) = place(
        "FROM busybox\nRUN echo first line && echo second >&2\n\nRUN seq 1 40000 \\\n && echo end\n",
    );
    sealed.strake(["build", "-t", "one", &context]).success();
    sealed.strake(["build", "-t", "one", &context]).success();
    sealed.write("work/Dockerfile", "FROM busybox AS last\nRUN echo before && exit 7\n");
    sealed.strake(["build", "--target", "last", &context]).failure(1);

    let listed = builds(&sealed);
    let status: Vec<_> = listed.iter().map(|build| build["status"].as_str().unwrap()).collect();
    assert_eq!(status, ["error", "completed", "completed"]);
    assert!(listed[0]["error"].as_str().unwrap().contains("exited with code 7"), "{listed:?}");
    assert_eq!(listed[0]["name"], "work (last)");
    assert_eq!(listed[2]["tags"][0], "one:latest");
    let table = sealed.strake(["history"]);
    assert_eq!(table.success().lines().count(), 4, "{table}");
    let failed = sealed.strake(["history", "ls", "-q", "--filter", "status=error"]);
    assert_eq!(failed.success().trim(), listed[0]["id"].as_str().unwrap());

    // The first of the three, whole, with the lines of its steps.
    let first = listed[2]["id"].as_str().unwrap();
    let shown = sealed.strake(["history", "inspect", "--format", "json", "^2"]);
    let shown: Value = serde_json::from_str(shown.success()).unwrap();
    assert_eq!(shown["id"], first);
    let step = |name: &str| {
        let steps = shown["steps"].as_array().unwrap();
        steps.iter().find(|step| step["name"].as_str().unwrap().contains(name)).unwrap().clone()
    };
    assert_eq!(step("RUN seq")["lines"], serde_json::json!([4, 5]));
    assert_eq!(step("RUN seq")["outcome"], "done");
    let logs = sealed.strake(["history", "logs", &first[..10]]);
    let text = logs.success();
    for line in ["first line", "second", "40000", "end"] {
        let ended = |text: &str| text.starts_with('#') && text.ends_with(&format!(" {line}"));
        assert!(text.lines().any(ended), "{line}: {text}");
    }
    let number = step("RUN echo")["number"].to_string();
    let logs = sealed.strake(["history", "logs", "^2", &number]);
    assert!(logs.success().contains("first line") && !logs.stdout.contains(" 40000\n"), "{logs}");
    // The second one found everything.
    let logs = sealed.strake(["history", "logs", "^1", "RUN seq"]);
    assert!(logs.success().contains("CACHED") && !logs.stdout.contains(" 40000\n"), "{logs}");
    let logs = sealed.strake(["history", "logs"]);
    assert!(logs.success().contains("before") && logs.stdout.contains("ERROR:"), "{logs}");

    // An image's history is still where docker has it, whatever the image is called.
    assert!(sealed.strake(["history", "one"]).success().contains("seq"));
    sealed.strake(["tag", "one", "logs"]).success();
    assert!(sealed.strake(["image", "history", "logs"]).success().contains("seq"));

    sealed.strake(["history", "rm", "^1"]).success();
    assert_eq!(builds(&sealed).len(), 2);
    sealed.strake(["history", "rm", "--all"]).success();
    assert_eq!(builds(&sealed).len(), 0);
    sealed.strake(["history", "logs"]).failure(1);
}

#[test]
fn the_history_has_a_limit_and_can_be_switched_off() {
    let (mut sealed, context) = place("FROM busybox\nARG N\nRUN echo $N && seq 1 200000\n");
    let build = |sealed: &Sealed, number: u32| {
        let argument = format!("N={number}");
        sealed.strake(["build", "--build-arg", &argument, &context]).success();
    };
    sealed.set("STRAKE_HISTORY_BUILDS", "2");
    (1..=3).for_each(|number| build(&sealed, number));
    assert_eq!(builds(&sealed).len(), 2);
    // What is shown is clipped, what is kept is whole.
    let logs = sealed.strake(["history", "logs"]);
    assert!(logs.success().contains(" 200000\n"), "{}", logs.stdout.len());
    sealed.set("STRAKE_HISTORY_MAX_SIZE", "10k");
    build(&sealed, 4);
    assert_eq!(builds(&sealed).len(), 1);
    sealed.set("STRAKE_HISTORY_BUILDS", "0");
    build(&sealed, 5);
    assert_eq!(builds(&sealed).len(), 1);
}

#[test]
fn secrets_are_in_no_log_and_nowhere_in_the_store() {
    let (mut sealed, context) = place(
        "FROM busybox\nARG API_TOKEN\n\
         RUN --mount=type=secret,id=file --mount=type=secret,id=env,env=VALUE \
         set -x; echo \"$VALUE\"; cat /run/secrets/file; \
         i=0; while [ $i -lt 5000 ]; do printf '%s ' \"$VALUE\"; i=$((i+1)); done\n\
         RUN --mount=type=secret,id=file cat /run/secrets/file; exit 3\n",
    );
    sealed.write("token", format!("{SECRET}\n"));
    sealed.set("VALUE", SECRET);
    let words = ["build", "--secret", "id=file,src=token", "--secret", "id=env,env=VALUE"];
    let argument = format!("API_TOKEN={SECRET}-of-the-arg");
    let outcome = sealed.strake(words.iter().chain(&["--build-arg", &argument, &context]));
    let shown = outcome.failure(1);
    assert!(shown.contains("***") && !shown.contains(SECRET), "{outcome}");
    let logs = sealed.strake(["history", "logs"]);
    assert!(logs.success().contains("***"), "{logs}");
    let shown = sealed.strake(["history", "inspect"]);
    assert!(shown.success().contains("API_TOKEN=***"), "{shown}");
    assert_eq!(holding(&sealed, "store/history-v1", SECRET), "");
    // Without the build argument, which is no secret to the cache, the value is nowhere at all.
    fs::remove_dir_all(sealed.path().join("store")).unwrap();
    sealed.import("busybox", "busybox");
    sealed.strake(words.iter().chain(&[context.as_str()])).failure(1);
    assert_eq!(holding(&sealed, "store", SECRET), "");
}

#[test]
fn a_build_that_runs_and_one_that_was_killed_are_told() {
    let (sealed, context) = place("FROM busybox\nRUN echo working; sleep 60\n");
    let mut command = sealed.strake_command(["build", &context]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = || builds(&sealed).first().map(|build| build["status"].clone());
    let until = Instant::now() + Duration::from_secs(20);
    while status() != Some("running".into()) {
        assert!(Instant::now() < until, "it never ran");
    }
    // What it has printed up to now, and says so.
    let logs = || sealed.strake(["history", "logs"]).success().to_owned();
    while !logs().lines().any(|line| line.starts_with('#') && line.ends_with(" working")) {
        assert!(Instant::now() < until, "{}", logs());
    }
    assert!(logs().contains("still runs: "), "{}", logs());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(status(), Some("killed".into()));
    let said = logs();
    assert!(said.contains("was killed: ") && said.contains(" working\n"), "{said}");
    sealed.strake(["history", "logs", "^0", "RUN"]).failure(1);
}
