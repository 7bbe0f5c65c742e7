//! `strake build`: what is built again, what is not, and what is left when something goes wrong.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use rustix::process::{Pid, Signal, kill_process};

use crate::oci::Image;
use crate::sealed::{Identity, Outcome, Sealed, run};

/// Writes a Dockerfile into the context `name` of this place.
fn context(sealed: &Sealed, name: &str, dockerfile: &str) -> String {
    sealed.write(&format!("{name}/Dockerfile"), dockerfile);
    sealed.path().join(name).display().to_string()
}

fn show(sealed: &Sealed, image: &str, path: &str) -> String {
    sealed.strake(["run", "--rm", image, "cat", path]).success().to_owned()
}

const STAMPS: &str = "FROM busybox AS tools
RUN cat /proc/sys/kernel/random/uuid > /tools
FROM busybox
ENV A=1
WORKDIR /work
RUN cat /proc/sys/kernel/random/uuid > /first
COPY --from=tools /tools /tools
COPY file /work/
RUN cat /proc/sys/kernel/random/uuid > /second
LABEL l=1
EXPOSE 80
CMD [\"true\"]
";

#[test]
fn a_second_build_executes_nothing() {
    for &identity in Identity::all() {
        let sealed = Sealed::with_busybox(identity);
        let context = context(&sealed, "context", STAMPS);
        sealed.write("context/file", "1");
        let build = |id: &str| {
            let id = sealed.path().join("tmp").join(id).display().to_string();
            sealed.strake(["build", "-t", "stamps", "--iidfile", &id, &context]).success();
            fs::read_to_string(id).unwrap()
        };
        let first = build("first");
        let stamps = |sealed: &Sealed| {
            ["/tools", "/first", "/second"].map(|path| show(sealed, "stamps", path))
        };
        let before = stamps(&sealed);
        assert_eq!(first, build("second"), "the image of {identity:?} changed");
        assert_eq!(before, stamps(&sealed), "a step of {identity:?} ran again");
    }
}

#[test]
fn a_changed_file_runs_the_steps_below_it_and_no_other() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let context = context(&sealed, "context", STAMPS);
    sealed.write("context/file", "1");
    sealed.write("context/unused", "1");
    sealed.strake(["build", "-t", "one", &context]).success();
    sealed.write("context/file", "2");
    sealed.write("context/unused", "2");
    sealed.strake(["build", "-t", "two", &context]).success();
    assert_eq!(show(&sealed, "one", "/tools"), show(&sealed, "two", "/tools"));
    assert_eq!(show(&sealed, "one", "/first"), show(&sealed, "two", "/first"));
    assert_ne!(show(&sealed, "one", "/second"), show(&sealed, "two", "/second"));
    assert_eq!(show(&sealed, "two", "/work/file"), "2");
}

#[test]
fn times_and_owners_of_the_context_do_not_matter_to_the_cache() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let context = context(&sealed, "context", STAMPS);
    let file = sealed.write("context/file", "1");
    sealed.strake(["build", "-t", "one", &context]).success();
    fs::remove_file(&file).unwrap();
    sealed.write("context/file", "1");
    sealed.strake(["build", "-t", "two", &context]).success();
    assert_eq!(show(&sealed, "one", "/second"), show(&sealed, "two", "/second"));
}

#[test]
fn a_step_whose_result_is_the_same_leaves_later_steps_cached() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let dockerfile = "FROM busybox\nCOPY file /in\nRUN wc -c < /in > /size && rm /in\n\
                      RUN cat /proc/sys/kernel/random/uuid > /stamp\n";
    let multi = "FROM busybox AS size\nCOPY file /in\nRUN wc -c < /in > /size\n\
                 FROM busybox\nCOPY --from=size /size /size\n\
                 RUN cat /proc/sys/kernel/random/uuid > /stamp\n";
    let contexts = [context(&sealed, "one", dockerfile), context(&sealed, "two", multi)];
    let context = &contexts[1];
    sealed.write("two/file", "aaa");
    sealed.strake(["build", "-t", "before", context]).success();
    sealed.write("two/file", "bbb");
    sealed.strake(["build", "-t", "after", context]).success();
    assert_eq!(show(&sealed, "before", "/stamp"), show(&sealed, "after", "/stamp"));
}

