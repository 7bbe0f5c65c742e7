//! Filling the id maps of a new user namespace.
//!
//! A map of several ranges can be written by a privileged process outside only: the setuid
//! programs `newuidmap` and `newgidmap`, which allow what /etc/subuid and /etc/subgid allow, or
//! ourselves, if we happen to be "root" of a container with CAP_SETUID. A child forked before the
//! namespace is made does either; if neither works, the process maps itself alone.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::IdRange;

/// Two setuid programs take milliseconds; a user database on a dead server may take for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// The child that waits for the namespace to exist.
pub(super) struct Mapper {
    child: libc::pid_t,
    /// Written to once when the namespace is there.
    go: fs_err::File,
    /// Says "" for success, else why there is only one id.
    answer: fs_err::File,
    /// User and group as the outer namespace names them: inside, without a map, they are nobody.
    outer: (u32, u32),
}

impl Mapper {
    /// Forks the child. The process must have one thread.
    pub(super) fn fork() -> io::Result<Mapper> {
        let (going, go) = pipe_with(PipeFlags::CLOEXEC)?;
        let (answer, answering) = pipe_with(PipeFlags::CLOEXEC)?;
        let file = |fd, name: &str| fs_err::File::from_parts(std::fs::File::from(fd), name);
        let outer = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        // SAFETY: `isolate` has made sure that there is one thread, so the child may do anything.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop((go, answer));
                serve(file(going, "pipe"), file(answering, "pipe"), parent);
                // SAFETY: ends the child without running the parent's exit handlers.
                unsafe { libc::_exit(0) }
            }
            child => {
                Ok(Mapper { child, go: file(go, "pipe"), answer: file(answer, "pipe"), outer })
            }
        }
    }

    /// Has the maps filled, now that this process is in the new namespace. Returns why there is
    /// only one id, if so.
    pub(super) fn map(mut self) -> io::Result<Option<String>> {
        self.go.write_all(b"g")?;
        let mut ready = [PollFd::new(&self.answer, PollFlags::IN)];
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as _, tv_nsec: 0 };
        if poll(&mut ready, Some(&patience))? == 0 {
            // SAFETY: our own child, not yet waited for.
            unsafe { libc::kill(self.child, libc::SIGKILL) };
        }
        let mut reason = String::new();
        Read::by_ref(&mut self.answer).take(4096).read_to_string(&mut reason)?;
        self.reap();
        if reason == "ok" {
            return Ok(None);
        }
        if reason.is_empty() {
            reason = "newuidmap did not finish".to_owned();
        }
        self.map_self()?;
        Ok(Some(reason))
    }

    /// Maps the current user and group to 0, where nobody has written a map yet.
    fn map_self(&self) -> io::Result<()> {
        let (uid, gid) = self.outer;
        if own_map("uid_map")?.is_empty() {
            write_map("/proc/self/uid_map", &format!("0 {uid} 1\n"))?;
        }
        if own_map("gid_map")?.is_empty() {
            // The price of a map without privilege (CVE-2014-8989).
            write_map("/proc/self/setgroups", "deny")?;
            write_map("/proc/self/gid_map", &format!("0 {gid} 1\n"))?;
        }
        Ok(())
    }

    fn reap(&self) {
        // SAFETY: waits for our own child; its status is not asked for.
        unsafe { libc::waitpid(self.child, std::ptr::null_mut(), 0) };
    }
}

/// The child's life.
fn serve(mut going: fs_err::File, mut answering: fs_err::File, parent: i32) {
    let mut byte = [0];
    if going.read_exact(&mut byte).is_err() {
        return;
    }
    let answer = match map_outside(parent) {
        Ok(()) => "ok".to_owned(),
        Err(reason) => reason,
    };
    let _ = answering.write_all(answer.as_bytes());
}

