//! A test harness that starts no thread: entering namespaces takes a process that has one.
//!
//! Understands what `cargo test` passes: words to filter by, `--exact`, `--list`, `--ignored`.

use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::process::{Command, ExitCode};

/// Says to a process of ours which case to run, after the role it was made for.
const CASE: &str = "STRAKE_RUNTIME_CASE";

/// A named function that panics if it does not hold.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(Role),
    /// The roles it makes sense for.
    pub(crate) roles: &'static [Role],
}

/// Who runs a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Root, or whoever started the tests.
    Starter,
    /// User 1000 with 65536 subordinate ids.
    Ranges,
    /// User 1000 without.
    Alone,
}

pub(crate) const EVERYBODY: &[Role] = &[Role::Starter, Role::Ranges, Role::Alone];
/// Where there are other users than root.
pub(crate) const NOT_ALONE: &[Role] = &[Role::Starter, Role::Ranges];
pub(crate) const ONLY_ALONE: &[Role] = &[Role::Alone];

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Starter => "starter",
            Role::Ranges => "user_with_ranges",
            Role::Alone => "user_without_ranges",
        }
    }
}

pub(crate) fn main(lists: &[&[Case]]) -> ExitCode {
    let cases = || {
        lists.iter().flat_map(|cases| cases.iter()).flat_map(|case| {
            case.roles
                .iter()
                .map(move |role| (format!("{}::{}", role.name(), case.name), case, *role))
        })
    };
    if let Ok(wanted) = std::env::var(CASE) {
        let (_, case, role) = cases()
            .find(|(name, ..)| *name == wanted)
            .expect("the parent has taken it from the list");
        (case.run)(role);
        return ExitCode::SUCCESS;
    }

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let filters: Vec<&String> =
        arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = cases().filter(|(name, ..)| {
        filters.is_empty()
            || filters.iter().any(|filter| {
                if has("--exact") { name == *filter } else { name.contains(filter.as_str()) }
            })
    });
    if has("--list") {
        chosen.filter(|_| !has("--ignored")).for_each(|(name, ..)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, _, role) in chosen.filter(|_| !has("--ignored")) {
        let ok = std::panic::catch_unwind(AssertUnwindSafe(|| run_in_process(&name, role)))
            .unwrap_or(false);
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if ok { passed += 1 } else { failed.push(name) }
    }
    println!("\ntest result: {passed} passed; {} failed", failed.len());
    failed.iter().for_each(|name| println!("    {name}"));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one case in a process of its own, as the user its role demands.
fn run_in_process(name: &str, role: Role) -> bool {
    let root = rustix::process::geteuid().is_root();
    // Through the link, so that directories only root may enter do not matter.
    let mut command = Command::new("/proc/self/exe");
    command.env(CASE, name).env("RUST_BACKTRACE", "0");
    if role != Role::Starter {
        assert!(root, "an ordinary user cannot become another; this case takes root");
        let ranges = if role == Role::Ranges { "1000:100000:65536\n" } else { "" };
        let files = tempfile::tempdir().unwrap();
        for name in ["subuid", "subgid"] {
            fs_err::write(files.path().join(name), ranges).unwrap();
        }
        let files = files.keep();
        // SAFETY: between fork and exec of a process with one thread anything is allowed.
        unsafe {
            command.pre_exec(move || {
                replace_id_files(&files)?;
                rustix::thread::set_thread_groups(&[])?;
                let (uid, gid) =
                    (rustix::process::Uid::from_raw(1000), rustix::process::Gid::from_raw(1000));
                rustix::thread::set_thread_res_gid(gid, gid, gid)?;
                rustix::thread::set_thread_res_uid(uid, uid, uid)?;
                Ok(())
            });
        }
    }
    command.status().is_ok_and(|status| status.success())
}

/// Puts our own /etc/subuid and /etc/subgid over the machine's, for this process and its children.
fn replace_id_files(files: &std::path::Path) -> std::io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
    // SAFETY: the mount namespace is nothing that the standard library relies on.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)? };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for name in ["subuid", "subgid"] {
        let target = std::path::Path::new("/etc").join(name);
        if !target.exists() {
            fs_err::write(&target, "")?;
        }
        mount_bind(files.join(name), &target)?;
    }
    Ok(())
}
