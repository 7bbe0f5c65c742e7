//! RUN.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::Identity;
use solver::llb::{Environment, MountKind, NetworkMode, Op, SecretEnv, SecurityMode, Sharing};
use solver::{LogSink, OpError, Worker};

use crate::Case;
use crate::scene::{Machine, Scene, contains_bytes, eventually, mount, secret, shell, vertex};

pub(crate) const CASES: &[Case] = &[
    ("a_step_changes_its_root_and_leaves_no_stubs", a_step_changes_its_root_and_leaves_no_stubs),
    ("a_step_that_changes_nothing_is_a_layer_too", a_step_that_changes_nothing_is_a_layer_too),
    ("a_failed_step_says_how_it_ended", a_failed_step_says_how_it_ended),
    ("a_program_that_is_not_there_is_an_error", a_program_that_is_not_there_is_an_error),
    ("a_step_sees_what_buildkit_shows", a_step_sees_what_buildkit_shows),
    ("the_working_directory_is_made_for_the_user", the_working_directory_is_made_for_the_user),
    ("an_unknown_or_impossible_user_runs_nothing", an_unknown_or_impossible_user_runs_nothing),
    ("a_secret_leaves_no_byte", a_secret_leaves_no_byte),
    ("a_missing_secret_fails_only_who_requires_it", a_missing_secret_fails_only_who_requires_it),
    ("a_cache_mount_outlives_its_step", a_cache_mount_outlives_its_step),
    ("a_bind_of_a_stage_is_read_only_or_scratch", a_bind_of_a_stage_is_read_only_or_scratch),
    ("a_bind_of_the_context_hides_what_is_ignored", a_bind_of_the_context_hides_what_is_ignored),
    ("a_tmpfs_has_its_size", a_tmpfs_has_its_size),
    (
        "an_agent_has_a_socket_and_without_one_there_is_the_variable",
        an_agent_has_a_socket_and_without_one_there_is_the_variable,
    ),
    ("without_network_there_is_only_loopback", without_network_there_is_only_loopback),
    ("what_needs_leave_is_refused_without_it", what_needs_leave_is_refused_without_it),
    ("a_cancelled_step_is_gone_within_a_second", a_cancelled_step_is_gone_within_a_second),
    ("a_background_process_ends_with_its_step", a_background_process_ends_with_its_step),
];

fn a_step_changes_its_root_and_leaves_no_stubs(machine: &Machine) {
    let scene = Scene::new(machine);
    let mounts = vec![mount("/run/x/y", MountKind::Tmpfs { size: None, readonly: false })];
    let ran = scene.run_with("echo hi >/tmp/new && rm /etc/group && echo err >&2", |op| {
        op.mounts = mounts;
    });
    assert_eq!(ran.log, "err\n");
    let layer = scene.layer(&ran.output());
    // Empty /dev, /proc and /sys stay, as in BuildKit; files in /etc and mount targets do not.
    let seen = ["dev", "etc", "etc/.wh.group", "proc", "sys", "tmp", "tmp/new"];
    assert_eq!(layer, seen);
}

fn a_step_that_changes_nothing_is_a_layer_too(machine: &Machine) {
    let scene = Scene::new(machine);
    let first = scene.run("true").input();
    let second = scene.run_on(first.clone(), "true").output();
    assert_eq!(scene.layer(&second), [] as [&str; 0]);
    let snapshot = scene.store.snapshots().get(&second.snapshot.unwrap()).unwrap().unwrap();
    assert_eq!(snapshot.layers().count(), 3);
    let touched = fs_err::read_dir(snapshot.upper()).unwrap().count();
    assert_eq!(touched, 0, "mounting over files in /etc copied it up");
    assert_eq!(snapshot.created(), "2024-01-01T00:00:00Z");
}