#[test]
fn a_step_without_changes_is_a_layer_whatever_the_cache_holds() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let layers = |name: &str, steps: &str| {
        let context = context(&sealed, name, &format!("FROM busybox\n{steps}"));
        let output = sealed.path().join(name).join("image.tar");
        let destination = format!("type=oci,dest={}", output.display());
        sealed.strake(["build", "-o", &destination, &context]).success();
        let layers = Image::read_archive(&output).layers;
        layers[1..].iter().map(std::collections::BTreeMap::len).collect::<Vec<_>>()
    };
    assert_eq!(layers("without", "WORKDIR /w\n"), [1]);
    assert_eq!(layers("with", "RUN true\nWORKDIR /w\nRUN true\n"), [0, 1, 0]);
}

#[test]
fn no_cache_executes_every_step() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let context = context(&sealed, "context", STAMPS);
    sealed.write("context/file", "1");
    sealed.strake(["build", "-t", "one", &context]).success();
    sealed.strake(["build", "-t", "two", "--no-cache", &context]).success();
    for path in ["/tools", "/first", "/second"] {
        assert_ne!(show(&sealed, "one", path), show(&sealed, "two", path), "{path}");
    }
}

#[test]
fn independent_stages_run_at_the_same_time() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    // Each stage waits until it sees the other's file in a shared cache mount.
    let stage = |mine: &str, other: &str| {
        format!(
            "FROM busybox AS {mine}\nRUN --mount=type=cache,target=/meet touch /meet/{mine}; \
             for i in $(seq 1 200); do [ -e /meet/{other} ] && exit 0; sleep 0.1; done; exit 1\n"
        )
    };
    let dockerfile = stage("left", "right")
        + &stage("right", "left")
        + "FROM busybox\nCOPY --from=left /etc/passwd /l\nCOPY --from=right /etc/passwd /r\n";
    let context = context(&sealed, "context", &dockerfile);
    sealed.strake(["build", &context]).success();
}

#[test]
fn builds_at_the_same_time_share_one_store() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let context = context(&sealed, "context", STAMPS);
    sealed.write("context/file", "1");
    let names = ["a", "b", "c"];
    let children: Vec<Child> = names
        .iter()
        .map(|name| {
            let mut command = sealed.strake_command(["build", "-q", "-t", name, &context]);
            command.stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    for name in names {
        assert_eq!(show(&sealed, name, "/work/file"), "1");
    }
}

#[test]
fn quiet_prints_the_image_id_alone() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let context = context(&sealed, "context", "FROM busybox\nRUN echo noise\n");
    let outcome = sealed.strake(["build", "-q", &context]);
    let id = outcome.success().trim_end();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{outcome}");
    assert_eq!(outcome.stderr, "");
    let again = sealed.strake(["run", "--rm", id, "echo", "by id"]);
    assert_eq!(again.success(), "by id\n");
}

#[test]
fn a_secret_leaves_no_byte_in_the_store() {
    const SECRET: &str = "hunter2-correct-horse-battery-staple";
    let mut sealed = Sealed::with_busybox(Identity::Caller);
    sealed.set("SECRET_VALUE", SECRET);
    let file = sealed.write("secret", SECRET).display().to_string();
    let context = context(
        &sealed,
        "context",
        "FROM busybox\n\
         RUN --mount=type=secret,id=file cmp /run/secrets/file /run/secrets/file\n\
         RUN --mount=type=secret,id=env,env=TOKEN test -n \"$TOKEN\"\n\
         RUN --mount=type=secret,id=file,target=/root/deep/er/secret,required test -s /root/deep/er/secret\n",
    );
    let file = format!("id=file,src={file}");
    let outcome = sealed.strake([
        "build",
        "-t",
        "x",
        "--progress=plain",
        "--secret",
        &file,
        "--secret",
        "id=env,env=SECRET_VALUE",
        &context,
    ]);
    outcome.success();
    assert!(!outcome.stderr.contains(SECRET) && !outcome.stdout.contains(SECRET), "{outcome}");
    let found = run(
        {
            let mut command = sealed.command("grep");
            command.args(["-r", "-l", "-a", "-F", SECRET]).arg(sealed.path().join("store"));
            command
        },
        Duration::from_secs(60),
    );
    assert_eq!(found.code, 1, "the secret is in: {}", found.stdout);
}

