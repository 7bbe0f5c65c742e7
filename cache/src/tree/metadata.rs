//! Owners, modes, times and extended attributes: read, and written in the one order that works.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// overlayfs' mark on a directory that hides what lies below it (`userxattr` form).
pub const OVERLAY_OPAQUE: &CStr = c"user.overlay.opaque";
/// overlayfs' own attributes; files of the tree that have such ones are escaped with
/// [`OVERLAY_ESCAPE`], as overlayfs does.
const OVERLAY_PREFIX: &[u8] = b"user.overlay.";
const OVERLAY_ESCAPE: &[u8] = b"user.overlay.overlay.";
/// Our own attributes: never let in, never let out.
const OWN_PREFIX: &[u8] = b"user.strake.";
const OWNER: &CStr = c"user.strake.owner";
const DEVICE: &CStr = c"user.strake.device";
const CAPABILITY: &[u8] = b"security.capability";

/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of the kernel.
const MAX_XATTR_BYTES: usize = 64 << 10;

/// One extended attribute as the tree's user sees it: `security.capability` or `user.*`, unescaped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// The full name.
    pub name: Vec<u8>,
    /// Any bytes.
    pub value: Vec<u8>,
}

/// A device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// A block device, not a character device.
    pub is_block: bool,
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// What a file has beside its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits with set-user-ID, set-group-ID and sticky: 12 bits.
    pub mode: u32,
    /// The owner as the image means it, even where it could not be set.
    pub uid: u32,
    /// The group, likewise.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds, below a billion.
    pub mtime_nanoseconds: u32,
    /// In order of their names.
    pub xattrs: Vec<Xattr>,
}

/// Whether `stat` is of overlayfs' mark for a deleted file.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Makes overlayfs' mark for a deleted file. Needs no privilege.
pub fn make_whiteout(dir: impl AsFd, name: &CStr) -> Result<(), Errno> {
    rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
}

/// Whether the open directory hides what lies below it.
pub fn is_opaque(dir: impl AsFd) -> Result<bool, Errno> {
    let mut value = [0; 8];
    match rustix::fs::fgetxattr(dir, OVERLAY_OPAQUE, &mut value[..]) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Makes the open directory hide what lies below it.
pub fn set_opaque(dir: impl AsFd) -> Result<(), Errno> {
    rustix::fs::fsetxattr(dir, OVERLAY_OPAQUE, b"y", XattrFlags::empty())
}

/// The metadata of a file whose `stat` is known. `file` is the open file; only regular files and
/// directories have one, and only they can have attributes that layers keep.
pub fn read_metadata(stat: &Stat, file: Option<BorrowedFd<'_>>) -> Result<Metadata, Errno> {
    let mut metadata = Metadata {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: stat.st_mtime,
        mtime_nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        xattrs: Vec::new(),
    };
    if let Some(file) = file {
        let all = list_xattrs(file)?;
        if let Some(owner) = all.iter().find(|xattr| xattr.name == OWNER.to_bytes())
            && let Some((uid, gid)) = parse_owner(&owner.value)
        {
            (metadata.uid, metadata.gid) = (uid, gid);
        }
        metadata.xattrs = visible(all);
    }
    Ok(metadata)
}

/// The attributes that layers keep, in order of their names.
pub fn read_xattrs(file: impl AsFd) -> Result<Vec<Xattr>, Errno> {
    list_xattrs(file.as_fd()).map(visible)
}

/// The device that an empty regular file stands for, if it does.
pub fn read_device(file: impl AsFd) -> Result<Option<Device>, Errno> {
    let mut value = [0; 64];
    let length = match rustix::fs::fgetxattr(file, DEVICE, &mut value[..]) {
        Ok(length) => length,
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let parse = || {
        let text = std::str::from_utf8(&value[..length]).ok()?;
        let mut parts = text.split(':');
        let is_block = match parts.next()? {
            "b" => true,
            "c" => false,
            _ => return None,
        };
        let device = Device {
            is_block,
            major: parts.next()?.parse().ok()?,
            minor: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(device)
    };
    Ok(parse())
}

/// Records on an empty regular file that it stands for `device`.
pub(crate) fn set_device(file: impl AsFd, device: Device) -> Result<(), Errno> {
    let kind = if device.is_block { 'b' } else { 'c' };
    let value = format!("{kind}:{}:{}", device.major, device.minor);
    rustix::fs::fsetxattr(file, DEVICE, value.as_bytes(), XattrFlags::empty())
}

/// Gives an open regular file or directory its metadata, in the order owner (which clears
/// set-user-ID and capabilities), mode, attributes, time. Attributes that it has and `metadata`
/// has not stay.
pub fn set_metadata(file: impl AsFd, metadata: &Metadata) -> Result<(), Errno> {
    set_owner(file.as_fd(), metadata.uid, metadata.gid)?;
    set_metadata_but_owner(file, metadata)
}

/// As [`set_metadata`], for files that have the right owner.
pub(crate) fn set_metadata_but_owner(file: impl AsFd, metadata: &Metadata) -> Result<(), Errno> {
    let file = file.as_fd();
    rustix::fs::fchmod(file, Mode::from_raw_mode(metadata.mode & 0o7777))?;
    for xattr in &metadata.xattrs {
        set_xattr(file, xattr)?;
    }
    rustix::fs::futimens(file, &times(metadata))
}

/// As [`set_metadata`], for what cannot be opened: links, FIFOs, devices. Links have no mode;
/// owners that cannot be set are dropped, because there is nowhere to record them.
pub fn set_metadata_of_link(
    dir: impl AsFd,
    name: &CStr,
    is_link: bool,
    metadata: &Metadata,
) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
    match rustix::fs::chownat(&dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::INVAL | Errno::PERM) => {}
        result => result?,
    }
    if !is_link {
        // Nobody else has the directory, so this is the node that was just made.
        let mode = Mode::from_raw_mode(metadata.mode & 0o7777);
        rustix::fs::chmodat(&dir, name, mode, AtFlags::empty())?;
    }
    rustix::fs::utimensat(&dir, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW)
}

/// The one place that decides what becomes of an owner: the kernel says whether it can be set.
fn set_owner(file: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    match rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        // EINVAL: the id is not mapped in our user namespace. EPERM: we may not give files away.
        Err(Errno::INVAL | Errno::PERM) => {
            let value = format!("{uid}:{gid}");
            rustix::fs::fsetxattr(file, OWNER, value.as_bytes(), XattrFlags::empty())
        }
        result => result,
    }
}