fn a_failed_step_says_how_it_ended(machine: &Machine) {
    let scene = Scene::new(machine);
    let error = scene.run("echo one; echo two >&2; exit 7").result.unwrap_err();
    let OpError::Exit { command, code, signal, log_tail, .. } = &error else { panic!("{error}") };
    assert_eq!((code, signal), (&Some(7), &None));
    assert_eq!(command, "/bin/sh -c echo one; echo two >&2; exit 7");
    let mut tail = log_tail.clone();
    tail.sort();
    assert_eq!(tail, ["one", "two"]);
    let error = scene.run("sh -c 'kill -9 $$'; exit $?").result.unwrap_err();
    assert!(matches!(error, OpError::Exit { code: Some(137), .. }), "{error}");
    assert_eq!(scene.store.snapshots().list().unwrap().len(), 1, "a failed step left a snapshot");
}

fn a_program_that_is_not_there_is_an_error(machine: &Machine) {
    let scene = Scene::new(machine);
    let ran = scene.run_with("", |op| op.args = vec!["no-such-program".into()]);
    let error = ran.error();
    assert!(error.contains("no-such-program"), "{error}");
}

fn a_step_sees_what_buildkit_shows(machine: &Machine) {
    let scene = Scene::new(machine);
    let script = "hostname; echo $HOME $PATH $A $B; cat /etc/hosts | head -1; id -u; pwd; echo $$; \
                  cat /dev/null; test -s /etc/resolv.conf && echo dns; \
                  test -e /etc/hostname || echo no file of the name";
    let log = scene.run_with(script, |op| {
        op.env = Environment::from_iter([("A", "1"), ("A", "2")]);
        op.proxy_env = vec![("B".into(), "proxy".into())];
        op.cwd = "/root/deep/er".into();
    });
    assert_eq!(
        log.log(),
        "buildkitsandbox\n\
         /root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin 2 proxy\n\
         127.0.0.1\tlocalhost buildkitsandbox\n0\n/root/deep/er\n1\ndns\nno file of the name\n"
    );
}

fn the_working_directory_is_made_for_the_user(machine: &Machine) {
    if let Identity::Single { reason, .. } = &machine.isolation.identity {
        println!("  no second user to try: {reason}");
        return;
    }
    let scene = Scene::new(machine);
    let ran = scene.run_with("stat -c '%u:%g %a' /w /w/x; id -u; id -G; echo $HOME", |op| {
        op.user = "app".into();
        op.cwd = "/w/x".into();
    });
    assert_eq!(ran.log(), "1000:1000 755\n1000:1000 755\n1000\n1000 2000\n/home/app\n");
}

fn an_unknown_or_impossible_user_runs_nothing(machine: &Machine) {
    let scene = Scene::new(machine);
    for (user, expected) in [
        ("ap", "unable to find user ap: no matching entries in passwd file"),
        ("4294967296", "`4294967296` is not a user or group id"),
        ("-1", "`-1` is not a user or group id"),
    ] {
        let error = scene.run_with("true", |op| op.user = user.into()).error();
        assert!(error.contains(expected), "{user}: {error}");
    }
}

fn a_secret_leaves_no_byte(machine: &Machine) {
    let mut scene = Scene::new(machine);
    let value = "s3cr3t-that-nobody-may-find";
    scene.secrets.insert_value("token", value);
    let script = "wc -c </run/secrets/token; stat -c %a /run/secrets/token; \
                  test \"$T\" = \"$(cat /run/secrets/token)\" && test \"$U\" = \"$T\" && echo same; \
                  touch /done";
    let ran = scene.run_with(script, |op| {
        op.mounts = vec![mount("/run/secrets/token", secret("token", Some("T"), true))];
        op.secret_env = vec![SecretEnv { name: "U".into(), id: "token".into(), required: true }];
    });
    assert_eq!(ran.log, format!("{}\n400\nsame\n", value.len()));
    let layer = scene.layer(&ran.output());
    assert!(!layer.iter().any(|name| name.starts_with("run")), "{layer:?}");
    assert_eq!(contains_bytes(scene.dir.path(), value.as_bytes()), None);
}

fn a_missing_secret_fails_only_who_requires_it(machine: &Machine) {
    let scene = Scene::new(machine);
    let log = scene.run_with("test -e /run/secrets/x || echo \"none ${T-unset}\"", |op| {
        op.mounts = vec![mount("/run/secrets/x", secret("x", Some("T"), true))];
    });
    assert_eq!(log.log(), "none \n", "the variable is there, and empty");
    let error = scene.run_with("true", |op| {
        op.secret_env = vec![SecretEnv { name: "U".into(), id: "x".into(), required: true }];
    });
    assert_eq!(error.error(), "secret x: not found");
}

