//! The copy of one file.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use rustix::io::Errno;

use super::target::{
    Attributes, TargetDir, owner_error, set_attributes, set_missing_attributes, timestamps,
};
use crate::merged::{Kind, Meta, Owners};

/// The first copy of each file that has several names: its path in the target, by device and inode
/// of the source. Not its directory, which would stay open.
///
/// In many parts, because who copies a file holds the part it is in: all files of a snapshot may
/// have names in other snapshots too.
#[derive(Debug)]
pub(super) struct Links {
    parts: [Mutex<HashMap<(u64, u64), PathBuf>>; 64],
}

impl Default for Links {
    fn default() -> Self {
        Self { parts: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Links {
    /// Copies a file with `copy`, or makes `place` a further name of the copy that there is.
    pub(super) fn copy_once(
        &self,
        meta: &Meta,
        place: &Place<'_>,
        copy: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let part = &self.parts[meta.inode as usize % self.parts.len()];
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (meta.device, meta.inode);
        if let Some(first) = part.get(&key) {
            place.dir.clear(place.name)?;
            let (root, to) = (place.dir.tree_root()?, place.dir.upper()?);
            return Ok(rustix::fs::linkat(root, first, to, place.name, AtFlags::empty())?);
        }
        copy()?;
        let path = place.dir.path().join(place.name);
        // Directories of our layer all the way, which nobody else changes.
        part.insert(key, path.strip_prefix("/").unwrap_or(&path).to_owned());
        Ok(())
    }
}

/// Below this many bytes a read and a write are quicker than asking the kernel to copy (measured: about
/// 64 KiB).
const SMALL: u64 = 64 * 1024;

/// Whether this kernel and file system share blocks between files; asked once.
static CAN_CLONE: AtomicBool = AtomicBool::new(true);

/// A name in the target.
pub(super) struct Place<'a> {
    pub dir: &'a Arc<TargetDir>,
    pub name: &'a OsStr,
}

pub(super) fn copy_regular(
    source: &OwnedFd,
    meta: &Meta,
    place: &Place<'_>,
    attributes: &Attributes<'_>,
) -> io::Result<()> {
    let target = place.dir.create_file_with(place.name, attributes.mode)?;
    if meta.size < SMALL {
        copy_small(source, &target)?;
    } else {
        copy_large(source, &target)?;
    }
    let made = Meta::of_stat(&rustix::fs::fstat(&target)?);
    set_missing_attributes(target.as_fd(), &made, attributes, place.dir.owners())
}

fn copy_small(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    thread_local! {
        // One byte more than a small file has, so that a short read is its end.
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SMALL as usize + 1]);
    }
    BUFFER.with_borrow_mut(|buffer| {
        loop {
            let count = retry(|| rustix::io::read(source, &mut buffer[..]))?;
            let mut written = 0;
            while written < count {
                written += retry(|| rustix::io::write(target, &buffer[written..count]))?;
            }
            if count < buffer.len() {
                return Ok(());
            }
        }
    })
}

fn copy_large(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    if CAN_CLONE.load(Ordering::Relaxed) {
        match rustix::fs::ioctl_ficlone(target, source) {
            Ok(()) => return Ok(()),
            Err(_) => CAN_CLONE.store(false, Ordering::Relaxed),
        }
    }
    loop {
        match rustix::fs::copy_file_range(source, None, target, None, 1 << 30) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            // Across file systems; whatever was copied, both positions stand behind it.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::IO) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    let mut source = std::fs::File::from(source.try_clone()?);
    let mut target = std::fs::File::from(target.try_clone()?);
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => target.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// A further name of a file that was copied already.
pub(super) fn link(first: &Place<'_>, place: &Place<'_>) -> io::Result<()> {
    place.dir.clear(place.name)?;
    let (from, to) = (first.dir.upper()?, place.dir.upper()?);
    Ok(rustix::fs::linkat(from, first.name, to, place.name, AtFlags::empty())?)
}

pub(super) fn make_symlink(
    target: &OsStr,
    place: &Place<'_>,
    attributes: &Attributes<'_>,
) -> io::Result<()> {
    place.dir.clear(place.name)?;
    rustix::fs::symlinkat(target, place.dir.upper()?, place.name)?;
    set_without_opening(place, attributes)
}

/// A pipe or a device; of a socket, an empty file, as BuildKit makes of it.
pub(super) fn make_special(
    meta: &Meta,
    place: &Place<'_>,
    attributes: &Attributes<'_>,
) -> io::Result<()> {
    let kind = match meta.kind {
        Kind::Fifo => FileType::Fifo,
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        _ => {
            let file = place.dir.create_file(place.name)?;
            return set_attributes(file.as_fd(), attributes, place.dir.owners());
        }
    };
    place.dir.clear(place.name)?;
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(place.dir.upper()?, place.name, kind, mode, meta.rdev)?;
    let mode = Mode::from_raw_mode(attributes.mode);
    set_without_opening(place, attributes)?;
    rustix::fs::chmodat(place.dir.upper()?, place.name, mode, AtFlags::empty())?;
    // The change of mode came after the time was set, but does not touch it.
    Ok(())
}

/// Owner and time of what cannot or must not be opened.
fn set_without_opening(place: &Place<'_>, attributes: &Attributes<'_>) -> io::Result<()> {
    let dir = place.dir.upper()?;
    let owner = (Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)));
    match rustix::fs::chownat(dir, place.name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) => {}
        // Without ranges of ids, only files and directories remember their owner.
        Err(Errno::INVAL | Errno::PERM) if place.dir.owners() == Owners::Attribute => {}
        Err(errno) => return Err(owner_error(errno, attributes.uid, attributes.gid)),
    }
    if let Some(mtime) = attributes.mtime {
        let times = timestamps(mtime);
        rustix::fs::utimensat(dir, place.name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Sets the mode of what is there, unless it is a link, which has none.
pub(super) fn set_mode(place: &Place<'_>, mode: u32) -> io::Result<()> {
    let dir = place.dir.upper()?;
    let stat = rustix::fs::statat(dir, place.name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Ok(());
    }
    Ok(rustix::fs::chmodat(dir, place.name, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

/// Writes a file from memory.
pub(super) fn write_file(
    content: &mut dyn Read,
    place: &Place<'_>,
    attributes: &Attributes<'_>,
) -> io::Result<()> {
    let target = place.dir.create_file(place.name)?;
    let mut file = std::fs::File::from(target);
    io::copy(content, &mut file)?;
    set_attributes(file.as_fd(), attributes, place.dir.owners())
}

/// Names cannot hold NUL or a slash.
pub(super) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.contains(&0) && OsStr::from_bytes(name) != ".."
}
