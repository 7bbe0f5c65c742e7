//! A layer's archive as a tree of changes.
//!
//! Every entry is placed by the name of its parent directory, which is found by walking open
//! directories one component at a time ([`place`]); nothing is ever opened by a longer path, and no
//! link is followed but by hand, inside the tree. What an archive may rely on, as it would if it were
//! unpacked onto the mounted layers below it:
//!
//! - parents that it omits: they look as they do below;
//! - a parent that is a link, here or below: its target, inside the tree;
//! - hard links to files of the layers below: they are copied up first;
//! - deletions, which mean the layers below alone, wherever in the archive they stand.
//!
//! Directories get their metadata at the end, when nothing is put into them any more.

mod place;

use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, mknodat, openat, statat, symlinkat};
use rustix::io::Errno;

use super::archive::{Archive, Entry, EntryKind, Piece};
use super::input::HashedInput;
use super::{AUFS_PREFIX, OPAQUE_MARK, UnpackLimits, WHITEOUT_PREFIX, printable, tree_error};
use crate::error::LayerError;
use crate::oci::DiffId;
use crate::snapshot::{ActiveSnapshot, LayerDigests};
use crate::tree::{self, Device};
use place::{Dir, Places};

/// What path names may be long, `PATH_MAX` of the kernel.
const MAX_PATH_BYTES: usize = 4096;

/// Writes the entries of an uncompressed layer into `into`, which must be empty, and returns the
/// digest of all of `tar`; compare it before committing. CPU- and disk-bound: call it where blocking
/// is allowed.
///
/// # Errors
/// Whatever is wrong with the archive, the first time something is; `into` is then half full and
/// good for nothing but dropping.
pub fn unpack(
    tar: &mut dyn Read,
    into: &ActiveSnapshot,
    limits: &UnpackLimits,
) -> Result<DiffId, LayerError> {
    let mut archive = Archive::from_source(HashedInput::new(tar), *limits);
    let mut unpacker = Unpacker { places: Places::new(into, limits.depth)? };
    while let Some(entry) = archive.next_entry()? {
        unpacker.entry(&mut archive, entry)?;
    }
    unpacker.places.finish()?;
    let size = archive.finish()?;
    let diff_id = DiffId(archive.into_source().finish());
    into.set_unpacked(LayerDigests::of_image_layer(diff_id, size));
    Ok(diff_id)
}

struct Unpacker {
    places: Places,
}

/// A checked path of an archive: components joined by single slashes, none of them `.` or `..`.
struct CleanPath {
    path: Vec<u8>,
}

impl CleanPath {
    fn new(path: &[u8]) -> Result<CleanPath, LayerError> {
        let refuse = |reason: &str| {
            Err(LayerError::Entry { name: printable(path), reason: reason.to_owned() })
        };
        if path.len() > MAX_PATH_BYTES {
            return refuse("the name is longer than 4096 bytes");
        }
        let mut clean = Vec::with_capacity(path.len());
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return refuse("the name climbs with `..`"),
                _ => {}
            }
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(component);
        }
        Ok(CleanPath { path: clean })
    }

    /// Directory and name; the root has no name.
    fn split(&self) -> (&[u8], &[u8]) {
        match self.path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.path[..slash], &self.path[slash + 1..]),
            None => (b"", &self.path),
        }
    }
}

