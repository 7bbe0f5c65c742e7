//! `strake why` and `build --explain`: which ingredient of which step made the cache miss or hit.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use fs_err as fs;
use rustix::process::{Pid, Signal, kill_process};

use crate::sealed::{Identity, Sealed};

const DOCKERFILE: &str = "FROM busybox
ARG VERSION=1
ENV MODE=fast
RUN echo $VERSION > /version
COPY src /src
RUN --mount=type=secret,id=s echo noise > /noise && cat /src/a > /all
RUN cat /noise > /last
";

struct Place {
    sealed: Sealed,
    context: String,
}

impl Place {
    /// Builds with `words`, and gives what is said of the step whose name contains `step`.
    #[track_caller]
    fn explain(&self, words: &[&str], step: &str) -> String {
        let words = [&["build", "--explain", "--progress=plain", "-t", "x"], words].concat();
        let outcome = self.sealed.strake(words.iter().chain(&[self.context.as_str()]));
        outcome.success();
        // The explanation is the end of the output; a step's name begins a line there.
        let mut lines = outcome.stderr.lines();
        let begins = |line: &str| line.starts_with('[') && line.contains(step);
        let first = lines.by_ref().find(|line| begins(line)).unwrap_or_else(|| panic!("{outcome}"));
        let rest = lines.take_while(|line| line.starts_with(' '));
        let said = std::iter::once(first).chain(rest).collect::<Vec<_>>().join("\n");
        // `why` says the same.
        let why = self.sealed.strake(["why", step]);
        // How long ago something was made has grown meanwhile.
        let verdict = said.lines().nth(1).unwrap().split(" (").next().unwrap();
        assert!(why.success().contains(verdict), "{why}\n{said}");
        said
    }

    #[track_caller]
    fn check(&self, words: &[&str], step: &str, expected: &[&str]) {
        let said = self.explain(words, step);
        for text in expected {
            assert!(said.contains(text), "{words:?}: `{text}` is not in\n{said}");
        }
    }

    fn write(&self, name: &str, content: &str) {
        self.sealed.write(&format!("work/{name}"), content);
    }
}

