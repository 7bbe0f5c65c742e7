//! One mount, from an OCI description to a kernel mount that is attached nowhere yet.
//!
//! The engine turns a description into a [`MountPlan`]: it checks the options and opens the
//! sources of binds itself, as detached copies of the tree, so that what is mounted later is what
//! was checked now. Whoever attaches it, the engine in its own namespace ([`mount`]) or a
//! container's first process, then calls [`MountPlan::build`] and moves the result to its target.
//!
//! Overlays are made with `userxattr` always, as root too: one format on disk, whoever wrote it.

mod options;
mod overlay;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use serde::{Deserialize, Serialize};

pub(crate) use self::options::MountOptions;
use self::overlay::Overlay;
use crate::RuntimeError;
use crate::confined::open_in_root;
use crate::sys::{self, MountAttributes};

/// Mounts of the engine's own namespace, detached when this is dropped.
#[derive(Debug)]
pub struct MountGuard {
    /// In the order they were mounted.
    targets: Vec<PathBuf>,
}

/// Performs `mounts` below the existing directory `target`, in the engine's own mount namespace:
/// the destination `/` is `target` itself, other destinations must exist and are looked up inside
/// it. Needs [`crate::isolate`] first.
///
/// On error nothing stays mounted.
pub fn mount(mounts: &[Mount], target: &Path) -> Result<MountGuard, RuntimeError> {
    let mut guard = MountGuard { targets: Vec::with_capacity(mounts.len()) };
    for mount in mounts {
        let failed = |source: io::Error| RuntimeError::Mount {
            source_path: mount.source().clone().unwrap_or_default(),
            target: target.join(mount.destination().strip_prefix("/").unwrap_or(Path::new(""))),
            source,
        };
        let mut trees = Vec::new();
        let plan = MountPlan::new(mount, Devices::Dead, &mut trees)?;
        let root = rustix::fs::open(target, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        let place = open_in_root(&root, mount.destination(), OFlags::PATH).map_err(failed)?;
        let place_path = path_of(&place).map_err(failed)?;
        let mut trees: Vec<Option<OwnedFd>> = trees.into_iter().map(Some).collect();
        let spot = place_path.to_str().ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        let workspace = Workspace { spot, scratch: None };
        let tree = plan.build(&mut trees, &workspace).map_err(|error| failed(error.into_io()))?;
        attach(&tree, &place).map_err(failed)?;
        guard.targets.push(place_path);
    }
    Ok(guard)
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        for target in self.targets.drain(..).rev() {
            // The namespace goes away with the process anyway; a mount that is gone already, or
            // a target that was removed, leaves nothing to do.
            if let Err(error) =
                rustix::mount::unmount(&target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            {
                tracing::debug!(target = %target.display(), %error, "cannot unmount");
            }
        }
    }
}

/// A checked mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountPlan {
    /// Absolute path in the container.
    pub(crate) target: String,
    pub(crate) source: Source,
    /// For binds these have been applied already.
    pub(crate) attributes: MountAttributes,
    /// Mount this path inside the source instead.
    pub(crate) subpath: Option<String>,
}

/// Whether device nodes in a mount can be opened, unless its options say `dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Devices {
    Usable,
    /// They are files like others, which can be made, read with `stat` and deleted.
    Dead,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Source {
    /// The detached tree that travels as descriptor number so-and-so of the request.
    Tree(usize),
    /// A new instance of a file system such as tmpfs or proc.
    Filesystem { kind: String, options: Vec<(String, Option<String>)> },
    /// An overlay.
    Overlay(Overlay),
}

/// Directories that [`MountPlan::build`] may use for a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workspace<'a> {
    /// Something may be mounted here and unmounted again.
    pub(crate) spot: &'a str,
    /// An empty directory on a tmpfs for the writable layers of `strake.scratch` overlays.
    pub(crate) scratch: Option<&'a str>,
}

/// A refused mount, with what the file system itself had to say.
#[derive(Debug)]
pub(crate) struct BuildError {
    pub(crate) errno: i32,
    /// The kernel's log line, such as "overlay: maximum fs stacking depth exceeded".
    pub(crate) log: Option<String>,
}

