//! A root file system as files in a directory of the user.
//!
//! The directory may hold anything, links included, so nothing is ever opened by a path that could
//! lead out of it: every directory is opened from its parent, without following links, and a link
//! or file that stands where a directory belongs is replaced.

use std::collections::HashSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cache::snapshot::Snapshot;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::ExportError;
use crate::walk::{Node, NodeKind, walk};

/// What happens to what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalMode {
    /// Files of the image replace those of their name; others stay.
    #[default]
    Merge,
    /// Afterwards the directory holds exactly the image's files.
    Delete,
}

/// How a tree is written to a directory.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalOptions {
    /// What happens to what is there already.
    pub mode: LocalMode,
    /// `SOURCE_DATE_EPOCH`, in seconds: the time of every file.
    pub source_date_epoch: Option<i64>,
}

/// Writes the tree of a snapshot (an empty one for `None`) into a directory, which is made if it is
/// not there.
///
/// Files belong to whoever runs this; modes and times are the image's. Devices need the right to
/// make them. Sockets become empty files.
pub fn write_local(
    rootfs: Option<&Snapshot>,
    options: LocalOptions,
    directory: &Path,
) -> Result<(), ExportError> {
    let failed = |source| ExportError::Write { path: directory.to_owned(), source };
    fs_err::create_dir_all(directory).map_err(failed)?;
    if options.mode == LocalMode::Delete {
        refuse_to_mirror(directory)?;
    }
    let root = rustix::fs::open(directory, DIRECTORY - OFlags::NOFOLLOW, Mode::empty())
        .map_err(|errno| failed(errno.into()))?;
    let mut writer = Writer {
        directory,
        options,
        root,
        open: Vec::new(),
        written: HashSet::new(),
        directories: Vec::new(),
    };
    if let Some(rootfs) = rootfs {
        walk(rootfs, &mut |node| writer.write(node))?;
    }
    writer.finish()
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// `mode=delete` on `/` or a home directory is a mistake that cannot be undone.
fn refuse_to_mirror(directory: &Path) -> Result<(), ExportError> {
    let failed = |source| ExportError::Write { path: directory.to_owned(), source };
    let real = fs_err::canonicalize(directory).map_err(failed)?;
    let home = std::env::var_os("HOME").and_then(|home| fs_err::canonicalize(home).ok());
    let reason = match () {
        () if real.parent().is_none() => "it is the root of the file system",
        () if home.is_some_and(|home| home.starts_with(&real)) => "your home directory is in it",
        () if real.parent().is_some_and(|parent| parent.parent().is_none()) => {
            "it is a top-level directory of the system"
        }
        () => return Ok(()),
    };
    Err(ExportError::Protected { path: directory.to_owned(), reason })
}

struct Writer<'a> {
    directory: &'a Path,
    options: LocalOptions,
    root: OwnedFd,
    /// The directories from the root to the last node, by their paths. Nodes come depth first, so
    /// most of them are the next one's too.
    open: Vec<(PathBuf, OwnedFd)>,
    /// Every path of the image, kept for `mode=delete`.
    written: HashSet<PathBuf>,
    /// Modes and times of directories, which are set when nothing is written into them any more.
    directories: Vec<(PathBuf, Mode, Timestamps)>,
}