fn cache_mount(id: &str, sharing: Sharing) -> MountKind {
    MountKind::Cache {
        id: id.into(),
        sharing,
        input: None,
        mode: 0o755,
        uid: 0,
        gid: 0,
        readonly: false,
    }
}

fn a_cache_mount_outlives_its_step(machine: &Machine) {
    let scene = Scene::new(machine);
    for (sharing, expected) in
        [(Sharing::Shared, "1\n"), (Sharing::Locked, "2\n"), (Sharing::Private, "3\n")]
    {
        let ran = scene.run_with("echo x >>/c/d/count; wc -l </c/d/count", |op| {
            op.mounts = vec![mount("/c/d", cache_mount("count", sharing))];
        });
        assert_eq!(ran.log, expected);
        assert_eq!(scene.layer(&ran.output()), ["dev", "proc", "sys"]);
    }
    let mut fresh = shell("ls /c");
    fresh.mounts = vec![mount("/c", cache_mount("count", Sharing::Shared))];
    let mut fresh = vertex(Op::Exec(fresh));
    fresh.meta.no_cache = true;
    assert_eq!(scene.exec(fresh, vec![scene.base()]).log(), "");
}

fn a_bind_of_a_stage_is_read_only_or_scratch(machine: &Machine) {
    let scene = Scene::new(machine);
    let script = "mkdir -p /src/d && echo one >/src/d/f && ln -s / /src/root";
    let stage = scene.run(script).input();
    let bind = |writable| MountKind::Bind { input: 1, source: "/src".into(), writable };
    let run = |script: &str, kind: MountKind| {
        let mut op = shell(script);
        op.mounts = vec![mount("/m", kind)];
        scene.exec(vertex(Op::Exec(op)), vec![scene.base(), stage.clone()])
    };
    assert_eq!(
        run("cat /m/d/f; echo x 2>/dev/null >/m/y || echo ro", bind(false)).log(),
        "one\nro\n"
    );
    let ran = run("echo two >/m/d/f; cat /m/d/f", bind(true));
    assert_eq!(ran.log, "two\n");
    assert_eq!(scene.layer(&ran.output()), ["dev", "proc", "sys"]);
    assert_eq!(run("cat /m/d/f", bind(true)).log(), "one\n", "writes were kept");
    // A link to / means the root of the stage, not ours.
    let link = MountKind::Bind { input: 1, source: "/src/root".into(), writable: false };
    assert_eq!(run("ls /m/src", link).log(), "d\nroot\n");
    let missing = MountKind::Bind { input: 1, source: "/srx".into(), writable: false };
    assert!(run("true", missing).error().contains("`/srx` is not in the source stage"));
}

fn a_bind_of_the_context_hides_what_is_ignored(machine: &Machine) {
    let scene = Scene::new(machine);
    scene.write("a/kept", "kept");
    scene.write("a/secret.key", "no");
    let mut op = shell("ls /m; stat -c %u /m/kept; echo x >/m/kept; cat /m/kept");
    let kind = MountKind::Bind { input: 1, source: "/a".into(), writable: true };
    op.mounts = vec![mount("/m", kind)];
    let inputs = vec![scene.base(), scene.context_input(&["**/*.key"])];
    assert_eq!(scene.exec(vertex(Op::Exec(op)), inputs).log(), "kept\n0\nx\n");
    assert_eq!(fs_err::read_to_string(scene.context().join("a/kept")).unwrap(), "kept");
}

fn a_tmpfs_has_its_size(machine: &Machine) {
    let scene = Scene::new(machine);
    let ran = scene.run_with("df -k /t | head -2; touch /t/x", |op| {
        op.mounts = vec![mount("/t", MountKind::Tmpfs { size: Some(1 << 20), readonly: false })];
    });
    assert!(ran.log.contains(" 1024 "), "{}", ran.log);
    assert_eq!(scene.layer(&ran.output()), ["dev", "proc", "sys"]);
}