#[test]
fn every_hit_and_miss_has_a_reason() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let context = sealed.path().join("work").display().to_string();
    let place = Place { sealed, context };
    place.write("Dockerfile", DOCKERFILE);
    place.write("src/a", "one\n");
    place.write("src/b", "two\n");
    place.sealed.write("secret", "first");
    let secret = ["--secret", "id=s,src=secret"];

    place.check(&secret, "COPY src", &["executed: this step is new"]);
    place.check(&secret, "RUN cat", &["cached: the same step was built before"]);
    // A secret's value and times of files are in no key.
    place.sealed.write("secret", "second");
    place.check(&secret, "RUN --mount", &["cached"]);
    let mut touch = Command::new("touch");
    touch.args(["-d", "@1000000000", &format!("{}/src/a", place.context)]);
    assert!(touch.status().unwrap().success());
    place.check(&secret, "COPY src", &["cached"]);
    // Files: content, mode, new, gone.
    place.write("src/a", "longer\n");
    place.check(&secret, "COPY src", &["executed, because", "file /src/a: size 4 -> 7, content"]);
    let a = place.sealed.path().join("work/src/a");
    fs::set_permissions(&a, PermissionsExt::from_mode(0o755)).unwrap();
    place.check(&secret, "COPY src", &["file /src/a: mode"]);
    place.write("src/c", "");
    place.check(&secret, "COPY src", &["file /src/c is new"]);
    fs::remove_file(place.sealed.path().join("work/src/b")).unwrap();
    place.check(&secret, "COPY src", &["file /src/b is gone"]);
    // Whoever stands on it says so.
    place.write("src/a", "again\n");
    place.check(
        &secret,
        "RUN --mount",
        &["executed, because", "COPY src /src` has another result"],
    );
    // Arguments and variables.
    let argument = [&secret[..], &["--build-arg", "VERSION=2"]].concat();
    place.check(&argument, "RUN echo", &["env.VERSION: 1 -> 2"]);
    place.write("Dockerfile", &DOCKERFILE.replace("MODE=fast", "MODE=slow"));
    place.check(&argument, "RUN echo", &["env.MODE: fast -> slow"]);
    // An edited instruction is compared with the one that stood there; one that moved with itself.
    let edited = DOCKERFILE.replace("MODE=fast", "MODE=slow").replace("echo noise", "echo other");
    place.write("Dockerfile", &edited);
    place.check(&argument, "RUN --mount", &["executed, because", "args:", "echo other"]);
    place.write("Dockerfile", &edited.replace("COPY src", "WORKDIR /w\nCOPY src"));
    let said = place.explain(&argument, "COPY src");
    assert!(!said.contains("this step is new") && said.contains("WORKDIR /w"), "{said}");
    // Without the cache, wholly and in part; the rest follows.
    place.write("Dockerfile", &edited);
    let fresh = [&argument[..], &["--no-cache"]].concat();
    place.check(&fresh, "RUN --mount", &["executed: the cache was not to be asked"]);
    // A step that makes the same again lets those after it be.
    place.check(&fresh, "COPY src", &["executed: the cache was not to be asked"]);
    place.check(&argument, "RUN cat", &["cached"]);
    // A result that was removed.
    place.sealed.strake(["rmi", "-f", "x"]);
    place.sealed.strake(["prune", "--all", "--force"]).success();
    place.check(&argument, "RUN echo", &["executed: nothing in its key changed", "gone"]);
    // Another base under the same name.
    place.sealed.write("base/Dockerfile", "FROM busybox\nRUN echo > /other\n");
    let base = place.sealed.path().join("base").display().to_string();
    place.sealed.strake(["build", "-t", "busybox", &base]).success();
    place.check(&argument, "FROM", &["the image has other layers: 1 (", " -> 2 ("]);
    place.check(&argument, "RUN echo", &["cached"]);

    // Machines still read nothing but JSON.
    let words = ["build", "--explain", "--progress=rawjson", "--secret", "id=s,src=secret"];
    let outcome = place.sealed.strake(words.iter().chain(&[place.context.as_str()]));
    outcome.success();
    for line in outcome.stderr.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("{line}"));
    }
}

const FAILS: &str = "FROM busybox
ARG V=1
COPY src /src
RUN echo one > /one
RUN test $V = 1
RUN echo never
";

#[test]
fn a_build_that_fails_says_what_was_decided_until_then() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    sealed.write("work/Dockerfile", FAILS);
    sealed.write("work/src/a", "one\n");
    let context = sealed.path().join("work").display().to_string();
    let build = |value: &str| {
        let value = format!("V={value}");
        sealed.strake(["build", "--explain", "--progress=plain", "--build-arg", &value, &context])
    };
    let why = |step: &str| sealed.strake(["why", step]).success().to_owned();
    let ending = "the build failed at `[4/5] RUN test $V = 1`";

    let outcome = build("2");
    let shown = outcome.failure(1);
    assert!(shown.contains("  executed: this step is new\n  and it failed\n"), "{outcome}");
    assert!(shown.contains(ending), "{outcome}");
    // `why` says the same, and of the steps before it that they are there now.
    let said = why("RUN echo one");
    assert!(said.contains("executed: this step is new\nthe build failed at"), "{said}");
    build("2").failure(1);
    let said = why("RUN echo one");
    assert!(said.contains("cached: the same step was built before"), "{said}");
    assert!(said.contains(ending) && !said.contains("and it failed"), "{said}");
    let said = why("RUN test");
    assert!(said.contains("executed: this step is new\n  and it failed"), "{said}");
    let unreached = sealed.strake(["why", "RUN echo never"]);
    assert!(unreached.failure(1).contains(ending), "{unreached}");

    // A build that succeeds says nothing of it; one that fails is compared with the last result.
    build("1").success();
    assert!(!sealed.strake(["why"]).success().contains("fail"));
    for value in ["2", "3"] {
        build(value).failure(1);
        let said = why("RUN test");
        assert!(said.contains(&format!("    env.V: 1 -> {value}\n")), "{said}");
        assert!(said.contains("\n  and it failed\n"), "{said}");
    }

    // What fails before it has a key.
    sealed.write("work/Dockerfile", FAILS.replace("COPY src", "COPY missing"));
    build("1").failure(1);
    let said = why("COPY missing");
    assert!(said.contains("could not be told\n  and it failed"), "{said}");
    assert!(said.contains("the build failed at `[2/5] COPY missing /src`"), "{said}");
}

