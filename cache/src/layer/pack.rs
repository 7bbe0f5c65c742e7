//! A tree of changes as a tar archive.
//!
//! The walk goes through the snapshot's own directories of changes (one, and those that it amends:
//! [`crate::snapshot::Snapshots::amend`]) as one tree, names in byte order, with the merged view of
//! the layers below beside it. A whiteout in an amendment takes out what the amended ones have, one
//! in the lowest directory is a deletion. What it writes, and what not:
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
//! What an earlier packing is known to have begun with is passed over: [`super::checkpoint`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Stat, readlinkat};
use rustix::io::Errno;

use super::checkpoint::{Checkpoint, Mark, Trace};
use super::header::Kind;
use super::pending::{Pending, PendingFile, Source};
use super::reading::{Opened, ToRead, read as read_file};
use super::resume::Resuming;
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
    Ok(pack_after(snapshot, &[], out)?.0)
}

/// What [`pack`] finds, without the archive, and its checkpoints. `earlier` are those of a layer on
/// the same parent of which this one may have files.
///
/// # Errors
/// As [`pack`].
pub(crate) fn digest(
    snapshot: &Snapshot,
    earlier: &[Checkpoint],
) -> Result<(PackedLayer, Vec<Checkpoint>), LayerError> {
    pack_after(snapshot, earlier, &mut io::sink())
}

fn pack_after(
    snapshot: &Snapshot,
    earlier: &[Checkpoint],
    out: &mut dyn Write,
) -> Result<(PackedLayer, Vec<Checkpoint>), LayerError> {
    let lower = match snapshot.parent() {
        None => MergedDir::default(),
        Some(parent) => MergedDir::open(parent.layers().map(SnapshotLayer::upper))
            .map_err(|errno| tree_error("open the root of", b"/", errno))?,
    };
    let own = snapshot.own_layers().map(SnapshotLayer::upper);
    pack_tree(MergedDir::open(own), &lower, earlier, out)
}

/// As [`pack`], of a directory that is no snapshot, as if it were one on nothing.
pub fn pack_directory(directory: &Path, out: &mut dyn Write) -> Result<PackedLayer, LayerError> {
    let changes = MergedDir::open(std::iter::once(directory));
    Ok(pack_tree(changes, &MergedDir::default(), &[], out)?.0)
}

fn pack_tree(
    changes: Result<MergedDir, Errno>,
    lower: &MergedDir,
    earlier: &[Checkpoint],
    out: &mut dyn Write,
) -> Result<(PackedLayer, Vec<Checkpoint>), LayerError> {
    let changes = changes.map_err(|errno| tree_error("open the root of", b"/", errno))?;
    let mut packer = Packer::new(out, earlier);
    packer.directory(&Level { path: b"", changes: &changes, lower, is_opaque: false })?;
    packer.pass_over()?;
    packer.out.finish()
}

/// Deeper trees run out of open files and stack; no path that deep can be given to a system call.
const MAX_DEPTH: usize = 1_000;

struct Packer<'a> {
    out: Pending<'a>,
    /// Directories above that are the same as below, outermost first: their path, their metadata.
    unwritten: Vec<(Vec<u8>, Metadata)>,
    /// First name of every inode that has several: (device, inode) → path.
    links: HashMap<(u64, u64), Vec<u8>>,
    depth: usize,
    /// The names of the layer's own directories so far.
    trace: Trace,
    /// While it is not known yet how much of an earlier archive this one begins with.
    resuming: Option<Resuming<'a>>,
    /// A name may have been left out for what lies below, which passing over cannot know.
    is_plain: bool,
}

/// A directory being walked.
struct Level<'a> {
    /// Empty, or with a slash at its end.
    path: &'a [u8],
    changes: &'a MergedDir,
    /// What the layers below have there, hidden or not.
    lower: &'a MergedDir,
    /// Whether it is hidden: what is not there again must be deleted.
    is_opaque: bool,
}

