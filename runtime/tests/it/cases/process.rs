//! The process itself: its end, its streams, its environment.

use crate::harness::Role;
use crate::sandbox::Sandbox;

cases! {
    EVERYBODY:
        the_exit_code_is_the_programs,
        a_program_is_the_first_process_of_its_namespace;
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