#[test]
fn outputs_other_than_the_store() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let context = context(
        &sealed,
        "context",
        "FROM busybox AS b\nRUN mkdir /d && echo x > /d/x && chmod 640 /d/x && ln -s x /d/l\n\
         FROM scratch\nCOPY --from=b /d /d\nCMD [\"x\"]\n",
    );
    let path = |name: &str| sealed.path().join(name).display().to_string();

    let local = format!("type=local,dest={}", path("local"));
    sealed.strake(["build", "-o", &local, &context]).success();
    assert_eq!(fs::read_to_string(path("local/d/x")).unwrap(), "x\n");
    assert_eq!(fs::read_link(path("local/d/l")).unwrap().to_str(), Some("x"));

    let tar = format!("type=tar,dest={}", path("rootfs.tar"));
    sealed.strake(["build", "-o", &tar, &context]).success();
    let layer = crate::oci::read_layer(&fs::read(path("rootfs.tar")).unwrap());
    assert_eq!(layer["d/x"].mode, 0o640);

    let oci = format!("type=oci,dest={}", path("oci.tar"));
    sealed.strake(["build", "-o", &oci, &context]).success();
    let image = Image::read_archive(path("oci.tar").as_ref());
    assert_eq!(image.configuration["config"]["Cmd"][0], "x");
    assert_eq!(image.layers.len(), 1);

    let docker = format!("type=docker,dest={}", path("docker.tar"));
    sealed.strake(["build", "-t", "two/names:1", "-o", &docker, &context]).success();
    let mut skopeo = sealed.command("skopeo");
    skopeo.args(["inspect", "--config", &format!("docker-archive:{}", path("docker.tar"))]);
    assert!(run(skopeo, Duration::from_secs(60)).success().contains("\"Cmd\""));
}

#[test]
fn a_dockerfile_and_a_tar_on_standard_input_are_contexts() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let dockerfile = sealed.write("in/Dockerfile", "FROM busybox\nRUN echo piped > /x\n");
    let mut command = sealed.strake_command(["build", "-t", "piped", "-"]);
    command.stdin(fs::File::open(dockerfile).unwrap().into_file());
    run(command, Duration::from_secs(60)).success();
    assert_eq!(show(&sealed, "piped", "/x"), "piped\n");

    sealed.write("in/Dockerfile", "FROM busybox\nCOPY f /f\n");
    sealed.write("in/f", "from a tar\n");
    let mut tar = sealed.command("tar");
    tar.args(["-cf", "context.tar", "-C", "in", "."]);
    run(tar, Duration::from_secs(60)).success();
    let mut command = sealed.strake_command(["build", "-t", "tarred", "-"]);
    command.stdin(fs::File::open(sealed.path().join("context.tar")).unwrap().into_file());
    run(command, Duration::from_secs(60)).success();
    assert_eq!(show(&sealed, "tarred", "/f"), "from a tar\n");
}

/// Mistakes that are no case of `testdata/build`: what the machine or the command line lacks.
#[test]
fn mistakes_are_named_and_exit_with_1() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let good = context(&sealed, "good", "FROM busybox\n");
    let empty = sealed.path().join("empty").display().to_string();
    fs::create_dir(&empty).unwrap();
    let path = |name: &str| sealed.path().join(name).display().to_string();
    let binary = path("binary");
    fs::create_dir(&binary).unwrap();
    fs::write(path("binary/Dockerfile"), b"FROM busybox\nRUN echo \xff\xfe\n").unwrap();
    let unreachable = context(&sealed, "unreachable", "FROM 127.0.0.1:1/none/such:1\n");
    let check = |arguments: &[&str], words: &[&str]| {
        let outcome = sealed.strake(arguments);
        let message = outcome.failure(1);
        for word in words {
            assert!(message.contains(word), "`{word}` is not said: {outcome}");
        }
        assert!(!message.contains("panicked"), "{outcome}");
    };
    check(&["build", &path("nowhere")], &["nowhere"]);
    check(&["build", &empty], &["Dockerfile"]);
    check(&["build", "-f", &path("nofile"), &good], &["nofile"]);
    check(&["build", &binary], &["Dockerfile", "UTF-8"]);
    check(&["build", "-t", "Upper/Case", &good], &["Upper/Case"]);
    check(&["build", "--target", "nope", &good], &["nope"]);
    check(&["build", "-o", "type=nope,dest=x", &good], &["nope"]);
    check(&["build", &unreachable], &["127.0.0.1:1/none/such:1", "Dockerfile:1"]);
    check(&["build", "--secret", "id=x,src=/no/such/secret", &good], &["/no/such/secret"]);
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let state = sealed.path().join("store/state.json");
    let mut json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&state).unwrap()).unwrap();
    let version = json
        .as_object_mut()
        .unwrap()
        .values_mut()
        .find(|value| value.is_u64())
        .expect("state.json has a version");
    *version = 999.into();
    fs::write(&state, json.to_string()).unwrap();
    let outcome = sealed.strake(["images"]);
    assert!(outcome.failure(1).contains("newer"), "{outcome}");
    assert_eq!(fs::read_to_string(&state).unwrap(), json.to_string());
}