/// One name in it.
pub(super) struct Found {
    name: CString,
    path: Vec<u8>,
    change: MergedEntry,
    below: Option<MergedEntry>,
    /// Where a symbolic link points.
    link: CString,
    /// Where the walk stands behind it.
    mark: Mark,
}

/// What the walk meets, in the order of the archive.
pub(super) enum Event {
    /// A directory begins. Its path ends with a slash.
    Directory { path: Vec<u8>, metadata: Metadata, is_same: bool },
    /// It ends.
    EndOfDirectory { path: Vec<u8> },
    /// Anything else.
    Found(Box<Found>),
}

impl Event {
    /// The inode and the path of a file that may have further names behind it.
    pub(super) fn linked(self) -> Option<((u64, u64), Vec<u8>)> {
        let Event::Found(found) = self else { return None };
        let stat = found.change.stat;
        let is_linked = stat.st_nlink > 1 && !tree::is_whiteout(&stat);
        is_linked.then_some((inode_of(&stat), found.path))
    }
}

impl<'a> Packer<'a> {
    fn new(out: &'a mut dyn Write, earlier: &'a [Checkpoint]) -> Self {
        Packer {
            out: Pending::new(out),
            unwritten: Vec::new(),
            links: HashMap::new(),
            depth: 0,
            trace: Trace::new(),
            resuming: Resuming::new(earlier),
            is_plain: true,
        }
    }

    /// Ends the search for the end of what an earlier archive has too: goes on behind that.
    fn pass_over(&mut self) -> Result<(), LayerError> {
        let Some(resuming) = self.resuming.take() else { return Ok(()) };
        let (shared, events) = resuming.end();
        self.out.resume(shared);
        events.into_iter().try_for_each(|event| self.write(event))
    }

    /// Takes what the walk met, and writes it unless an earlier archive has it.
    fn meet(&mut self, event: Event) -> Result<(), LayerError> {
        let Some(resuming) = &mut self.resuming else { return self.write(event) };
        if !resuming.meet(event, &self.trace, &mut self.links) {
            self.pass_over()?;
        }
        Ok(())
    }

    fn write(&mut self, event: Event) -> Result<(), LayerError> {
        match event {
            Event::Directory { path, metadata, is_same: true } => {
                self.unwritten.push((path, metadata));
                Ok(())
            }
            Event::Directory { path, metadata, is_same: false } => {
                self.write_parents()?;
                self.out.entry(&path, Kind::Directory, &metadata)
            }
            Event::EndOfDirectory { path } => {
                // If nothing in it was written, neither is it.
                self.unwritten.pop_if(|(unwritten, _)| *unwritten == path);
                Ok(())
            }
            Event::Found(found) => self.write_found(*found),
        }
    }

    /// Writes what is in a directory.
    fn directory(&mut self, level: &Level<'_>) -> Result<(), LayerError> {
        let list = |errno| tree_error("list", level.path, errno);
        let mut names = level.changes.names_and_deletions().map_err(list)?;
        if level.is_opaque {
            self.pass_over()?;
            self.is_plain = false;
            names.extend(level.lower.names().map_err(list)?);
            names.sort_unstable();
            names.dedup();
        }
        for name in names {
            let path = [level.path, name.to_bytes()].concat();
            let read = |errno| tree_error("read", &path, errno);
            let below = level.lower.entry(&name).map_err(read)?;
            match level.changes.entry_or_deletion(&name).map_err(read)? {
                Some(change) => self.found(level, name, path, change, below)?,
                None if level.is_opaque => {
                    self.whiteout(&path, below.is_some(), self.trace.mark())?
                }
                None => return Err(read(Errno::NOENT)),
            }
        }
        Ok(())
    }

