//! The process itself: how it is found, started, told its place, and how it ends.

use std::time::{Duration, Instant};

use runtime::{ContainerIo, RuntimeError, Stage, Stdin};

use crate::harness::Role;
use crate::sandbox::{Sandbox, mount};

cases! {
    EVERYBODY:
        the_exit_code_is_the_programs,
        a_program_is_the_first_process_of_its_namespace,
        a_program_killed_by_a_signal_says_by_which,
        a_missing_program_has_dockers_words_and_code_127,
        a_program_that_cannot_be_executed_has_code_126,
        a_failed_start_leaves_no_stub_behind,
        the_working_directory_is_entered_or_named,
        the_environment_is_the_requests_and_nothing_else,
        a_background_process_does_not_outlive_its_container,
        dropping_a_container_kills_it,
        signals_are_at_their_defaults,
        no_descriptor_leaks_into_the_program,
        the_umask_is_as_asked,
        the_host_name_is_as_asked,
        a_prepared_container_is_used_and_a_wrong_one_thrown_away,
        many_containers_run_at_once,
        the_exit_descriptor_becomes_readable_at_the_end;
}

fn the_exit_code_is_the_programs(_: Role) {
    let sandbox = Sandbox::new();
    for code in [0, 1, 42, 255] {
        let script = format!("exit {code}");
        let output = sandbox.run(&sandbox.request(&["sh", "-c", &script]));
        assert_eq!(output.status.code, Some(code), "{output:?}");
    }
}

fn a_program_is_the_first_process_of_its_namespace(_: Role) {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.shell("echo $$"), "1\n");
}

fn a_program_killed_by_a_signal_says_by_which(_: Role) {
    let sandbox = Sandbox::new();
    let container = sandbox.spawn(&sandbox.request(&["sleep", "600"])).unwrap();
    container.signal(libc::SIGKILL).unwrap();
    let status = container.wait().unwrap();
    assert_eq!((status.code, status.signal, status.shell_code()), (None, Some(9), 137));
    // Neither of these is an error after its end.
    container.signal(libc::SIGTERM).unwrap();
    assert_eq!(container.wait().unwrap(), status);
}

fn a_missing_program_has_dockers_words_and_code_127(_: Role) {
    let sandbox = Sandbox::new();
    for (program, words) in [
        ("foo", "exec: \"foo\": executable file not found in $PATH"),
        ("/bin/foo", "exec: \"/bin/foo\": stat /bin/foo: no such file or directory"),
    ] {
        let error = sandbox.spawn(&sandbox.request(&[program])).unwrap_err();
        assert_eq!(error.to_string(), words);
        assert_eq!(error.exit_code(), 127);
    }
    // The program is there, what it names as its interpreter is not.
    fs_err::write(sandbox.path("lower/bin/script"), "#!/no/such\n").unwrap();
    make_executable(&sandbox, "lower/bin/script");
    let error = sandbox.spawn(&sandbox.request(&["script"])).unwrap_err();
    assert_eq!(error.to_string(), "exec /bin/script: no such file or directory");
    assert_eq!(error.exit_code(), 127);
}

fn a_program_that_cannot_be_executed_has_code_126(_: Role) {
    let sandbox = Sandbox::new();
    fs_err::write(sandbox.path("lower/bin/text"), "not a program").unwrap();
    let error = sandbox.spawn(&sandbox.request(&["/bin/text"])).unwrap_err();
    assert_eq!(error.to_string(), "exec: \"/bin/text\": permission denied");
    assert_eq!(error.exit_code(), 126);
    let error = sandbox.spawn(&sandbox.request(&["/bin"])).unwrap_err();
    assert_eq!(error.to_string(), "exec: \"/bin\": is a directory");
    assert_eq!(error.exit_code(), 126);
    make_executable(&sandbox, "lower/bin/text");
    let error = sandbox.spawn(&sandbox.request(&["text"])).unwrap_err();
    assert_eq!(error.to_string(), "exec /bin/text: exec format error");
    assert_eq!(error.exit_code(), 126);
}

fn make_executable(sandbox: &Sandbox, name: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs_err::set_permissions(sandbox.path(name), PermissionsExt::from_mode(0o755)).unwrap();
}

fn a_failed_start_leaves_no_stub_behind(_: Role) {
    let sandbox = Sandbox::new();
    let mut request = sandbox.request(&["foo"]);
    let mut mounts = request.spec.mounts().clone().unwrap();
    mounts.push(mount("/made/for/this", "tmpfs", None, &[]));
    request.spec.set_mounts(Some(mounts));
    sandbox.spawn(&request).unwrap_err();
    assert!(!sandbox.path("upper/made").exists());
}

