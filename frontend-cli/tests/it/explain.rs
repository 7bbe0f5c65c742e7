//! `strake why` and `build --explain`: which ingredient of which step made the cache miss or hit.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use fs_err as fs;

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