#[test]
fn a_build_that_ends_before_its_steps_or_after_them_says_with_what() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let context = sealed.path().join("work").display().to_string();
    let after = |dockerfile: &str, flags: &[&str], context: &str| {
        sealed.write("work/Dockerfile", dockerfile);
        let words = [&["build"], flags, &[context]].concat();
        let shown = sealed.strake(words).failure(1).to_owned();
        (sealed.strake(["why"]).success().to_owned(), shown)
    };
    sealed.write("work/Dockerfile", "FROM busybox\nRUN echo one\n");
    sealed.strake(["build", &context]).success();
    assert!(sealed.strake(["why"]).success().contains("RUN echo one"));

    let before = "the build failed before its first step\n  error: ";
    let (said, shown) = after("FROM busybox\nRUNN x\n", &[], &context);
    assert!(said.starts_with(before), "{said}");
    for part in ["unknown instruction: RUNN", "Dockerfile:2:1", "RUNN x", "did you mean RUN?"] {
        assert!(said.contains(part) && shown.contains(part), "{part}: {said}");
    }
    let unreached = sealed.strake(["why", "RUN echo one"]);
    assert!(unreached.failure(1).contains("before its first step"), "{unreached}");
    let (said, _) = after("FROM nobody/has-this\n", &["--offline"], &context);
    assert!(said.starts_with(before) && said.contains("nobody/has-this"), "{said}");
    let (said, _) = after("FROM busybox\n", &[], "/no/such/context");
    assert!(said.starts_with(before) && said.contains("/no/such/context"), "{said}");

    // Nobody listens at that port.
    let push = ["-t", "127.0.0.1:1/pushed", "--push"];
    let (said, _) = after("FROM busybox\nRUN echo one\n", &push, &context);
    let end =
        "the build failed after its steps, at the output `type=registry`\n  error: cannot push";
    assert!(said.contains("RUN echo one\n  cached") && said.contains(end), "{said}");
    assert!(said.contains("127.0.0.1:1/pushed"), "{said}");
    let archive = ["-o", "type=oci,dest=/no/such/place/x.tar"];
    let (said, _) = after("FROM busybox\nRUN echo one\n", &archive, &context);
    assert!(said.contains("at the output `type=oci,dest=/no/such/place/x.tar`"), "{said}");

    sealed.strake(["build", &context]).success();
    assert!(!sealed.strake(["why"]).success().contains("fail"));
}

#[test]
fn a_build_that_is_interrupted_says_what_was_decided_until_then() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let dockerfile = "FROM busybox\nRUN echo one > /one\nRUN echo it-$((1+1)); sleep 60\n";
    sealed.write("work/Dockerfile", dockerfile);
    let context = sealed.path().join("work").display().to_string();
    let mut command = sealed.strake_command(["build", "--progress=plain", &context]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("it-2"))), "it never ran");
    std::thread::spawn(move || lines.for_each(drop));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));

    let outcome = sealed.strake(["why"]);
    let said = outcome.success();
    let one = "[2/3] RUN echo one > /one\n  executed: this step is new\n[3/3]";
    assert!(said.contains(one), "{said}");
    let cut = "executed: this step is new\n  and it was not done when the build ended\n";
    assert!(said.contains(cut), "{said}");
    assert!(said.contains("the build was cancelled at `[3/3] RUN echo it-"), "{said}");
}
