//! What every container has and no request changes: /proc, /sys and /dev, made aside.
//!
//! They are mounted on a tmpfs that covers /proc of the new mount namespace, laid out like a root
//! directory, before the request is known, and moved into the real root later with everything
//! that is mounted below them:
//!
//! ```text
//! /proc (tmpfs, of this container only)
//! ├── proc/ sys/ dev/     to be moved
//! ├── root/               the root filesystem's place until pivot_root
//! ├── spot/               something is mounted here for a moment
//! ├── scratch/            writable layers in memory
//! ├── files/              files that were handed over in memory
//! ├── nothing/            an empty read-only directory, shown over those to be hidden
//! └── devices/            nodes, mounted one by one in dev/
//! ```
//!
//! Nothing else is lost by covering /proc: it is not a source of anybody's mounts but as a
//! descriptor, and after pivot_root all of it is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::UnmountFlags;

use super::child::failure;
use super::devices::mount_dev;
use super::handshake::Failure;
use crate::confined::open_in_root;
use crate::error::Stage;
use crate::mount::{BuildError, attach, clone_tree, is_directory, new_filesystem, open_path};
use crate::spec::{MASKED_PATHS, READ_ONLY_PATHS};
use crate::sys::{self, MountAttributes};

pub(super) const ROOT: &str = "/proc/root";
pub(super) const SPOT: &str = "/proc/spot";
pub(super) const SCRATCH: &str = "/proc/scratch";
pub(super) const FILES: &str = "/proc/files";
const NOTHING: &str = "/proc/nothing";
pub(super) const PROC: &str = "/proc/proc";
pub(super) const SYS: &str = "/proc/sys";
pub(super) const DEV: &str = "/proc/dev";
const DEVICES: &str = "/proc/devices";

const QUIET: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// The mounts made aside.
#[derive(Debug)]
pub(super) struct Fixtures {
    staging: OwnedFd,
    /// The root of /dev, wherever it is moved to.
    pub(super) dev: OwnedFd,
    /// An empty read-only directory, to hide directories under.
    nothing: OwnedFd,
    /// /dev, and what is mounted in it, has been moved into the root.
    pub(super) dev_is_placed: bool,
    /// What is weaker than it should be, and why.
    pub(super) notes: Vec<String>,
}

impl Fixtures {
    /// Makes them, with Docker's masks.
    pub(super) fn mount() -> Result<Fixtures, Failure> {
        let mut notes = Vec::new();
        let proc = new_proc(&mut notes).map_err(failure(Stage::Proc, None))?;
        let sys = new_sys(true).map_err(failure(Stage::Sys, None))?;
        let dev_error = failure(Stage::Dev, None);

        let staging = stage().map_err(failure(Stage::Namespaces, Some("/proc")))?;
        attach_at(&proc, PROC).map_err(failure(Stage::Proc, None))?;
        attach_at(&sys, SYS).map_err(failure(Stage::Sys, None))?;
        let dev = open_path(DEV).map_err(BuildError::from).map_err(&dev_error)?;
        let devices = open_path(DEVICES).map_err(BuildError::from).map_err(&dev_error)?;
        let dev = mount_dev(&dev, &devices).map_err(&dev_error)?;
        let nothing = new_filesystem("tmpfs", &[], QUIET | libc::MOUNT_ATTR_RDONLY)
            .map_err(failure(Stage::Mask, None))?;
        // Only what is attached can be copied.
        attach_at(&nothing, NOTHING).map_err(failure(Stage::Mask, None))?;
        let fixtures = Fixtures { staging, dev, nothing, dev_is_placed: false, notes };
        fixtures.hide(&fixtures.staging, &MASKED_PATHS, &READ_ONLY_PATHS)?;
        Ok(fixtures)
    }

    /// Makes /proc and /sys anew, nothing in them masked; a /proc that is not our own stays as it
    /// is.
    pub(super) fn unmask(&mut self, sys_read_only: bool) -> Result<(), Failure> {
        if self.notes.is_empty() {
            let at = failure(Stage::Proc, None);
            let proc = new_proc(&mut self.notes).map_err(&at)?;
            replace(&proc, PROC).map_err(&at)?;
        }
        let at = failure(Stage::Sys, None);
        let sys = new_sys(sys_read_only).map_err(&at)?;
        replace(&sys, SYS).map_err(&at)
    }