impl Unpacker {
    fn entry(
        &mut self,
        archive: &mut Archive<HashedInput<'_>>,
        entry: Entry,
    ) -> Result<(), LayerError> {
        let clean = CleanPath::new(&entry.path)?;
        let refuse = |reason: &str| {
            Err(LayerError::Entry { name: printable(&entry.path), reason: reason.to_owned() })
        };
        let (parent, name) = clean.split();
        if name.is_empty() {
            return match entry.kind {
                EntryKind::Directory => self.places.set_directory(b"", entry.metadata),
                _ => refuse("the root can only be a directory"),
            };
        }
        let mut above = parent.split(|byte| *byte == b'/');
        if above.clone().any(|component| component.starts_with(AUFS_PREFIX)) {
            return Ok(());
        }
        if above.any(|component| component.starts_with(WHITEOUT_PREFIX)) {
            return refuse("a deletion has nothing in it");
        }
        if name == OPAQUE_MARK {
            let dir = self.places.directory(parent)?;
            return self.places.make_opaque(&dir);
        }
        if name.starts_with(AUFS_PREFIX) {
            return Ok(());
        }
        if let Some(deleted) = name.strip_prefix(WHITEOUT_PREFIX) {
            if matches!(deleted, b"" | b"." | b"..") {
                return refuse("that deletes nothing that has a name");
            }
            let dir = self.places.directory(parent)?;
            return self.places.whiteout(&dir, &c_string(deleted)?);
        }
        let dir = self.places.directory(parent)?;
        let name = &c_string(name)?;
        let path = dir.child(name);
        match &entry.kind {
            EntryKind::Directory => {
                self.places.make_directory(&dir, name)?;
                return self.places.set_directory(&path, entry.metadata);
            }
            EntryKind::File => return self.file(archive, &dir, name, &entry),
            EntryKind::HardLink(target) => {
                let target = CleanPath::new(target)?;
                return self.hard_link(&dir, name, &target);
            }
            EntryKind::Symlink(target) => {
                self.places.placed(&dir, name, || symlinkat(&target[..], &dir.fd, name))?;
            }
            EntryKind::Fifo => {
                let mode = Mode::RUSR | Mode::WUSR;
                self.places
                    .placed(&dir, name, || mknodat(&dir.fd, name, FileType::Fifo, mode, 0))?;
            }
            EntryKind::Device(device) => {
                if !self.device(&dir, name, *device)? {
                    let file = self.create(&dir, name)?;
                    return tree::set_device(&file, *device)
                        .and_then(|()| self.places.set_metadata(&file, &entry.metadata))
                        .map_err(|errno| tree_error("record the device", &path, errno));
                }
            }
        }
        let is_link = matches!(entry.kind, EntryKind::Symlink(_));
        tree::set_metadata_of_link(&dir.fd, name, is_link, &entry.metadata)
            .map_err(|errno| tree_error("set the metadata of", &path, errno))
    }

    fn file(
        &mut self,
        archive: &mut Archive<HashedInput<'_>>,
        dir: &Dir,
        name: &CStr,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let path = dir.child(name);
        let write = |errno| tree_error("write", &path, errno);
        let file = self.create(dir, name)?;
        let mut position = 0;
        let mut has_holes = false;
        archive
            .content(&mut |piece| {
                match piece {
                    Piece::Data(data) => {
                        write_all_at(&file, data, position)?;
                        position += data.len() as u64;
                    }
                    Piece::Hole(length) => {
                        position += length;
                        has_holes = true;
                    }
                }
                Ok(())
            })
            .map_err(|error| match error {
                LayerError::Write { source } => {
                    LayerError::Tree { attempt: "write", name: printable(&path), source }
                }
                error => error,
            })?;
        if has_holes {
            rustix::fs::ftruncate(&file, entry.size).map_err(write)?;
        }
        self.places.set_metadata(&file, &entry.metadata).map_err(write)
    }

    /// Makes the node; `false` if somebody unprivileged cannot, or if overlayfs would read it as a
    /// deletion.
    fn device(&mut self, dir: &Dir, name: &CStr, device: Device) -> Result<bool, LayerError> {
        let number = rustix::fs::makedev(device.major, device.minor);
        if number == 0 && !device.is_block {
            return Ok(false);
        }
        let kind = if device.is_block { FileType::BlockDevice } else { FileType::CharacterDevice };
        let mode = Mode::RUSR | Mode::WUSR;
        let mut denied = false;
        self.places.placed(dir, name, || match mknodat(&dir.fd, name, kind, mode, number) {
            Err(Errno::PERM) => {
                denied = true;
                Ok(())
            }
            result => result,
        })?;
        Ok(!denied)
    }

