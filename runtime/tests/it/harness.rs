//! A test harness that starts no thread: entering namespaces takes a process that has one.
//!
//! Understands what `cargo test` passes: words to filter by, `--skip`, `--exact`, `--list`, `--ignored`.

use std::io;
use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, UnshareFlags};

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
    /// User 1000 with ranges where a file in /proc is masked, as in most containers.
    Masked,
    /// Root without CAP_SYS_ADMIN, as in most containers.
    Contained,
    /// The same, where there may be no more user namespaces.
    Forbidden,
}

pub(crate) const EVERYBODY: &[Role] = &[Role::Starter, Role::Ranges, Role::Alone];
/// Where there are other users than root.
pub(crate) const NOT_ALONE: &[Role] = &[Role::Starter, Role::Ranges];
pub(crate) const ONLY_ALONE: &[Role] = &[Role::Alone];
pub(crate) const ONLY_MASKED: &[Role] = &[Role::Masked];
pub(crate) const ONLY_CONTAINED: &[Role] = &[Role::Contained];
pub(crate) const ONLY_FORBIDDEN: &[Role] = &[Role::Forbidden];

impl Role {
    /// What we are already, if we are not root.
    fn of_an_ordinary_user() -> Option<Role> {
        if rustix::process::geteuid().is_root() {
            return None;
        }
        let uid = rustix::process::geteuid().as_raw();
        let name = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
        };
        let user = fs_err::read_to_string("/etc/passwd").unwrap().lines().find_map(name);
        let user = user.unwrap_or_default();
        let subuid = fs_err::read_to_string("/etc/subuid").unwrap_or_default();
        let number = uid.to_string();
        let owner = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
        let listed = subuid.lines().map(owner).any(|owner| owner == user || owner == number);
        Some(if listed { Role::Ranges } else { Role::Alone })
    }

    fn name(self) -> &'static str {
        match self {
            Role::Starter => "starter",
            Role::Ranges => "user_with_ranges",
            Role::Alone => "user_without_ranges",
            Role::Masked => "under_a_masked_proc",
            Role::Contained => "root_of_a_container",
            Role::Forbidden => "without_user_namespaces",
        }
    }
}

pub(crate) fn main(lists: &[&[Case]]) -> ExitCode {
    let wanted = std::env::var(CASE).ok();
    let ours = Role::of_an_ordinary_user().filter(|_| wanted.is_none());
    let cases = || {
        lists.iter().flat_map(|cases| cases.iter()).flat_map(|case| {
            // An ordinary user cannot become another, but is one kind of user or the other.
            case.roles
                .iter()
                .filter(move |role| ours.is_none_or(|ours| **role == ours))
                .map(move |role| (format!("{}::{}", role.name(), case.name), case, *role))
        })
    };
    if let Some(wanted) = wanted {
        let (_, case, role) = cases()
            .find(|(name, ..)| *name == wanted)
            .expect("the parent has taken it from the list");
        (case.run)(role);
        return ExitCode::SUCCESS;
    }

    let mut has = Vec::new();
    let (mut filters, mut skipped) = (Vec::new(), Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--skip" => skipped.extend(arguments.next()),
            "--test-threads" | "--color" | "--format" => drop(arguments.next()),
            flag if flag.starts_with('-') => has.push(argument),
            _ => filters.push(argument),
        }
    }
    let has = |flag: &str| has.iter().any(|argument| argument == flag);
    let matches = |name: &str, filter: &String| {
        if has("--exact") { name == filter } else { name.contains(filter.as_str()) }
    };
    let chosen = cases().filter(|(name, ..)| {
        (filters.is_empty() || filters.iter().any(|filter| matches(name, filter)))
            && !skipped.iter().any(|filter| matches(name, filter))
    });
    if has("--list") {
        chosen.filter(|_| !has("--ignored")).for_each(|(name, ..)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if let Some(ours) = ours {
        println!("not root: the cases run as {} only; all others take root\n", ours.name());
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
    // Through the link, so that directories only root may enter do not matter.
    let mut command = Command::new("/proc/self/exe");
    command.env(CASE, name).env("RUST_BACKTRACE", "0");
    let mut id_files = None;
    if role != Role::Starter && Role::of_an_ordinary_user().is_none() {
        let ranges = match role {
            Role::Ranges | Role::Masked => "1000:100000:65536\n",
            _ => "",
        };
        // Removed when the case has ended.
        let files = id_files.insert(tempfile::tempdir().unwrap());
        for name in ["subuid", "subgid"] {
            fs_err::write(files.path().join(name), ranges).unwrap();
        }
        let path = files.path().to_owned();
        // SAFETY: between fork and exec of a process with one thread anything is allowed.
        unsafe { command.pre_exec(move || become_role(role, &path)) };
    }
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => panic!("cannot become {role:?}: {error}"),
    }
}

fn become_role(role: Role, files: &Path) -> io::Result<()> {
    replace_id_files(files)?;
    match role {
        Role::Starter => Ok(()),
        Role::Ranges | Role::Alone => become_user(),
        Role::Masked => {
            rustix::mount::mount_bind("/dev/null", "/proc/cmdline")?;
            become_user()
        }
        Role::Contained => give_up_administration(),
        Role::Forbidden => {
            // SAFETY: one thread, and no descriptors are separated.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER)? };
            fs_err::write("/proc/self/setgroups", "deny")?;
            fs_err::write("/proc/self/uid_map", "0 0 1")?;
            fs_err::write("/proc/self/gid_map", "0 0 1")?;
            fs_err::write("/proc/sys/user/max_user_namespaces", "0")?;
            give_up_administration()
        }
    }
}

fn become_user() -> io::Result<()> {
    rustix::thread::set_thread_groups(&[])?;
    let (uid, gid) = (Uid::from_raw(1000), Gid::from_raw(1000));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Executing a program gives root what is in the bounding set.
fn give_up_administration() -> io::Result<()> {
    rustix::thread::remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN)?;
    Ok(())
}

/// Puts our own /etc/subuid and /etc/subgid over the machine's, for this process and its children.
fn replace_id_files(files: &Path) -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
    // SAFETY: the mount namespace is nothing that the standard library relies on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for name in ["subuid", "subgid"] {
        let target = Path::new("/etc").join(name);
        if !target.exists() {
            fs_err::write(&target, "")?;
        }
        mount_bind(files.join(name), &target)?;
    }
    Ok(())
}
