//! Standard streams and terminals.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use runtime::{ContainerIo, Pty, WindowSize};

use crate::harness::Role;
use crate::sandbox::Sandbox;

cases! {
    EVERYBODY:
        output_and_errors_come_through_their_own_pipes,
        input_is_the_null_device,
        a_terminal_has_its_size_and_is_the_controlling_one,
        resizing_a_terminal_reaches_the_program,
        a_user_can_open_the_streams_by_name;
}

fn output_and_errors_come_through_their_own_pipes(_: Role) {
    let sandbox = Sandbox::new();
    let output = sandbox.run(&sandbox.request(&["sh", "-c", "echo out; echo err >&2"]));
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
}

fn input_is_the_null_device(_: Role) {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.shell("cat; readlink /proc/self/fd/0"), "/dev/null\n");
}

fn terminal(sandbox: &Sandbox, script: &str) -> (runtime::Container, Pty) {
    let request = sandbox.request(&["sh", "-c", script]);
    let size = WindowSize { rows: 33, columns: 111 };
    let mut container = sandbox.spawner.spawn(&request, ContainerIo::Pty { size }).unwrap();
    let pty = container.take_pty().unwrap();
    (container, pty)
}

/// Everything the terminal says until the container ends.
fn read_all(pty: Pty) -> String {
    let mut file = std::fs::File::from(pty.into_fd());
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    // EIO is how a terminal says that nobody is left on the other side.
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(text).unwrap().replace("\r\n", "\n")
}

fn a_terminal_has_its_size_and_is_the_controlling_one(_: Role) {
    let sandbox = Sandbox::new();
    let (container, pty) = terminal(
        &sandbox,
        "tty; stty size; echo x > /dev/tty; test -c /dev/console && echo console",
    );
    assert_eq!(read_all(pty), "/dev/pts/0\n33 111\nx\nconsole\n");
    assert_eq!(container.wait().unwrap().code, Some(0));
}

fn resizing_a_terminal_reaches_the_program(_: Role) {
    let sandbox = Sandbox::new();
    let (container, pty) = terminal(
        &sandbox,
        "trap 'stty size; exit 0' WINCH; echo ready; while true; do sleep 0.01; done",
    );
    let mut file = std::fs::File::from(pty.as_fd().try_clone_to_owned().unwrap());
    let mut text = String::new();
    while !text.contains("ready") {
        let mut byte = [0];
        file.read_exact(&mut byte).unwrap();
        text.push(byte[0] as char);
    }
    pty.resize(WindowSize { rows: 50, columns: 160 }).unwrap();
    assert!(read_all(pty).contains("50 160\n"));
    assert_eq!(container.wait().unwrap().code, Some(0));
    drop(file.flush());
}

fn a_user_can_open_the_streams_by_name(role: Role) {
    if role == Role::Alone {
        // There is no other user than root in this role.
        return;
    }
    let sandbox = Sandbox::new();
    let mut request = sandbox.request(&["sh", "-c", "echo out > /dev/stdout"]);
    let user = request.spec.process_mut().as_mut().unwrap().user_mut();
    user.set_uid(1000);
    user.set_gid(1000);
    let output = sandbox.run(&request);
    assert_eq!(output.stdout, "out\n", "{output:?}");
}