impl MountPlan {
    /// Checks `mount` and opens its source, which is added to `trees` if it is a bind.
    pub(crate) fn new(
        mount: &Mount,
        devices: Devices,
        trees: &mut Vec<OwnedFd>,
    ) -> Result<MountPlan, RuntimeError> {
        let destination = mount.destination();
        let text = |path: &Path| {
            path.to_str().map(str::to_owned).ok_or_else(|| {
                RuntimeError::InvalidRequest(format!("the path {path:?} is not UTF-8"))
            })
        };
        if !destination.is_absolute() {
            return Err(RuntimeError::InvalidRequest(format!(
                "the mount target {destination:?} is not absolute"
            )));
        }
        let target = text(destination)?;
        let mut options = MountOptions::parse(mount.options().as_deref().unwrap_or_default())?;
        if devices == Devices::Dead && !options.devices {
            options.attributes.set |= libc::MOUNT_ATTR_NODEV;
        }
        let source = match mount.typ().as_deref() {
            Some("overlay") => {
                let overlay = Overlay::from_options(&mut options)?;
                match overlay.single_layer() {
                    // The kernel wants two layers, or a writable one.
                    Some(layer) => {
                        options.attributes.set |= libc::MOUNT_ATTR_RDONLY;
                        bind(Path::new(&layer), &mut options, destination, trees)?
                    }
                    None => Source::Overlay(overlay),
                }
            }
            Some("bind" | "rbind" | "none") | None => {
                let path = mount.source().as_deref().ok_or_else(|| {
                    RuntimeError::InvalidRequest(format!(
                        "the bind mount on {target} has no source"
                    ))
                })?;
                options.recursive |= mount.typ().as_deref() == Some("rbind");
                bind(path, &mut options, destination, trees)?
            }
            Some(_) if options.bind => {
                let path = mount.source().as_deref().unwrap_or(Path::new(""));
                bind(path, &mut options, destination, trees)?
            }
            Some(kind) => Source::Filesystem {
                kind: kind.to_owned(),
                options: std::mem::take(&mut options.data),
            },
        };
        Ok(MountPlan { target, source, attributes: options.attributes, subpath: options.subpath })
    }

    /// Makes the mount, attached nowhere.
    pub(crate) fn build(
        &self,
        trees: &mut [Option<OwnedFd>],
        workspace: &Workspace<'_>,
    ) -> Result<OwnedFd, BuildError> {
        let tree = match &self.source {
            Source::Tree(index) => {
                return trees
                    .get_mut(*index)
                    .and_then(Option::take)
                    .ok_or(BuildError { errno: libc::EBADF, log: None });
            }
            Source::Filesystem { kind, options } => {
                new_filesystem(kind, options, self.attributes.set)?
            }
            Source::Overlay(overlay) => overlay.build(self.attributes.set, workspace)?,
        };
        match &self.subpath {
            None => Ok(tree),
            Some(subpath) => {
                let part = cut_out(&tree, subpath, workspace.spot)?;
                Ok(part)
            }
        }
    }
}

/// Opens a copy of the tree at `path`.
fn bind(
    path: &Path,
    options: &mut MountOptions,
    destination: &Path,
    trees: &mut Vec<OwnedFd>,
) -> Result<Source, RuntimeError> {
    let failed = |source: io::Error| RuntimeError::Mount {
        source_path: path.to_owned(),
        target: destination.to_owned(),
        source,
    };
    if let Some((name, _)) = options.data.first() {
        return Err(RuntimeError::InvalidRequest(format!(
            "unknown option {name:?} of the bind mount on {}",
            destination.display()
        )));
    }
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(errno.into()))?;
    let place = match options.subpath.take() {
        None => place,
        Some(subpath) => open_in_root(&place, subpath, OFlags::PATH).map_err(failed)?,
    };
    let tree = match clone_tree(&place, options.recursive) {
        // In a user namespace, mounts inherited from outside are locked to those below them.
        Err(rustix::io::Errno::INVAL) if !options.recursive => {
            options.recursive = true;
            clone_tree(&place, true)
        }
        result => result,
    }
    .map_err(|errno| failed(errno.into()))?;
    options.attributes.recursive = options.recursive;
    if options.attributes.propagation == 0 {
        options.attributes.propagation = libc::MS_PRIVATE;
    }
    sys::mount_setattr(&tree, options.attributes).map_err(failed)?;
    trees.push(tree);
    Ok(Source::Tree(trees.len() - 1))
}