fn set_xattr(file: BorrowedFd<'_>, xattr: &Xattr) -> Result<(), Errno> {
    if !is_kept(&xattr.name) || xattr.name.starts_with(OWN_PREFIX) {
        return Ok(());
    }
    let set = |name: &[u8]| rustix::fs::fsetxattr(file, name, &xattr.value, XattrFlags::empty());
    // Somebody's archive must not speak to overlayfs.
    match xattr.name.strip_prefix(OVERLAY_PREFIX) {
        Some(rest) => set(&[OVERLAY_ESCAPE, rest].concat()),
        None => set(&xattr.name),
    }
}

/// Whether layers keep an attribute of this name at all.
fn is_kept(name: &[u8]) -> bool {
    name == CAPABILITY || name.starts_with(b"user.")
}

/// What the tree's user sees of the attributes on disk.
fn visible(all: Vec<Xattr>) -> Vec<Xattr> {
    let mut visible: Vec<Xattr> = all
        .into_iter()
        .filter_map(|xattr| {
            if let Some(rest) = xattr.name.strip_prefix(OVERLAY_ESCAPE) {
                let name = [OVERLAY_PREFIX, rest].concat();
                return Some(Xattr { name, value: xattr.value });
            }
            let is_internal =
                xattr.name.starts_with(OVERLAY_PREFIX) || xattr.name.starts_with(OWN_PREFIX);
            (is_kept(&xattr.name) && !is_internal).then_some(xattr)
        })
        .collect();
    visible.sort_unstable();
    visible
}

fn list_xattrs(file: BorrowedFd<'_>) -> Result<Vec<Xattr>, Errno> {
    // Nearly every file has none, and the short list of those that have some fits here.
    let mut short = [0; 512];
    let mut long = Vec::new();
    let names = match rustix::fs::flistxattr(file, &mut short[..]) {
        Ok(0) => return Ok(Vec::new()),
        Ok(length) => &short[..length],
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            long.resize(MAX_XATTR_BYTES, 0);
            let length = rustix::fs::flistxattr(file, &mut long[..])?;
            &long[..length]
        }
        Err(errno) => return Err(errno),
    };
    let mut xattrs = Vec::new();
    let mut value = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| is_kept(name)) {
        value.resize(MAX_XATTR_BYTES, 0);
        match rustix::fs::fgetxattr(file, name, &mut value[..]) {
            Ok(length) => {
                xattrs.push(Xattr { name: name.to_vec(), value: value[..length].to_vec() });
            }
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(xattrs)
}

fn parse_owner(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

fn times(metadata: &Metadata) -> Timestamps {
    let mtime = Timespec {
        tv_sec: metadata.mtime,
        tv_nsec: i64::from(metadata.mtime_nanoseconds.min(999_999_999)),
    };
    Timestamps { last_access: mtime, last_modification: mtime }
}