impl Writer<'_> {
    fn failed(&self, path: &Path) -> impl Fn(Errno) -> ExportError + use<> {
        let path = self.directory.join(path);
        move |errno| ExportError::Write { path: path.clone(), source: errno.into() }
    }

    fn write(&mut self, node: Node) -> Result<(), ExportError> {
        let failed = self.failed(&node.path);
        let parent_path = node.path.parent().unwrap_or(Path::new(""));
        while self.open.last().is_some_and(|(path, _)| path != parent_path) {
            self.open.pop();
        }
        if self.options.mode == LocalMode::Delete {
            self.written.insert(node.path.clone());
        }
        let name = node.path.file_name().unwrap_or_default();
        let parent = self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
        let times = self.times(&node);
        let mode = Mode::from_raw_mode(node.metadata.mode);
        if let NodeKind::Directory = node.kind {
            let fd = make_directory(parent, name).map_err(failed)?;
            self.open.push((node.path.clone(), fd));
            self.directories.push((node.path, mode, times));
            return Ok(());
        }
        remove(parent, name).map_err(&failed)?;
        match node.kind {
            NodeKind::Directory => unreachable!("handled above"),
            NodeKind::HardLink(first) => {
                return link(self.root.as_fd(), &first, parent, name).map_err(failed);
            }
            NodeKind::Symlink(target) => {
                rustix::fs::symlinkat(&target, parent, name).map_err(&failed)?;
            }
            NodeKind::Fifo => make_node(parent, name, FileType::Fifo, mode, 0).map_err(&failed)?,
            NodeKind::Device(device) => {
                let kind = match device.is_block {
                    true => FileType::BlockDevice,
                    false => FileType::CharacterDevice,
                };
                let number = rustix::fs::makedev(device.major, device.minor);
                make_node(parent, name, kind, mode, number).map_err(&failed)?;
            }
            NodeKind::Socket => drop(make_file(parent, name, mode).map_err(&failed)?),
            NodeKind::File(mut from, _) => {
                let to = make_file(parent, name, mode).map_err(&failed)?;
                std::io::copy(&mut from, &mut &to).map_err(|source| ExportError::Write {
                    path: self.directory.join(&node.path),
                    source,
                })?;
                // Writing may have cleared set-user-ID.
                rustix::fs::fchmod(&to, mode).map_err(&failed)?;
            }
        }
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
    }

    fn times(&self, node: &Node) -> Timestamps {
        let time = match self.options.source_date_epoch {
            Some(epoch) => Timespec { tv_sec: epoch, tv_nsec: 0 },
            None => Timespec {
                tv_sec: node.metadata.mtime,
                tv_nsec: node.metadata.mtime_nanoseconds.into(),
            },
        };
        Timestamps { last_access: time, last_modification: time }
    }

    fn finish(mut self) -> Result<(), ExportError> {
        self.open.clear();
        if self.options.mode == LocalMode::Delete {
            let root = rustix::fs::openat(&self.root, ".", DIRECTORY, Mode::empty())
                .map_err(self.failed(Path::new("")))?;
            self.delete_others(root, Path::new(""))?;
        }
        // The deepest first: setting a mode may lock the way down.
        for (path, mode, times) in self.directories.iter().rev() {
            let failed = self.failed(path);
            let fd = descend(self.root.as_fd(), path).map_err(&failed)?;
            rustix::fs::futimens(&fd, times).map_err(&failed)?;
            rustix::fs::fchmod(&fd, *mode).map_err(failed)?;
        }
        Ok(())
    }

    /// Removes everything the image does not have.
    fn delete_others(&self, directory: OwnedFd, path: &Path) -> Result<(), ExportError> {
        let failed = self.failed(path);
        let mut waiting = vec![(directory, path.to_owned())];
        while let Some((directory, path)) = waiting.pop() {
            for (name, is_directory) in list(directory.as_fd()).map_err(&failed)? {
                let path = path.join(&name);
                if !self.written.contains(&path) {
                    remove(directory.as_fd(), &name).map_err(self.failed(&path))?;
                } else if is_directory {
                    let fd = rustix::fs::openat(&directory, &name, DIRECTORY, Mode::empty())
                        .map_err(self.failed(&path))?;
                    waiting.push((fd, path));
                }
            }
        }
        Ok(())
    }
}

/// Opens the directory `name`, made if need be, writable for us.
fn make_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
            }
        }
        Err(errno) => return Err(errno),
    }
    let fd = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?;
    // An old one may be locked; it gets the image's mode at the end.
    let stat = rustix::fs::fstat(&fd)?;
    if stat.st_mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o700))?;
    }
    Ok(fd)
}

/// Makes a file that was not there, with its mode.
fn make_file(parent: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::fchmod(&file, mode)?;
    Ok(file.into())
}

fn make_node(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    kind: FileType,
    mode: Mode,
    device: u64,
) -> Result<(), Errno> {
    rustix::fs::mknodat(parent, name, kind, mode, device)?;
    // Not through an open file: opening a device may do something. The mask has cut the mode.
    rustix::fs::chmodat(parent, name, mode, AtFlags::empty())
}

/// Opens a directory by its path below `root`, following no link on the way.
fn descend(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let mut fd = rustix::fs::openat(root, ".", DIRECTORY, Mode::empty())?;
    for part in path.components() {
        fd = rustix::fs::openat(&fd, part.as_os_str(), DIRECTORY, Mode::empty())?;
    }
    Ok(fd)
}

fn link(
    root: BorrowedFd<'_>,
    first: &Path,
    parent: BorrowedFd<'_>,
    name: &OsStr,
) -> Result<(), Errno> {
    let directory = descend(root, first.parent().unwrap_or(Path::new("")))?;
    let file = first.file_name().unwrap_or_default();
    rustix::fs::linkat(&directory, file, parent, name, AtFlags::empty())
}

/// Removes whatever has this name, and all below it; nothing is fine.
fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
    match cache::tree::remove(parent, &name) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// The names in a directory, and which of them are directories themselves.
fn list(directory: BorrowedFd<'_>) -> Result<Vec<(OsString, bool)>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        names.push((name.to_owned(), kind == FileType::Directory));
    }
    Ok(names)
}