    fn found(
        &mut self,
        level: &Level<'_>,
        name: CString,
        path: Vec<u8>,
        change: MergedEntry,
        below: Option<MergedEntry>,
    ) -> Result<(), LayerError> {
        if name.to_bytes().starts_with(WHITEOUT_PREFIX) && !tree::is_whiteout(&change.stat) {
            return Err(LayerError::ReservedName { name: printable(&path) });
        }
        let link = match FileType::from_raw_mode(change.stat.st_mode) {
            FileType::Directory => return self.subdirectory(level, &name, path, &change, below),
            FileType::Symlink => readlinkat(change.dir(), &name, Vec::new())
                .map_err(|errno| tree_error("read", &path, errno))?,
            _ => CString::default(),
        };
        self.trace.add(&path, &change.stat, &Metadata::default(), link.to_bytes());
        let mark = self.trace.mark();
        self.meet(Event::Found(Box::new(Found { name, path, change, below, link, mark })))
    }

    fn write_found(&mut self, found: Found) -> Result<(), LayerError> {
        match FileType::from_raw_mode(found.change.stat.st_mode) {
            _ if tree::is_whiteout(&found.change.stat) => {}
            FileType::RegularFile => return self.file(found),
            FileType::Symlink => return self.symlink(&found),
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                return self.special(&found);
            }
            // A socket means nothing without its process; what it replaced is gone all the same.
            _ => {}
        }
        self.whiteout(&found.path, found.below.is_some(), found.mark)
    }

    fn symlink(&mut self, found: &Found) -> Result<(), LayerError> {
        let read = |errno| tree_error("read", &found.path, errno);
        let metadata = tree::read_metadata(&found.change.stat, None).map_err(read)?;
        if let Some(below) = &found.below
            && has_same_stat(&found.change.stat, &below.stat)
            && readlinkat(below.dir(), &found.name, Vec::new()).map_err(read)? == found.link
        {
            self.is_plain = false;
            return Ok(());
        }
        self.write_entry(found, Kind::Symlink { target: found.link.to_bytes() }, &metadata)
    }

    fn subdirectory(
        &mut self,
        level: &Level<'_>,
        name: &CStr,
        path: Vec<u8>,
        change: &MergedEntry,
        below: Option<MergedEntry>,
    ) -> Result<(), LayerError> {
        let read = |errno| tree_error("read", &path, errno);
        if self.depth == MAX_DEPTH {
            return Err(read(Errno::NAMETOOLONG));
        }
        let changes = level.changes.dir_of(name, change).map_err(read)?;
        if changes.is_nowhere() {
            return Err(read(Errno::NOTDIR));
        }
        let metadata = tree::read_metadata(&change.stat, changes.topmost()).map_err(read)?;
        let lower = match &below {
            Some(below) => level.lower.dir_of(name, below).map_err(read)?,
            None => MergedDir::default(),
        };
        let is_same = match (&below, lower.topmost()) {
            (Some(below), Some(dir)) => {
                // The time of a directory alone is no change (BuildKit's rule): whatever is made
                // in `/tmp` and taken away again leaves no trace.
                let Metadata { mtime, mtime_nanoseconds, .. } = metadata;
                let below = tree::read_metadata(&below.stat, Some(dir)).map_err(read)?;
                Metadata { mtime, mtime_nanoseconds, ..below } == metadata
            }
            _ => false,
        };
        let is_opaque = level.is_opaque || changes.is_opaque();
        self.trace.add(&path, &change.stat, &metadata, b"");
        let path = [&path[..], b"/"].concat();
        self.meet(Event::Directory { path: path.clone(), metadata, is_same })?;
        self.depth += 1;
        self.directory(&Level { path: &path, changes: &changes, lower: &lower, is_opaque })?;
        self.depth -= 1;
        self.meet(Event::EndOfDirectory { path })
    }

    fn file(&mut self, found: Found) -> Result<(), LayerError> {
        let to_read = ToRead {
            dir: found.change.shared_dir(),
            name: found.name,
            stat: found.change.stat,
            is_further: self.links.contains_key(&inode_of(&found.change.stat)),
        };
        let source = match &found.below {
            Some(below) if has_same_stat(&found.change.stat, &below.stat) => {
                let opened = read_file(&to_read, Vec::new());
                let opened = opened.map_err(|errno| tree_error("read", &found.path, errno))?;
                if is_as_below(&to_read, &opened, below)
                    .map_err(|errno| tree_error("compare", &found.path, errno))?
                {
                    self.is_plain = false;
                    return Ok(());
                }
                Source::Read(opened)
            }
            _ => Source::Unread(Some(to_read)),
        };
        let first = self.first_name(&found.path, &found.change.stat);
        self.write_parents()?;
        let size = found.change.stat.st_size as u64;
        self.out.file(PendingFile { path: found.path, size, first, source })?;
        self.end_entry(found.mark)
    }

    fn special(&mut self, found: &Found) -> Result<(), LayerError> {
        let is_same = |below: &MergedEntry| {
            has_same_stat(&found.change.stat, &below.stat)
                && found.change.stat.st_rdev == below.stat.st_rdev
        };
        if found.below.as_ref().is_some_and(is_same) {
            self.is_plain = false;
            return Ok(());
        }
        let metadata = tree::read_metadata(&found.change.stat, None)
            .map_err(|errno| tree_error("read", &found.path, errno))?;
        let device = |is_block| {
            let number = found.change.stat.st_rdev;
            let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
            Kind::Device(Device { is_block, major, minor })
        };
        let kind = match FileType::from_raw_mode(found.change.stat.st_mode) {
            FileType::CharacterDevice => device(false),
            FileType::BlockDevice => device(true),
            _ => Kind::Fifo,
        };
        self.write_entry(found, kind, &metadata)
    }

    /// Writes an entry that has no content, as a hard link if an earlier one is the same inode.
    fn write_entry(
        &mut self,
        found: &Found,
        kind: Kind<'_>,
        metadata: &Metadata,
    ) -> Result<(), LayerError> {
        let first = self.first_name(&found.path, &found.change.stat);
        let kind = first.as_ref().map_or(kind, |target| Kind::HardLink { target });
        self.write_parents()?;
        self.out.entry(&found.path, kind, metadata)?;
        self.end_entry(found.mark)
    }

    /// The earlier entry that is the same inode; if there is none, this one is the first.
    fn first_name(&mut self, path: &[u8], stat: &Stat) -> Option<Vec<u8>> {
        if stat.st_nlink < 2 {
            return None;
        }
        match self.links.entry(inode_of(stat)) {
            Entry::Occupied(first) => Some(first.get().clone()),
            Entry::Vacant(place) => {
                place.insert(path.to_owned());
                None
            }
        }
    }

    /// Deletes what the layers below have at `path`.
    fn whiteout(
        &mut self,
        path: &[u8],
        hides_something: bool,
        mark: Mark,
    ) -> Result<(), LayerError> {
        if !hides_something {
            return Ok(());
        }
        self.write_parents()?;
        let name = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let path = [&path[..name], WHITEOUT_PREFIX, &path[name..]].concat();
        self.out.entry(&path, Kind::Whiteout, &Metadata::default())?;
        self.end_entry(mark)
    }

    fn end_entry(&mut self, mark: Mark) -> Result<(), LayerError> {
        self.out.end_entry(self.is_plain.then_some(mark))
    }

    fn write_parents(&mut self) -> Result<(), LayerError> {
        for (path, metadata) in std::mem::take(&mut self.unwritten) {
            self.out.entry(&path, Kind::Directory, &metadata)?;
        }
        Ok(())
    }
}

/// What the names of one file share.
fn inode_of(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Whether a file with the same `stat` as that below is the same in everything.
fn is_as_below(file: &ToRead, opened: &Opened, below: &MergedEntry) -> Result<bool, Errno> {
    let other = tree::open_file(below.dir(), &file.name)?;
    if tree::read_metadata(&below.stat, Some(other.as_fd()))? != opened.metadata
        || tree::read_device(&other)? != opened.device
    {
        return Ok(false);
    }
    // With nanoseconds in the time nobody wrote to it; without, it may be an archive's.
    Ok(file.stat.st_mtime_nsec != 0
        || have_same_content(&tree::open_file(&file.dir, &file.name)?, &other)?)
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
