//! /dev as a container sees it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::pty::OpenptFlags;

use crate::mount::{BuildError, attach, clone_tree, new_filesystem};
use crate::pty::WindowSize;

/// Character devices, by name, with major and minor number (Documentation/admin-guide/devices).
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Links, by name.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Kernels without CONFIG_PROC_KCORE do not have it, and then `/dev/core` is left out as runc does.
const CORE: &str = "/proc/kcore";

/// Size of /dev/shm unless the spec says otherwise: 64 MiB, as Docker has it.
pub(super) const SHM_SIZE: &str = "65536k";

const QUIET: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// Mounts and fills a /dev at `place`. Returns its root.
///
/// Whoever is root in a container without a user namespace may make device nodes (layers have
/// them), and must not be able to open them: that would be every disk of the machine. So all mounts
/// of a container are `nodev`, this one too, and each device that it may use is a mount of its own,
/// of a node made in `aside`, a directory of a tmpfs that the container never sees.
pub(super) fn mount_dev(place: &OwnedFd, aside: &OwnedFd) -> Result<OwnedFd, BuildError> {
    let dev = new_filesystem(
        "tmpfs",
        &options(&[("mode", "0755"), ("size", "65536k")]),
        libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_STRICTATIME,
    )?;
    attach(&dev, place)?;

    let mut by_mknod = true;
    for (name, major, minor) in DEVICES {
        if by_mknod {
            let device = rustix::fs::makedev(major, minor);
            let mode = Mode::from_raw_mode(0o666);
            match rustix::fs::mknodat(aside, name, FileType::CharacterDevice, mode, device) {
                Ok(()) => {
                    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    show(&dev, name, &rustix::fs::openat(aside, name, flags, Mode::empty())?)?;
                    continue;
                }
                // Not allowed in user namespaces, nor without CAP_MKNOD.
                Err(rustix::io::Errno::PERM) => by_mknod = false,
                Err(errno) => return Err(errno.into()),
            }
        }
        bind_host_device(&dev, name, major, minor)?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, &dev, name)?;
    }
    if std::path::Path::new(CORE).exists() {
        rustix::fs::symlinkat(CORE, &dev, "core")?;
    }

    for (name, kind, attributes, data) in [
        ("shm", "tmpfs", QUIET, vec![("mode", "1777"), ("size", SHM_SIZE)]),
        ("mqueue", "mqueue", QUIET, vec![]),
    ] {
        let tree = new_filesystem(kind, &options(&data), attributes)?;
        attach(&tree, directory(&dev, name)?)?;
    }
    attach(devpts()?, directory(&dev, "pts")?)?;
    Ok(dev)
}

/// A devpts of its own; group 5 ("tty") owns the terminals where that group exists for us.
fn devpts() -> Result<OwnedFd, BuildError> {
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    let mut data = options(&[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")]);
    data.insert(0, ("newinstance".to_owned(), None));
    match new_filesystem("devpts", &data, attributes) {
        Err(BuildError { errno: libc::EINVAL, .. }) => {
            data.pop();
            new_filesystem("devpts", &data, attributes)
        }
        result => result,
    }
}

fn directory(dev: &OwnedFd, name: &str) -> Result<OwnedFd, BuildError> {
    rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(0o755))?;
    Ok(rustix::fs::openat(dev, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Shows the host's device in ours. Whatever the host calls so must be that very device: on a
/// machine where something has replaced /dev/null by a file, the container would write there.
fn bind_host_device(dev: &OwnedFd, name: &str, major: u32, minor: u32) -> Result<(), BuildError> {
    let host = rustix::fs::openat(
        CWD,
        format!("/dev/{name}"),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let status = rustix::fs::statat(&host, c"", AtFlags::EMPTY_PATH)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::CharacterDevice
        || status.st_rdev != rustix::fs::makedev(major, minor)
    {
        return Err(BuildError {
            errno: libc::ENODEV,
            log: Some(format!("the host's /dev/{name} is not device {major}:{minor}")),
        });
    }
    show(dev, name, &host)
}

/// Mounts a device on an empty file of that name.
fn show(dev: &OwnedFd, name: &str, device: &OwnedFd) -> Result<(), BuildError> {
    let place = rustix::fs::openat(
        dev,
        name,
        OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o666),
    )?;
    attach(clone_tree(device, false)?, place)?;
    Ok(())
}

/// A terminal: the side for the engine, and the side for the container.
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Opens a terminal in the devpts below `dev` and shows it as /dev/console.
pub(super) fn open_terminal(dev: &OwnedFd, size: WindowSize) -> io::Result<Terminal> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(dev, "pts/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    rustix::termios::tcsetwinsize(&slave, size.into())?;

    let number = terminal_number(&master)?;
    let place = rustix::fs::openat(
        dev,
        "console",
        OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o620),
    )?;
    // Opened by name in a devpts that is ours alone and that no program has seen yet.
    let shown = rustix::fs::openat(
        dev,
        format!("pts/{number}"),
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    attach(clone_tree(&shown, false)?, place)?;
    Ok(Terminal { master, slave })
}

fn terminal_number(master: &OwnedFd) -> io::Result<u32> {
    use std::os::fd::AsRawFd;
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN stores one unsigned int.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(number) }
}

/// Key-value options for [`new_filesystem`].
pub(super) fn options(pairs: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect()
}
