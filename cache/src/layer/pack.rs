//! A tree of changes as a tar archive.
//!
//! The walk goes through the snapshot's own directory of changes, names in byte order, with the
//! merged view of the layers below beside it. What it writes, and what not:
//!
//! - a file that overlayfs copied up and that is the same as below: nothing;
//! - a directory that is the same as below: written only if something in it is, before that;
//! - a whiteout over nothing: nothing; over something: `.wh.<name>`;
//! - an opaque directory: explicit whiteouts for everything below that is not there again (never
//!   `.wh..wh..opq`, which half of the readers of layers get wrong);
//! - the first name of an inode as a file, further ones as hard links to it;
//! - sockets and the root: nothing.
//!
//! One pass computes sha256 of the archive and the fingerprint of the content, in bounded memory.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Stat, readlinkat, statat};
use rustix::io::Errno;

use super::digesting::Digesting;
use super::header::Kind;
use super::{PackedLayer, WHITEOUT_PREFIX, printable, tree_error};
use crate::error::LayerError;
use crate::snapshot::{Snapshot, SnapshotLayer};
use crate::tree::{self, Device, MergedDir, MergedEntry, Metadata};

/// Files are compared in pieces of this many bytes.
const COMPARE_BYTES: usize = 64 << 10;

/// Writes the changes of `snapshot` against its parent as a tar archive; the same tree gives the
/// same bytes. Reads the whole layer: call it where blocking is allowed.
///
/// # Errors
/// [`LayerError::ReservedName`] if the tree has a file whose name would be read as a deletion,
/// [`LayerError::Tree`] if it cannot be read, [`LayerError::Write`] if `out` fails.
pub fn pack(snapshot: &Snapshot, out: &mut dyn Write) -> Result<PackedLayer, LayerError> {
    let root = |errno| tree_error("open the root of", b"/", errno);
    let upper = tree::open_root(snapshot.upper()).map_err(root)?;
    let lower = match snapshot.parent() {
        None => MergedDir::default(),
        Some(parent) => MergedDir::open(parent.layers().map(SnapshotLayer::upper)).map_err(root)?,
    };
    let mut packer =
        Packer { out: Digesting::new(out), unwritten: Vec::new(), links: HashMap::new(), depth: 0 };
    packer.directory(&Level { path: b"", upper: &upper, lower: &lower, is_opaque: false })?;
    packer.out.finish()
}

/// As [`pack`], of a directory that is no snapshot, as if it were one on nothing.
pub fn pack_directory(directory: &Path, out: &mut dyn Write) -> Result<PackedLayer, LayerError> {
    let root = |errno| tree_error("open the root of", b"/", errno);
    let upper = tree::open_root(directory).map_err(root)?;
    let lower = MergedDir::default();
    let mut packer =
        Packer { out: Digesting::new(out), unwritten: Vec::new(), links: HashMap::new(), depth: 0 };
    packer.directory(&Level { path: b"", upper: &upper, lower: &lower, is_opaque: false })?;
    packer.out.finish()
}

/// Deeper trees run out of open files and stack; no path that deep can be given to a system call.
const MAX_DEPTH: usize = 1_000;

struct Packer<'a> {
    out: Digesting<'a>,
    /// Directories above that are the same as below, outermost first: their path, their metadata.
    unwritten: Vec<(Vec<u8>, Metadata)>,
    /// First name of every inode that has several: (device, inode) → path.
    links: HashMap<(u64, u64), Vec<u8>>,
    depth: usize,
}

/// A directory being walked.
struct Level<'a> {
    /// Empty, or with a slash at its end.
    path: &'a [u8],
    upper: &'a OwnedFd,
    /// What the layers below have there, hidden or not.
    lower: &'a MergedDir,
    /// Whether it is hidden: what is not there again must be deleted.
    is_opaque: bool,
}

/// One name in it.
struct Found<'a> {
    name: &'a CStr,
    path: Vec<u8>,
    stat: Stat,
    below: Option<MergedEntry>,
}