/// A build that is stopped while a step runs: `marker` is what its process is found by.
struct Stopped {
    child: Child,
    marker: String,
    sealed: Sealed,
    context: String,
}

/// Starts a build and returns when its second step runs.
fn running_build(identity: Identity, seconds: &str) -> Stopped {
    let sealed = Sealed::with_busybox(identity);
    let marker = format!("{seconds}.{}", std::process::id());
    let context = context(
        &sealed,
        "context",
        &format!("FROM busybox\nRUN echo one > /one\nRUN echo it-runs; sleep {marker}\n"),
    );
    let mut command = sealed.strake_command(["build", "--progress=plain", &context]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // The command itself is shown too; its output is the line that holds these words alone.
    let seen = lines
        .any(|line| line.is_ok_and(|line| line.contains("it-runs") && !line.contains("sleep")));
    assert!(seen, "the step never ran");
    std::thread::spawn(move || lines.for_each(drop));
    Stopped { child, marker, sealed, context }
}

/// The processes whose command line holds `marker`.
fn processes(marker: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    all.filter_map(|entry| fs_err::read(entry.path().join("cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|line| line.contains(marker))
        .collect()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(10), "still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn interrupt_ends_a_build_at_once_and_leaves_nothing() {
    for &identity in Identity::all() {
        let mut stopped = running_build(identity, "70001");
        let pid = Pid::from_child(&stopped.child);
        let started = Instant::now();
        kill_process(pid, Signal::INT).unwrap();
        let status = stopped.child.wait().unwrap();
        let elapsed = started.elapsed();
        assert!(!status.success());
        assert!(elapsed < Duration::from_secs(1), "{identity:?} took {elapsed:?}");
        assert_eq!(processes(&stopped.marker), Vec::<String>::new(), "{identity:?}");
        assert_no_mounts(&stopped.sealed);
    }
}

#[test]
fn after_kill_9_nothing_runs_on_and_the_next_build_is_right() {
    for &identity in Identity::all() {
        let mut stopped = running_build(identity, "70002");
        stopped.child.kill().unwrap();
        stopped.child.wait().unwrap();
        wait_until("the step's processes are gone", || processes(&stopped.marker).is_empty());
        assert_no_mounts(&stopped.sealed);
        let sealed = &stopped.sealed;
        sealed.write(
            "context/Dockerfile",
            "FROM busybox\nRUN echo one > /one\nRUN echo two > /two\n",
        );
        sealed.strake(["build", "-t", "after", &stopped.context]).success();
        assert_eq!(show(sealed, "after", "/one"), "one\n");
        assert_eq!(show(sealed, "after", "/two"), "two\n");
    }
}

fn assert_no_mounts(sealed: &Sealed) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = sealed.path().display().to_string();
    assert!(!mounts.contains(&place), "a mount of {place} is left:\n{mounts}");
}

#[test]
fn a_failing_step_shows_its_lines_and_last_output() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let context =
        context(&sealed, "context", "FROM busybox\nRUN echo last words && \\\n    exit 42\n");
    for mode in ["plain", "quiet", "rawjson"] {
        let outcome: Outcome = sealed.strake(["build", "--progress", mode, &context]);
        let message = outcome.failure(1);
        for words in ["Dockerfile:2", "42", "last words"] {
            assert!(message.contains(words), "{mode} does not say `{words}`: {outcome}");
        }
    }
}

#[test]
fn plain_progress_has_buildkits_lines() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let context = context(&sealed, "context", "FROM busybox AS first\nRUN echo hello-from-run\n");
    let first = sealed.strake(["build", "--progress=plain", &context]);
    first.success();
    let line = |outcome: &Outcome, words: &[&str]| {
        let found = outcome
            .stderr
            .lines()
            .any(|line| line.starts_with('#') && words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?}: {outcome}");
    };
    line(&first, &["[2/2] RUN echo hello-from-run"]);
    line(&first, &["hello-from-run"]);
    line(&first, &["DONE"]);
    let second = sealed.strake(["build", "--progress=plain", &context]);
    second.success();
    line(&second, &["CACHED"]);
    assert!(
        !second
            .stderr
            .lines()
            .any(|line| line.ends_with("hello-from-run") && !line.contains("RUN"))
    );
}
