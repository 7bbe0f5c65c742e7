//! `strake run`: the process, its surroundings and its end.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::sealed::{Identity, Sealed, run};

#[test]
fn exit_codes_are_dockers() {
    for &identity in Identity::all() {
        let sealed = Sealed::with_busybox(identity);
        let check = |arguments: &[&str], code: i32| {
            let outcome = sealed.strake(["run", "--rm"].iter().chain(arguments));
            assert_eq!(outcome.code, code, "{identity:?}: {outcome}");
        };
        check(&["busybox", "true"], 0);
        check(&["busybox", "sh", "-c", "exit 7"], 7);
        check(&["busybox", "nosuchprogram"], 127);
        check(&["busybox", "/no/such/program"], 127);
        check(&["busybox", "/etc/passwd"], 126);
        check(&["busybox", "/etc"], 126);
        check(&["--no-such-flag", "busybox"], 125);
        check(&["127.0.0.1:1/no/such", "true"], 125);
        check(&["busybox", "sh", "-c", "sh -c 'kill -KILL $$'; exit $?"], 137);
    }
}

#[test]
fn the_process_gets_what_was_asked_for() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    sealed.write(
        "context/Dockerfile",
        "FROM busybox\nENV A=image B=image\nWORKDIR /w\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"echo default\"]\n",
    );
    let context = sealed.path().join("context").display().to_string();
    sealed.strake(["build", "-t", "app", &context]).success();
    sealed.write("shared/file", "of the host\n");
    let volume = format!("{}:/v", sealed.path().join("shared").display());
    let read_only = format!("{volume}:ro");
    let check = |arguments: &[&str], expected: &str| {
        let outcome = sealed.strake(["run", "--rm"].iter().chain(arguments));
        assert_eq!(outcome.success(), expected, "{outcome}");
    };
    check(&["app"], "default\n");
    check(&["app", "echo given"], "given\n");
    check(&["-e", "B=flag", "app", "echo $A $B"], "image flag\n");
    check(&["app", "pwd"], "/w\n");
    check(&["-w", "/tmp", "app", "pwd"], "/tmp\n");
    check(&["-u", "33:8", "app", "echo $(id -u) $(id -g)"], "33 8\n");
    check(&["-u", "mail", "app", "echo $(id -un) $HOME"], "mail /var/spool/mail\n");
    check(&["--entrypoint", "/bin/echo", "app", "a", "b"], "a b\n");
    check(&["--network", "none", "app", "ls /sys/class/net"], "lo\n");
    check(&["-v", &volume, "app", "cat /v/file; echo back > /v/back"], "of the host\n");
    check(&["-v", &read_only, "app", "touch /v/x 2>/dev/null || echo no"], "no\n");
    check(&["--hostname", "here", "app", "hostname"], "here\n");
    check(&["--tmpfs", "/t", "app", "grep -c ' /t tmpfs' /proc/mounts"], "1\n");
    check(&["--read-only", "app", "touch /x 2>/dev/null || echo no"], "no\n");
    let back = fs_err::read_to_string(sealed.path().join("shared/back")).unwrap();
    assert_eq!(back, "back\n");
}

#[test]
fn each_container_has_its_own_root_and_leaves_the_image_alone() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    sealed
        .strake(["run", "--rm", "busybox", "sh", "-c", "echo x > /etc/passwd; rm -r /home"])
        .success();
    let outcome =
        sealed.strake(["run", "--rm", "busybox", "sh", "-c", "head -c 4 /etc/passwd; ls -d /home"]);
    assert_eq!(outcome.success(), "root/home\n");
}

#[test]
fn standard_input_arrives_only_with_i() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    for (flags, expected) in [(&["run", "--rm", "-i"][..], "typed\n"), (&["run", "--rm"][..], "")] {
        let mut command = sealed.strake_command(flags.iter().chain(&["busybox", "cat"]));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Without -i nobody reads: the write may find the pipe closed.
        let _ = child.stdin.take().unwrap().write_all(b"typed\n");
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{flags:?}");
    }
}

#[test]
fn signals_reach_the_process() {
    for &identity in Identity::all() {
        let sealed = Sealed::with_busybox(identity);
        for (signal, code) in [(Signal::TERM, 9), (Signal::INT, 8)] {
            let script =
                "trap 'exit 9' TERM; trap 'exit 8' INT; echo ready; while :; do sleep 0.05; done";
            let mut command = sealed.strake_command(["run", "--rm", "busybox", "sh", "-c", script]);
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
            kill_process(Pid::from_child(&child), signal).unwrap();
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(code), "{identity:?} {signal:?}");
        }
    }
}

#[test]
fn a_terminal_has_the_size_of_ours() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let inner = format!(
        "stty rows 37 cols 91; exec {} run --rm -it busybox sh -c 'test -t 0 && test -t 1 && stty size'",
        sealed.program().display()
    );
    let mut command = sealed.command("script");
    command.args(["-q", "-e", "-c", &inner, "/dev/null"]);
    command.env("TERM", "xterm").env("SHELL", "/bin/sh");
    let outcome = run(command, Duration::from_secs(60));
    assert!(outcome.success().contains("37 91"), "{outcome}");
}

#[test]
fn the_process_is_confined() {
    for &identity in Identity::all() {
        let sealed = Sealed::with_busybox(identity);
        let script = "echo $$; grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; \
                      echo 1 2>/dev/null > /proc/sys/kernel/panic || echo no-sysctl; \
                      ls /proc/self/fd | wc -l; mount -t tmpfs x /mnt 2>/dev/null || echo no-mount; \
                      head -c 1 /proc/kcore | wc -c";
        let outcome = sealed.strake(["run", "--rm", "busybox", "sh", "-c", script]);
        let expected = "1\nCapEff:\t00000000a80425fb\nSeccomp:\t2\nno-sysctl\n4\nno-mount\n0\n";
        assert_eq!(outcome.success(), expected, "{identity:?}");
    }
}

#[test]
fn an_unknown_image_is_named() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let outcome = sealed.strake(["run", "--rm", "--pull", "never", "busybos", "true"]);
    assert!(outcome.failure(125).contains("busybos"), "{outcome}");
}