impl Packer<'_> {
    /// Writes what is in a directory.
    fn directory(&mut self, level: &Level<'_>) -> Result<(), LayerError> {
        let list = |errno| tree_error("list", level.path, errno);
        let mut names = tree::names(level.upper).map_err(list)?;
        if level.is_opaque {
            names.extend(level.lower.names().map_err(list)?);
            names.sort_unstable();
            names.dedup();
        }
        for name in names {
            let path = [level.path, name.to_bytes()].concat();
            let read = |errno| tree_error("read", &path, errno);
            let below = level.lower.entry(&name).map_err(read)?;
            let stat = match statat(level.upper, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if !tree::is_whiteout(&stat) => stat,
                Ok(_) => {
                    self.whiteout(level, &name, below.is_some())?;
                    continue;
                }
                Err(Errno::NOENT) if level.is_opaque => {
                    self.whiteout(level, &name, below.is_some())?;
                    continue;
                }
                Err(errno) => return Err(read(errno)),
            };
            self.found(level, Found { name: &name, path, stat, below })?;
        }
        Ok(())
    }

    fn found(&mut self, level: &Level<'_>, found: Found<'_>) -> Result<(), LayerError> {
        if found.name.to_bytes().starts_with(WHITEOUT_PREFIX) {
            return Err(LayerError::ReservedName { name: printable(&found.path) });
        }
        match FileType::from_raw_mode(found.stat.st_mode) {
            FileType::Directory => self.subdirectory(level, found),
            FileType::RegularFile => self.file(level, found),
            FileType::Symlink => {
                let read = |errno| tree_error("read", &found.path, errno);
                let target = readlinkat(level.upper, found.name, Vec::new()).map_err(read)?;
                let metadata = tree::read_metadata(&found.stat, None).map_err(read)?;
                if let Some(below) = &found.below
                    && has_same_stat(&found.stat, &below.stat)
                    && readlinkat(below.dir(), found.name, Vec::new()).map_err(read)? == target
                {
                    return Ok(());
                }
                self.write(&found, Kind::Symlink { target: target.to_bytes() }, &metadata)
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                self.special(&found)
            }
            // A socket means nothing without its process; what it replaced is gone all the same.
            _ => self.whiteout(level, found.name, found.below.is_some()),
        }
    }

    fn subdirectory(&mut self, level: &Level<'_>, found: Found<'_>) -> Result<(), LayerError> {
        let read = |errno| tree_error("read", &found.path, errno);
        if self.depth == MAX_DEPTH {
            return Err(read(Errno::NAMETOOLONG));
        }
        let upper = tree::open_dir(level.upper, found.name).map_err(read)?;
        let metadata = tree::read_metadata(&found.stat, Some(upper.as_fd())).map_err(read)?;
        let lower = match &found.below {
            Some(below) => level.lower.dir_of(found.name, below).map_err(read)?,
            None => MergedDir::default(),
        };
        let is_same = match (&found.below, lower.topmost()) {
            (Some(below), Some(dir)) => {
                // The time of a directory alone is no change (BuildKit's rule): whatever is made
                // in `/tmp` and taken away again leaves no trace.
                let Metadata { mtime, mtime_nanoseconds, .. } = metadata;
                let below = tree::read_metadata(&below.stat, Some(dir)).map_err(read)?;
                Metadata { mtime, mtime_nanoseconds, ..below } == metadata
            }
            _ => false,
        };
        let is_opaque = level.is_opaque || tree::is_opaque(&upper).map_err(read)?;
        let path = [&found.path[..], b"/"].concat();
        if is_same {
            self.unwritten.push((path.clone(), metadata));
        } else {
            self.write_parents()?;
            self.out.entry(&path, Kind::Directory, &metadata)?;
        }
        self.depth += 1;
        self.directory(&Level { path: &path, upper: &upper, lower: &lower, is_opaque })?;
        self.depth -= 1;
        // If nothing in it was written, neither is it.
        self.unwritten.pop_if(|(unwritten, _)| *unwritten == path);
        Ok(())
    }

    fn file(&mut self, level: &Level<'_>, found: Found<'_>) -> Result<(), LayerError> {
        let read = |errno| tree_error("read", &found.path, errno);
        let file = tree::open_file(level.upper, found.name).map_err(read)?;
        let metadata = tree::read_metadata(&found.stat, Some(file.as_fd())).map_err(read)?;
        let device = match found.stat.st_size {
            0 => tree::read_device(&file).map_err(read)?,
            _ => None,
        };
        if let Some(below) = &found.below
            && has_same_stat(&found.stat, &below.stat)
        {
            let other = tree::open_file(below.dir(), found.name).map_err(read)?;
            let same_metadata =
                tree::read_metadata(&below.stat, Some(other.as_fd())).map_err(read)? == metadata
                    && tree::read_device(&other).map_err(read)? == device;
            // With nanoseconds in the time nobody wrote to it; without, it may be an archive's.
            let is_exact = found.stat.st_mtime_nsec != 0;
            if same_metadata && (is_exact || have_same_content(&file, &other).map_err(read)?) {
                return Ok(());
            }
        }
        if let Some(device) = device {
            return self.write(&found, Kind::Device(device), &metadata);
        }
        let size = found.stat.st_size as u64;
        if !self.write_link(&found, &metadata)? {
            self.write_parents()?;
            self.out.entry(&found.path, Kind::File { size }, &metadata)?;
            self.out.content(&file, size, &found.path)?;
        }
        Ok(())
    }

    fn special(&mut self, found: &Found<'_>) -> Result<(), LayerError> {
        let is_same = |below: &MergedEntry| {
            has_same_stat(&found.stat, &below.stat) && found.stat.st_rdev == below.stat.st_rdev
        };
        if found.below.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        let metadata = tree::read_metadata(&found.stat, None)
            .map_err(|errno| tree_error("read", &found.path, errno))?;
        let device = |is_block| {
            let number = found.stat.st_rdev;
            let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
            Kind::Device(Device { is_block, major, minor })
        };
        let kind = match FileType::from_raw_mode(found.stat.st_mode) {
            FileType::CharacterDevice => device(false),
            FileType::BlockDevice => device(true),
            _ => Kind::Fifo,
        };
        self.write(found, kind, &metadata)
    }

    /// Writes an entry that has no content, as a hard link if an earlier one is the same inode.
    fn write(
        &mut self,
        found: &Found<'_>,
        kind: Kind<'_>,
        metadata: &Metadata,
    ) -> Result<(), LayerError> {
        if self.write_link(found, metadata)? {
            return Ok(());
        }
        self.write_parents()?;
        self.out.entry(&found.path, kind, metadata)
    }

    /// Writes a hard link if an earlier entry is the same inode; else notes this one as the first.
    fn write_link(&mut self, found: &Found<'_>, metadata: &Metadata) -> Result<bool, LayerError> {
        if found.stat.st_nlink < 2 {
            return Ok(false);
        }
        let inode = (found.stat.st_dev, found.stat.st_ino);
        let Some(target) = self.links.get(&inode).cloned() else {
            self.links.insert(inode, found.path.clone());
            return Ok(false);
        };
        self.write_parents()?;
        self.out.entry(&found.path, Kind::HardLink { target: &target }, metadata)?;
        Ok(true)
    }

    fn whiteout(
        &mut self,
        level: &Level<'_>,
        name: &CStr,
        hides_something: bool,
    ) -> Result<(), LayerError> {
        if !hides_something {
            return Ok(());
        }
        self.write_parents()?;
        let path = [level.path, WHITEOUT_PREFIX, name.to_bytes()].concat();
        self.out.entry(&path, Kind::Whiteout, &Metadata::default())
    }

    fn write_parents(&mut self) -> Result<(), LayerError> {
        for (path, metadata) in std::mem::take(&mut self.unwritten) {
            self.out.entry(&path, Kind::Directory, &metadata)?;
        }
        Ok(())
    }
}

/// Whether two files could be the same one, as far as `stat` tells: type, mode, owner, length, time.
/// Owners that were recorded instead of set are compared with the attributes.
fn has_same_stat(a: &Stat, b: &Stat) -> bool {
    (a.st_mode, a.st_uid, a.st_gid, a.st_size, a.st_mtime, a.st_mtime_nsec)
        == (b.st_mode, b.st_uid, b.st_gid, b.st_size, b.st_mtime, b.st_mtime_nsec)
}

fn have_same_content(a: &OwnedFd, b: &OwnedFd) -> Result<bool, Errno> {
    let (mut a_bytes, mut b_bytes) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
    let mut offset = 0;
    loop {
        let a_length = rustix::io::pread(a, &mut a_bytes[..], offset)?;
        let b_length = rustix::io::pread(b, &mut b_bytes[..], offset)?;
        // Both are whole files of one length: a short read is the end.
        if a_bytes[..a_length] != b_bytes[..b_length] {
            return Ok(false);
        }
        if a_length == 0 {
            return Ok(true);
        }
        offset += a_length as u64;
    }
}