    fn hard_link(&mut self, dir: &Dir, name: &CStr, target: &CleanPath) -> Result<(), LayerError> {
        let path = dir.child(name);
        let refuse = |reason: &str| {
            Err(LayerError::Entry { name: printable(&path), reason: reason.to_owned() })
        };
        let (target_parent, target_name) = target.split();
        if target_name.is_empty() {
            return refuse("it is a hard link to the root");
        }
        let target_dir = self.places.directory(target_parent)?;
        let target_name = c_string(target_name)?;
        if target_dir.child(&target_name) == path {
            return refuse("it is a hard link to itself");
        }
        match statat(&target_dir.fd, &target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if tree::is_whiteout(&stat) => {
                return refuse("it is a hard link to a deleted file");
            }
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return refuse("it is a hard link to a directory");
            }
            Ok(_) => {}
            Err(Errno::NOENT) => self.copy_up(&target_dir, &target_name, &path)?,
            Err(errno) => return Err(tree_error("link to the target of", &path, errno)),
        }
        self.places.placed(dir, name, || {
            linkat(&target_dir.fd, &target_name, &dir.fd, name, AtFlags::empty())
        })
    }

    /// Copies a file of the layers below into this one, for `link` to be linked to it.
    fn copy_up(&mut self, dir: &Dir, name: &CStr, link: &[u8]) -> Result<(), LayerError> {
        let path = dir.child(name);
        let failed = |errno| tree_error("copy up", &path, errno);
        let below = self.places.below(&dir.path)?.entry(name).map_err(failed)?;
        let Some(below) = below else {
            let reason =
                format!("it is a hard link to `{}`, which does not exist", printable(&path));
            return Err(LayerError::Entry { name: printable(link), reason });
        };
        match below.file_type() {
            FileType::RegularFile => {
                let source = tree::open_file(below.dir(), name).map_err(failed)?;
                let file = self.create(dir, name)?;
                copy(&source, &file).map_err(failed)?;
                if let Some(device) = tree::read_device(&source).map_err(failed)? {
                    tree::set_device(&file, device).map_err(failed)?;
                }
                tree::read_metadata(&below.stat, Some(source.as_fd()))
                    .and_then(|metadata| self.places.set_metadata(&file, &metadata))
                    .map_err(failed)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(below.dir(), name, Vec::new());
                target
                    .and_then(|target| symlinkat(&target, &dir.fd, name))
                    .and_then(|()| tree::read_metadata(&below.stat, None))
                    .and_then(|metadata| tree::set_metadata_of_link(&dir.fd, name, true, &metadata))
                    .map_err(failed)
            }
            _ => {
                let reason = format!(
                    "it is a hard link to `{}`, which is no file of the layers below",
                    printable(&path)
                );
                Err(LayerError::Entry { name: printable(link), reason })
            }
        }
    }

    /// A new, empty file.
    fn create(&mut self, dir: &Dir, name: &CStr) -> Result<OwnedFd, LayerError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        self.places.placed(dir, name, || openat(&dir.fd, name, flags, mode))
    }
}

fn c_string(name: &[u8]) -> Result<CString, LayerError> {
    CString::new(name).map_err(|_| LayerError::Entry {
        name: printable(name),
        reason: "the name contains a NUL byte".to_owned(),
    })
}

fn write_all_at(file: &OwnedFd, mut data: &[u8], mut position: u64) -> Result<(), Errno> {
    while !data.is_empty() {
        match rustix::io::pwrite(file, data, position) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                data = &data[written..];
                position += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy(source: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let mut buffer = vec![0; 128 << 10];
    let mut position = 0;
    loop {
        match rustix::io::read(source, &mut buffer[..]) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                write_all_at(target, &buffer[..length], position)?;
                position += length as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
