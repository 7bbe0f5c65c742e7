//! Vertices on the real kernel: containers, overlays, a store.
//!
//! Entering namespaces takes a process with one thread, so each role is a process of its own that
//! enters them once and then runs its cases one after the other: whoever started the tests, and, if
//! that is root, an ordinary user.

mod amend;
mod bench;
mod exec;
mod files;
mod reuse;
mod scene;
mod sources;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use scene::Machine;

/// Says to a process of ours which role it has.
const ROLE: &str = "STRAKE_EXECUTOR_ROLE";

/// Somebody without rights.
const ORDINARY_USER: u32 = 1000;

type Case = (&'static str, fn(&Machine));

fn main() -> ExitCode {
    runtime::init::run_if_requested();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(*f));
    let cases = || {
        [amend::CASES, exec::CASES, files::CASES, reuse::CASES, sources::CASES, bench::CASES]
            .concat()
    };
    if arguments.iter().any(|argument| argument == "--list") {
        cases().iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--ignored") {
        return ExitCode::SUCCESS;
    }
    if let Ok(role) = std::env::var(ROLE) {
        return run(&role, cases().into_iter().filter(|(name, _)| chosen(name)));
    }
    let mut roles = vec!["starter"];
    if rustix::process::geteuid().is_root() {
        roles.push("user");
    }
    let mut all_passed = true;
    for role in roles {
        // Through the link, so that directories only root may enter do not matter.
        let mut command = Command::new("/proc/self/exe");
        command.args(&arguments).env(ROLE, role);
        if role == "user" {
            command.uid(ORDINARY_USER).gid(ORDINARY_USER).env_remove("HOME");
        }
        all_passed &= command.status().is_ok_and(|status| status.success());
    }
    if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(role: &str, cases: impl Iterator<Item = Case>) -> ExitCode {
    let machine = Machine::new();
    let mut failed = Vec::new();
    for (name, case) in cases {
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&machine)));
        println!("test {role}::{name} ... {}", if passed.is_ok() { "ok" } else { "FAILED" });
        if passed.is_err() {
            failed.push(name);
        }
    }
    println!("{role}: {} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