fn an_agent_has_a_socket_and_without_one_there_is_the_variable(machine: &Machine) {
    let mut scene = Scene::new(machine);
    let kind =
        |required| MountKind::Ssh { id: "default".into(), required, mode: 0o600, uid: 0, gid: 0 };
    let target = "/run/buildkit/ssh_agent.0";
    let log = scene.run_with("echo $SSH_AUTH_SOCK; test -e $SSH_AUTH_SOCK || echo none", |op| {
        op.mounts = vec![mount(target, kind(false))];
    });
    assert_eq!(log.log(), format!("{target}\nnone\n"));
    let error = scene.run_with("true", |op| op.mounts = vec![mount(target, kind(true))]).error();
    assert_eq!(error, "unset ssh forward key default");

    let path = scene.dir.path().join("agent");
    let _agent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    scene.ssh.insert("default", &path);
    let ran = scene.run_with("test -S $SSH_AUTH_SOCK && stat -c %a $SSH_AUTH_SOCK", |op| {
        op.mounts = vec![mount(target, kind(true))];
    });
    assert_eq!(ran.log, "600\n");
    assert_eq!(scene.layer(&ran.output()), ["dev", "proc", "sys"]);
}

fn without_network_there_is_only_loopback(machine: &Machine) {
    let scene = Scene::new(machine);
    let ran = scene.run_with("ls /sys/class/net", |op| op.network = NetworkMode::None);
    assert_eq!(ran.log(), "lo\n");
}

fn what_needs_leave_is_refused_without_it(machine: &Machine) {
    let mut scene = Scene::new(machine);
    let host = |scene: &Scene| scene.run_with("true", |op| op.network = NetworkMode::Host);
    let insecure =
        |scene: &Scene| scene.run_with("true", |op| op.security = SecurityMode::Insecure);
    assert_eq!(host(&scene).error(), "network.host is not allowed");
    assert_eq!(insecure(&scene).error(), "security.insecure is not allowed");
    scene.allow = vec!["network.host".into(), "security.insecure".into()];
    host(&scene).output();
    insecure(&scene).output();
}

fn a_cancelled_step_is_gone_within_a_second(machine: &Machine) {
    let scene = Scene::new(machine);
    let worker = scene.worker();
    let mark = format!("{}", 700_000 + std::process::id() % 100_000);
    let before = scene.store.snapshots().list().unwrap();
    scene.runtime.block_on(async {
        let step = vertex(Op::Exec(shell(&format!("sleep {mark} & sleep {mark}"))));
        let exec = worker.exec(Arc::new(step), vec![scene.base()], LogSink::nobody());
        let limit = Duration::from_secs(60);
        tokio::select! {
            _ = exec => panic!("a long sleep ended"),
            _ = async {
                let start = Instant::now();
                while sleepers(&mark) < 2 && start.elapsed() < limit {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            } => {}
        }
    });
    let start = Instant::now();
    eventually("a cancelled process lives on", || sleepers(&mark) == 0);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(scene.store.snapshots().list().unwrap(), before);
    let left = fs_err::read_dir(scene.base.upper().parent().unwrap().parent().unwrap()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 1, "an active snapshot stays behind: {left:?}");
}

/// Processes with `mark` among their arguments.
fn sleepers(mark: &str) -> usize {
    let is_ours = |entry: std::io::Result<fs_err::DirEntry>| -> Option<()> {
        let cmdline = fs_err::read(entry.ok()?.path().join("cmdline")).ok()?;
        let mut words = cmdline.split(|&b| b == 0);
        (words.next()? == b"sleep" && words.next()? == mark.as_bytes()).then_some(())
    };
    fs_err::read_dir("/proc").unwrap().filter_map(is_ours).count()
}

fn a_background_process_ends_with_its_step(machine: &Machine) {
    let scene = Scene::new(machine);
    let start = Instant::now();
    let log = scene.run("sleep 600 & yes >/dev/null & echo done").log();
    assert_eq!(log, "done\n");
    assert!(start.elapsed() < Duration::from_secs(10));
}
