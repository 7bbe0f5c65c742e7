//! Equal steps of builds at the same time: one of them runs, in whichever process.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::sealed::{Identity, Sealed};

/// How long a step may take to come as far as it says.
const PATIENCE: Duration = Duration::from_secs(60);

/// Each run of the step adds a line to the log, and goes on when it is told to.
const SLOW: &str = "FROM busybox
RUN --mount=type=cache,id=seen,target=/seen \\
    echo run >> /seen/log && while [ ! -e /seen/go ]; do sleep 0.02; done && \\
    cat /proc/sys/kernel/random/uuid > /id
";

struct Place {
    sealed: Sealed,
    context: String,
}

impl Place {
    fn new() -> Place {
        let sealed = Sealed::with_busybox(Identity::Caller);
        sealed.write("work/Dockerfile", SLOW);
        let context = sealed.path().join("work").display().to_string();
        Place { sealed, context }
    }

    fn start(&self, tag: &str) -> Child {
        let words = ["build", "--progress", "plain", "-t", tag, &self.context];
        let mut command = self.sealed.strake_command(words);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The directory that the step sees, once it is there.
    fn seen(&self) -> Option<PathBuf> {
        let mounts = fs::read_dir(self.sealed.path().join("store/cache-mounts")).ok()?;
        mounts.flatten().map(|mount| mount.path().join("data")).find(|data| data.exists())
    }

    fn runs(&self) -> usize {
        let log = self.seen().and_then(|seen| fs::read_to_string(seen.join("log")).ok());
        log.unwrap_or_default().lines().count()
    }

    fn until_it_has_run(&self, times: usize) {
        let started = Instant::now();
        while self.runs() < times {
            assert!(started.elapsed() < PATIENCE, "the step ran {} times", self.runs());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn go_on(&self) {
        fs::write(self.seen().unwrap().join("go"), "").unwrap();
    }

    fn id(&self, tag: &str) -> String {
        self.sealed.strake(["run", "--rm", tag, "cat", "/id"]).success().to_owned()
    }

    fn claims(&self) -> usize {
        fs::read_dir(self.sealed.path().join("store/claims-v1")).unwrap().count()
    }
}

/// Reads what a build says until it says that it waits; the rest is read beside it.
fn until_it_waits(child: &mut Child) {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    let waits = lines.by_ref().map(Result::unwrap).any(|line| {
        said.push(line.clone());
        line.contains("waiting for another build that runs this step")
    });
    assert!(waits, "the second build did not wait:\n{}", said.join("\n"));
    std::thread::spawn(move || lines.for_each(drop));
}

#[test]
fn two_processes_run_a_step_once() {
    let place = Place::new();
    let mut first = place.start("first");
    place.until_it_has_run(1);
    let mut second = place.start("second");
    until_it_waits(&mut second);
    place.go_on();
    assert!(first.wait().unwrap().success());
    assert!(second.wait().unwrap().success());
    assert_eq!(place.runs(), 1);
    assert_eq!(place.id("first"), place.id("second"));
    assert_eq!(place.claims(), 0);
}

#[test]
fn when_a_build_is_killed_the_one_that_waited_goes_on_by_itself() {
    let place = Place::new();
    let mut first = place.start("first");
    place.until_it_has_run(1);
    let mut second = place.start("second");
    until_it_waits(&mut second);
    first.kill().unwrap();
    first.wait().unwrap();
    place.until_it_has_run(2);
    place.go_on();
    assert!(second.wait().unwrap().success());
    assert_eq!(place.runs(), 2);
    place.id("second");
    assert_eq!(place.claims(), 0);
}

#[test]
fn a_build_that_waits_can_be_interrupted() {
    let place = Place::new();
    let mut first = place.start("first");
    place.until_it_has_run(1);
    let mut second = place.start("second");
    until_it_waits(&mut second);
    let interrupted = Instant::now();
    let pid = rustix::process::Pid::from_child(&second);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(second.wait().unwrap().code(), Some(130));
    assert!(interrupted.elapsed() < Duration::from_secs(5), "{:?}", interrupted.elapsed());
    place.go_on();
    assert!(first.wait().unwrap().success());
    assert_eq!(place.runs(), 1);
}