/// Fills the maps of process `pid` from outside its namespace.
fn map_outside(pid: i32) -> Result<(), String> {
    if rustix::process::geteuid().is_root() && map_all_ours(pid).is_ok() {
        return Ok(());
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let user = user_name(uid);
    let uids = subordinate("/etc/subuid", uid, user.as_deref())?;
    let gids = subordinate("/etc/subgid", uid, user.as_deref())?;
    let newuidmap = find_program("newuidmap")?;
    let newgidmap = find_program("newgidmap")?;
    run_map_program(&newgidmap, pid, gid, &gids)?;
    run_map_program(&newuidmap, pid, uid, &uids)
}

/// Gives process `pid` every id we have ourselves, under the same numbers. Takes CAP_SETUID and
/// CAP_SETGID, and CAP_SETFCAP for id 0.
fn map_all_ours(pid: i32) -> io::Result<()> {
    for map in ["uid_map", "gid_map"] {
        let lines: String = own_map(map)?
            .iter()
            .map(|range| format!("{0} {0} {1}\n", range.inside, range.count))
            .collect();
        write_map(&format!("/proc/{pid}/{map}"), &lines)?;
    }
    Ok(())
}

/// A map must be written in one write.
fn write_map(path: &str, text: &str) -> io::Result<()> {
    fs_err::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes()).map_err(|error| {
        // Keep the number, which tells what to suggest.
        error.raw_os_error().map_or(error, io::Error::from_raw_os_error)
    })
}

fn run_map_program(
    program: &Path,
    pid: i32,
    own: u32,
    ranges: &[(u32, u32)],
) -> Result<(), String> {
    let mut command = Command::new(program);
    command.arg(pid.to_string()).args(["0", &own.to_string(), "1"]);
    let mut inside = 1u32;
    for (start, count) in ranges {
        command.args([inside.to_string(), start.to_string(), count.to_string()]);
        inside = inside.saturating_add(*count);
    }
    let name = program.display();
    let output = command.output().map_err(|error| format!("{name} cannot be executed: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name} failed: {}", text.trim()))
}

fn find_program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            format!(
                "{name} is not installed: install the package uidmap (Debian, Ubuntu) or \
                 shadow-utils (Fedora, Alpine: shadow-uidmap)"
            )
        })
}

/// The ranges that `file` gives to a user: (first id, number of ids).
fn subordinate(file: &str, uid: u32, user: Option<&str>) -> Result<Vec<(u32, u32)>, String> {
    let text = fs_err::read_to_string(file).unwrap_or_default();
    let ranges = parse_subordinate(&text, uid, user);
    if ranges.is_empty() {
        let user = user.map_or_else(|| uid.to_string(), str::to_owned);
        return Err(format!(
            "{file} has no range for {user}: usermod --add-subuids 100000-165535 --add-subgids \
             100000-165535 {user}"
        ));
    }
    Ok(ranges)
}

fn parse_subordinate(text: &str, uid: u32, user: Option<&str>) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let start = fields.next()?.parse().ok()?;
            let count = fields.next()?.parse().ok().filter(|count| *count > 0)?;
            (owner == number || Some(owner) == user).then_some((start, count))
        })
        .collect()
}

/// The name of a user by /etc/passwd alone: a static binary has no other user database.
fn user_name(uid: u32) -> Option<String> {
    let text = fs_err::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// A map of this process: `uid_map` or `gid_map`.
pub(super) fn own_map(name: &str) -> io::Result<Vec<IdRange>> {
    let text = fs_err::read_to_string(format!("/proc/self/{name}"))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map_while(|number| number.parse().ok());
            Some(IdRange {
                inside: numbers.next()?,
                outside: numbers.next()?,
                count: numbers.next()?,
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "root:1:2\nada:100000:65536\n1000:300000:10\nada:bad:1\n# note\nbob:5:6\n";
        assert_eq!(parse_subordinate(text, 1000, Some("ada")), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(parse_subordinate(text, 7, None), []);
    }

    #[test]
    fn a_missing_range_says_what_to_do() {
        let reason = subordinate("/nonexistent/subuid", 1000, Some("ada")).unwrap_err();
        assert!(reason.contains("usermod --add-subuids 100000-165535"), "{reason}");
        assert!(reason.ends_with("ada"), "{reason}");
    }
}
