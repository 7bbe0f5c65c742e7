//! A snapshot's file tree, node by node, without a mount.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cache::snapshot::Snapshot;
use cache::tree::{
    Device, MergedDir, MergedEntry, Metadata, open_dir, open_file, read_device, read_metadata,
};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::ExportError;

/// What a node is.
#[derive(Debug)]
pub(crate) enum NodeKind {
    Directory,
    /// A regular file, open for reading, of so many bytes.
    File(File, u64),
    /// Another name of a file that was visited before.
    HardLink(PathBuf),
    Symlink(OsString),
    Device(Device),
    Fifo,
    Socket,
}

/// One name of the tree.
#[derive(Debug)]
pub(crate) struct Node {
    /// Relative to the tree's root.
    pub(crate) path: PathBuf,
    pub(crate) kind: NodeKind,
    pub(crate) metadata: Metadata,
}

/// A directory whose names are not all visited yet.
struct Open {
    path: PathBuf,
    dir: MergedDir,
    /// The last one is next.
    names: Vec<CString>,
}

impl Open {
    fn new(path: PathBuf, dir: MergedDir) -> Result<Open, ExportError> {
        let mut names = dir.names().map_err(|errno| failed(&path, errno))?;
        names.reverse();
        Ok(Open { path, dir, names })
    }
}

/// Visits every node, parents before children, siblings in byte order; not the root itself.
pub(crate) fn walk(
    snapshot: &Snapshot,
    visit: &mut dyn FnMut(Node) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let uppers: Vec<&Path> = snapshot.layers().map(|layer| layer.upper()).collect();
    let root =
        MergedDir::open(uppers.into_iter()).map_err(|errno| failed(Path::new("/"), errno))?;
    let mut links = HashMap::new();
    // Not recursive: a tree may be deeper than a thread's stack.
    let mut open = vec![Open::new(PathBuf::new(), root)?];
    while let Some(current) = open.last_mut() {
        let Some(name) = current.names.pop() else {
            open.pop();
            continue;
        };
        let path = current.path.join(OsStr::from_bytes(name.to_bytes()));
        let failed = |errno| failed(&path, errno);
        let Some(entry) = current.dir.entry(&name).map_err(failed)? else { continue };
        let (kind, metadata) = read(&name, &entry, &path, &mut links).map_err(failed)?;
        let below = match kind {
            NodeKind::Directory => Some(current.dir.dir_of(&name, &entry).map_err(failed)?),
            _ => None,
        };
        visit(Node { path: path.clone(), kind, metadata })?;
        if let Some(below) = below {
            open.push(Open::new(path, below)?);
        }
    }
    Ok(())
}

fn failed(path: &Path, errno: Errno) -> ExportError {
    ExportError::Read { path: path.to_owned(), source: errno.into() }
}

fn read(
    name: &CStr,
    entry: &MergedEntry,
    path: &Path,
    links: &mut HashMap<(u64, u64), PathBuf>,
) -> Result<(NodeKind, Metadata), Errno> {
    let stat = &entry.stat;
    let unopened = || read_metadata(stat, None);
    match entry.file_type() {
        FileType::Directory => {
            let dir = open_dir(entry.dir(), name)?;
            Ok((NodeKind::Directory, read_metadata(stat, Some(dir.as_fd()))?))
        }
        FileType::RegularFile => {
            let file = open_file(entry.dir(), name)?;
            let metadata = read_metadata(stat, Some(file.as_fd()))?;
            if stat.st_nlink > 1 {
                match links.entry((stat.st_dev, stat.st_ino)) {
                    std::collections::hash_map::Entry::Occupied(first) => {
                        return Ok((NodeKind::HardLink(first.get().clone()), metadata));
                    }
                    std::collections::hash_map::Entry::Vacant(vacant) => {
                        vacant.insert(path.to_owned());
                    }
                }
            }
            let size = u64::try_from(stat.st_size).unwrap_or_default();
            let device = if size == 0 { read_device(&file)? } else { None };
            let kind = device.map_or_else(|| NodeKind::File(file.into(), size), NodeKind::Device);
            Ok((kind, metadata))
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(entry.dir(), name, Vec::new())?;
            Ok((NodeKind::Symlink(OsString::from_vec(target.into_bytes())), unopened()?))
        }
        FileType::Fifo => Ok((NodeKind::Fifo, unopened()?)),
        kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
            let device = Device {
                is_block: kind == FileType::BlockDevice,
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            };
            Ok((NodeKind::Device(device), unopened()?))
        }
        _ => Ok((NodeKind::Socket, unopened()?)),
    }
}