    /// Lets any device node in /dev be opened, where we may.
    pub(super) fn allow_devices(&self) -> Result<(), Failure> {
        let attributes = MountAttributes { clear: libc::MOUNT_ATTR_NODEV, ..Default::default() };
        match sys::mount_setattr(&self.dev, attributes) {
            // In a user namespace there are none to be made anyway.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
            result => result.map_err(failure(Stage::Dev, None)),
        }
    }

    /// Hides `masked` and write-protects `read_only` below `root`; what is not there is skipped.
    pub(super) fn hide(
        &self,
        root: &OwnedFd,
        masked: &[impl AsRef<str>],
        read_only: &[impl AsRef<str>],
    ) -> Result<(), Failure> {
        for path in masked {
            let path = path.as_ref();
            self.mask(root, path).map_err(failure(Stage::Mask, Some(path)))?;
        }
        for path in read_only {
            let path = path.as_ref();
            write_protect(root, path).map_err(failure(Stage::Mask, Some(path)))?;
        }
        Ok(())
    }

    fn mask(&self, root: &OwnedFd, path: &str) -> io::Result<()> {
        let Some(place) = open_if_there(root, path)? else { return Ok(()) };
        let cover = if is_directory(&place)? {
            clone_tree(&self.nothing, false)?
        } else {
            // Our own device, opened in our own /dev: not whatever is called so by now.
            let null = rustix::fs::openat(
                &self.dev,
                "null",
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            clone_tree(&null, false)?
        };
        attach(cover, place)
    }
}

fn write_protect(root: &OwnedFd, path: &str) -> io::Result<()> {
    let Some(place) = open_if_there(root, path)? else { return Ok(()) };
    let tree = clone_tree(&place, true)?;
    sys::mount_setattr(
        &tree,
        MountAttributes { set: libc::MOUNT_ATTR_RDONLY, recursive: true, ..Default::default() },
    )?;
    attach(tree, place)
}

fn open_if_there(root: impl AsFd, path: &str) -> io::Result<Option<OwnedFd>> {
    match open_in_root(root, path, OFlags::PATH) {
        Ok(place) => Ok(Some(place)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Covers /proc with the staging tmpfs and makes its directories.
fn stage() -> Result<OwnedFd, BuildError> {
    let staging = new_filesystem(
        "tmpfs",
        &[("mode".to_owned(), Some("0755".to_owned()))],
        libc::MOUNT_ATTR_NOSUID,
    )?;
    attach_at(&staging, "/proc")?;
    for name in ["proc", "sys", "dev", "root", "spot", "scratch", "files", "nothing", "devices"] {
        rustix::fs::mkdirat(&staging, name, Mode::from_raw_mode(0o755))?;
    }
    Ok(staging)
}

/// Puts `tree` where something else is mounted.
fn replace(tree: &OwnedFd, place: &str) -> Result<(), BuildError> {
    rustix::mount::unmount(place, UnmountFlags::DETACH)?;
    Ok(attach_at(tree, place)?)
}

fn attach_at(tree: &OwnedFd, place: &str) -> io::Result<()> {
    attach(tree, rustix::fs::openat(CWD, place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// A /proc of the new pid namespace.
fn new_proc(notes: &mut Vec<String>) -> Result<OwnedFd, BuildError> {
    match new_filesystem("proc", &[], QUIET) {
        Err(BuildError { errno: libc::EPERM, .. }) => {
            notes.push(
                "/proc of this machine is partly masked, which forbids a /proc of the container's \
                 own: it sees the processes around it"
                    .to_owned(),
            );
            let tree = clone_tree(open_path("/proc")?, true)?;
            let attributes = MountAttributes {
                propagation: libc::MS_PRIVATE,
                recursive: true,
                ..Default::default()
            };
            sys::mount_setattr(&tree, attributes)?;
            Ok(tree)
        }
        result => result,
    }
}

/// A /sys of the new network namespace; where the container has none of its own and we are not
/// root, the host's.
fn new_sys(read_only: bool) -> Result<OwnedFd, BuildError> {
    let attributes = QUIET | if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    match new_filesystem("sysfs", &[], attributes) {
        Err(BuildError { errno: libc::EPERM, .. }) => {
            let tree = clone_tree(open_path("/sys")?, true)?;
            let attributes = MountAttributes {
                set: attributes,
                propagation: libc::MS_PRIVATE,
                recursive: true,
                ..Default::default()
            };
            sys::mount_setattr(&tree, attributes)?;
            Ok(tree)
        }
        result => result,
    }
}
