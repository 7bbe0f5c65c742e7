//! Limits: a control group per container, for as long as it lives.
//!
//! ```text
//! v1   <controller's mount>/<our own group>/strake-<pid>-<n>      one for each controller
//! v2   <mount>/<our own group, or one above>/strake-<pid>-<n>     one for all
//! ```
//!
//! A container without limits has no group: making one costs more than the container's whole start.
//! The groups are made below the engine's own, so that what limits the engine limits its containers.
//! In the second version a group that has processes cannot hand controllers on; then the group is
//! made beside ours, below the nearest one that can.
//!
//! Whoever has a group holds a lock (flock) on its directory. The kernel gives it back when the
//! engine is killed, and the next engine that makes a group removes those that nobody has locked:
//! by then their processes are gone. So does who tidies up anyway ([`remove_leftover_groups`]).
//!
//! A limit that was asked for and cannot be set is an error that says what is missing. Nothing is
//! ever left out silently, but for the limit of swap that comes with one of memory unasked.

mod available;
mod hierarchy;
mod settings;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use rustix::fs::{FlockOperation, Mode, OFlags};

pub use self::available::available_memory;
use self::hierarchy::{Hierarchies, Parent};
use self::settings::{Controller, Setting, Version};
use crate::RuntimeError;

const PREFIX: &str = "strake-";

/// Numbers that others have are passed over; nobody has so many containers.
const MOST_NAMES: u32 = 10_000;

/// A group is busy for a moment after its last process was reaped.
const REMOVALS: u32 = 200;
const BETWEEN_REMOVALS: Duration = Duration::from_millis(5);

/// The control groups of one container. Dropped, they are removed; the container has ended then.
#[derive(Debug)]
pub(crate) struct Cgroup {
    groups: Vec<Group>,
    /// Bytes.
    memory_limit: Option<u64>,
}

/// One directory, and which controllers it is for.
#[derive(Debug)]
struct Group {
    path: PathBuf,
    version: Version,
    controllers: Vec<Controller>,
    _lock: OwnedFd,
}

impl Cgroup {
    /// Groups with these limits; none if there are no limits.
    pub(crate) fn create(resources: &LinuxResources) -> Result<Option<Cgroup>, RuntimeError> {
        let wanted = settings::controllers(resources);
        if wanted.is_empty() {
            return Ok(None);
        }
        let hierarchies = Hierarchies::read()?;
        let limit = resources.memory().as_ref().and_then(|memory| memory.limit());
        let mut cgroup =
            Cgroup { groups: Vec::new(), memory_limit: limit.and_then(|l| u64::try_from(l).ok()) };
        for Parent { path, version, controllers } in hierarchies.parents(&wanted)? {
            sweep(&path);
            let group = Group::make(&path, version, controllers)?;
            for setting in settings::settings(version, &group.controllers, resources) {
                group.set(&setting)?;
            }
            cgroup.groups.push(group);
        }
        Ok(Some(cgroup))
    }

    /// Puts a process that has no children yet into the groups.
    pub(crate) fn add(&self, pid: i32) -> Result<(), RuntimeError> {
        for group in &self.groups {
            let file = group.path.join("cgroup.procs");
            fs_err::write(&file, pid.to_string())
                .map_err(|error| group.controllers[0].denied(&error))?;
        }
        Ok(())
    }

    /// The limit of memory in bytes, if the kernel has killed in the group because of it.
    pub(crate) fn memory_ran_out(&self) -> Option<u64> {
        let group = self.groups.iter().find(|g| g.controllers.contains(&Controller::Memory))?;
        let file = match group.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = fs_err::read_to_string(group.path.join(file)).ok()?;
        (counter(&text, "oom_kill")? > 0).then_some(self.memory_limit)?
    }
}

impl Group {
    fn make(
        parent: &Path,
        version: Version,
        controllers: Vec<Controller>,
    ) -> Result<Group, RuntimeError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let denied = |error: &io::Error| controllers[0].denied(error);
        for _ in 0..MOST_NAMES {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match fs_err::create_dir(&path) {
                // Of a process with our number in another pid namespace.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                result => result.map_err(|error| denied(&error))?,
            }
            // A sweeper may have been faster: then it has the lock, or the directory is gone.
            if let Some(lock) = lock(&path)
                && path.exists()
            {
                return Ok(Group { path, version, controllers, _lock: lock });
            }
        }
        Err(denied(&io::ErrorKind::AlreadyExists.into()))
    }

    fn set(&self, setting: &Setting) -> Result<(), RuntimeError> {
        let path = self.path.join(setting.file);
        let value = match &setting.value {
            Some(value) => value.clone(),
            // What a new group of this kind does not take over by itself.
            None => inherited(&self.path, setting.file),
        };
        match fs_err::write(&path, &value) {
            Err(_) if setting.is_extra => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(setting.controller.missing(setting.file))
            }
            Err(error) => Err(setting.controller.refused(&value, &error)),
            Ok(()) => Ok(()),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..REMOVALS {
            match rustix::fs::rmdir(&self.path) {
                Err(rustix::io::Errno::BUSY) => std::thread::sleep(BETWEEN_REMOVALS),
                _ => return,
            }
        }
        tracing::debug!(path = %self.path.display(), "a control group stays busy");
    }
}

/// The value of the nearest group above that has one.
fn inherited(group: &Path, file: &str) -> String {
    let values = group.ancestors().skip(1).map(|above| fs_err::read_to_string(above.join(file)));
    values
        .map_while(Result::ok)
        .map(|text| text.trim().to_owned())
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

/// Removes the groups that killed engines have left, where those of this process would be made.
pub fn remove_leftover_groups() {
    if let Ok(hierarchies) = Hierarchies::read() {
        hierarchies.places().iter().for_each(|place| sweep(place));
    }
}

/// Removes what killed engines have left.
fn sweep(parent: &Path) {
    let Ok(entries) = fs_err::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if is_ours && let Some(_lock) = lock(&entry.path()) {
            // Busy if its processes are about to end: the next one removes it.
            let _ = rustix::fs::rmdir(entry.path());
        }
    }
}

/// The lock of a group, unless somebody has it or it is gone.
fn lock(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let directory = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(directory)
}

/// The number behind `name` in lines of names and numbers.
fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(counter(text, "oom_kill"), Some(3));
        assert_eq!(counter(text, "oom"), None);
    }

    #[test]
    fn a_group_is_removed_when_nobody_has_it() {
        let parent = tempfile::tempdir().unwrap();
        let make = || Group::make(parent.path(), Version::Two, vec![Controller::Memory]).unwrap();
        let (held, left) = (make(), parent.path().join("strake-1-7"));
        fs_err::create_dir(&left).unwrap();
        fs_err::create_dir(parent.path().join("other")).unwrap();
        sweep(parent.path());
        assert!(held.path.exists() && !left.exists() && parent.path().join("other").exists());
        let path = held.path.clone();
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_inherited_is_taken_from_the_nearest_group_that_has_it() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        fs_err::create_dir_all(&inner).unwrap();
        fs_err::write(root.path().join("cpuset.mems"), "0-1\n").unwrap();
        fs_err::write(root.path().join("a/cpuset.mems"), "\n").unwrap();
        assert_eq!(inherited(&inner, "cpuset.mems"), "0-1");
    }
}