fn the_working_directory_is_entered_or_named(_: Role) {
    let sandbox = Sandbox::new();
    let mut request = sandbox.request(&["pwd"]);
    request.spec.process_mut().as_mut().unwrap().set_cwd("/tmp".into());
    assert_eq!(sandbox.run(&request).stdout, "/tmp\n");
    let mut request = sandbox.request(&["pwd"]);
    request.spec.process_mut().as_mut().unwrap().set_cwd("/not/there".into());
    let error = sandbox.spawn(&request).unwrap_err();
    assert!(
        matches!(&error, RuntimeError::Setup { stage: Stage::WorkingDirectory, path: Some(path), .. }
            if path == "/not/there"),
        "{error:?}"
    );
    assert_eq!(error.exit_code(), 126);
}

/// Malformed image ENV never pulls in variables of the host (CVE-2026-57231).
fn the_environment_is_the_requests_and_nothing_else(_: Role) {
    let sandbox = Sandbox::new();
    let mut request = sandbox.request(&["cat", "/proc/self/environ"]);
    let environment = ["PATH=/bin", "HOME", "=x", "A=b=c", ""].map(str::to_owned).to_vec();
    request.spec.process_mut().as_mut().unwrap().set_env(Some(environment));
    assert_eq!(sandbox.run(&request).stdout, "PATH=/bin\0A=b=c\0");
}

fn a_background_process_does_not_outlive_its_container(_: Role) {
    let sandbox = Sandbox::new();
    let started = Instant::now();
    // It holds the pipe for ten minutes, unless it is killed.
    let output = sandbox.run(&sandbox.request(&["sh", "-c", "sleep 600 & echo started"]));
    assert_eq!(output.stdout, "started\n");
    assert_eq!(output.status.code, Some(0));
    assert!(started.elapsed() < Duration::from_secs(60));
}

fn dropping_a_container_kills_it(_: Role) {
    let sandbox = Sandbox::new();
    let container =
        sandbox.spawn(&sandbox.request(&["sh", "-c", "sleep 600 & sleep 600"])).unwrap();
    let pid = container.pid();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    let started = Instant::now();
    drop(container);
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

fn signals_are_at_their_defaults(_: Role) {
    let sandbox = Sandbox::new();
    // Not by a shell, which ignores some itself.
    let status = sandbox.run(&sandbox.request(&["cat", "/proc/self/status"])).stdout;
    for line in ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"] {
        assert!(status.contains(line), "{status}");
    }
}

/// No descriptor leaks into the child (CVE-2024-21626).
fn no_descriptor_leaks_into_the_program(_: Role) {
    let sandbox = Sandbox::new();
    // Of ours, some that would: without close-on-exec.
    let leaky: Vec<_> = (0..10)
        .map(|_| {
            let file = std::fs::OpenOptions::new().read(true).open("/").unwrap();
            rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
            file
        })
        .collect();
    // `ls` itself opens 3, to read the directory.
    assert_eq!(sandbox.shell("ls /proc/self/fd"), "0\n1\n2\n3\n");
    drop(leaky);
}

fn the_umask_is_as_asked(_: Role) {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.shell("umask"), "0022\n");
    let mut request = sandbox.request(&["sh", "-c", "umask"]);
    request.spec.process_mut().as_mut().unwrap().user_mut().set_umask(Some(0o077));
    assert_eq!(sandbox.run(&request).stdout, "0077\n");
}

fn the_host_name_is_as_asked(_: Role) {
    let sandbox = Sandbox::new();
    let mut request = sandbox.request(&["hostname"]);
    request.spec.set_hostname(Some("buildkitsandbox".to_owned()));
    assert_eq!(sandbox.run(&request).stdout, "buildkitsandbox\n");
}

fn a_prepared_container_is_used_and_a_wrong_one_thrown_away(_: Role) {
    use runtime::NetworkMode::{Host, None, Proxied};
    let sandbox = Sandbox::new();
    for network in [Host, Proxied, None, None] {
        sandbox.spawner.prepare(network);
    }
    // One of them fits, the other is left over, a third has to be made.
    for _ in 0..3 {
        assert_eq!(sandbox.shell("echo $$"), "1\n");
    }
}

fn many_containers_run_at_once(_: Role) {
    let sandbox = Sandbox::new();
    let request = sandbox.request(&["sh", "-c", "echo done"]);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (sandbox, mut request) = (&sandbox, request.clone());
            scope.spawn(move || {
                let name = format!("many/{number}");
                request.rootfs = vec![mount("/", "bind", Some(&sandbox.path("lower")), &["ro"])];
                fs_err::create_dir_all(sandbox.path(&name)).unwrap();
                // Without a writable root there is no place for mounts that are missing.
                request.spec.set_mounts(None);
                assert_eq!(sandbox.run(&request).stdout, "done\n");
            });
        }
    });
}

fn the_exit_descriptor_becomes_readable_at_the_end(_: Role) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let sandbox = Sandbox::new();
    let request = sandbox.request(&["cat"]);
    let container =
        sandbox.spawner.spawn(&request, ContainerIo::Pipes { stdin: Stdin::Null }).unwrap();
    let mut ready = [PollFd::from_borrowed_fd(container.exit_fd(), PollFlags::IN)];
    let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(poll(&mut ready, Some(&patience)), Ok(1));
    assert_eq!(container.wait().unwrap().code, Some(0));
}