/// A detached copy of the mount at `place`, from there down.
pub(crate) fn clone_tree(place: impl AsFd, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(place, c"", flags)
}

/// Moves the detached mount `tree` onto what `place` refers to.
pub(crate) fn attach(tree: impl AsFd, place: impl AsFd) -> io::Result<()> {
    rustix::mount::move_mount(
        tree,
        c"",
        place,
        c"",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )?;
    Ok(())
}

/// Makes a new instance of a file system, attached nowhere.
pub(crate) fn new_filesystem(
    kind: &str,
    options: &[(String, Option<String>)],
    attributes: u64,
) -> Result<OwnedFd, BuildError> {
    let context = open_context(kind)?;
    for (key, value) in options {
        set_option(&context, key, value.as_deref())?;
    }
    create(&context, attributes)
}

fn open_context(kind: &str) -> Result<OwnedFd, BuildError> {
    Ok(rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?)
}

fn set_option(context: &OwnedFd, key: &str, value: Option<&str>) -> Result<(), BuildError> {
    match value {
        Some(value) => rustix::mount::fsconfig_set_string(context, key, value),
        None => rustix::mount::fsconfig_set_flag(context, key),
    }
    .map_err(|errno| BuildError::with_log(errno, context))
}

fn create(context: &OwnedFd, attributes: u64) -> Result<OwnedFd, BuildError> {
    rustix::mount::fsconfig_create(context)
        .map_err(|errno| BuildError::with_log(errno, context))?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|errno| BuildError::with_log(errno, context))
}

/// The part of a detached tree that `subpath` names.
fn cut_out(tree: &OwnedFd, subpath: &str, spot: &str) -> io::Result<OwnedFd> {
    // Copies can only be made of what is attached (until Linux 6.15), so it is, for a moment.
    let place = rustix::fs::open(spot, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(tree, &place)?;
    let part =
        open_in_root(tree, subpath, OFlags::PATH).and_then(|part| Ok(clone_tree(&part, false)?));
    rustix::mount::unmount(spot, UnmountFlags::DETACH)?;
    part
}

/// The path of an open directory or file.
fn path_of(fd: impl AsFd) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    fs_err::read_link(link)
}

/// Whether `fd` is a directory.
pub(crate) fn is_directory(fd: impl AsFd) -> io::Result<bool> {
    let status = rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH)?;
    Ok(rustix::fs::FileType::from_raw_mode(status.st_mode).is_dir())
}

/// `path` opened without following it further than path resolution does; relative to the root of
/// this process.
pub(crate) fn open_path(path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

impl BuildError {
    fn with_log(errno: rustix::io::Errno, context: &OwnedFd) -> BuildError {
        // Each read returns one line such as "e overlay: …"; the last is the reason.
        let mut log = None;
        let mut line = [0; 512];
        for _ in 0..8 {
            let Ok(length) = rustix::io::read(context, &mut line) else { break };
            let text = String::from_utf8_lossy(&line[..length]).trim().to_owned();
            log = Some(text.get(2..).map(str::to_owned).unwrap_or(text));
        }
        BuildError { errno: errno.raw_os_error(), log }
    }

    fn into_io(self) -> io::Error {
        let error = io::Error::from_raw_os_error(self.errno);
        match self.log {
            Some(log) => io::Error::new(error.kind(), format!("{log}: {error}")),
            None => error,
        }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", io::Error::from_raw_os_error(self.errno))
    }
}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        BuildError { errno: error.raw_os_error().unwrap_or(libc::EIO), log: None }
    }
}

impl From<rustix::io::Errno> for BuildError {
    fn from(errno: rustix::io::Errno) -> Self {
        BuildError { errno: errno.raw_os_error(), log: None }
    }
}
