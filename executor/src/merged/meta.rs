//! What the kernel says of a file, and its extended attributes.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Stat, XattrFlags};
use rustix::io::Errno;

use super::Format;

/// Where the owner of a stored file is written when our user namespace cannot say it.
const OWNER: &str = "user.strake.owner";

/// The largest value the kernel takes (`XATTR_SIZE_MAX`).
const MAX_XATTR: usize = 64 * 1024;

/// Extended attributes by name.
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Where the owner of a file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owners {
    /// In the inode.
    Native,
    /// In an attribute, where there is one: we have a single user id.
    Attribute,
}

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// What the kernel says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    pub rdev: u64,
    pub links: u64,
    pub device: u64,
    pub inode: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Seconds and nanoseconds.
    pub ctime: (i64, u32),
}

impl Meta {
    #[allow(clippy::unnecessary_cast)] // The field types of `Stat` differ between architectures.
    pub(crate) fn of_stat(stat: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            _ => Kind::File,
        };
        Self {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            rdev: stat.st_rdev as u64,
            links: stat.st_nlink as u64,
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as u32),
        }
    }

    pub(crate) fn of_fd(fd: BorrowedFd<'_>, owners: Owners) -> io::Result<Self> {
        let mut meta = Self::of_stat(&rustix::fs::fstat(fd)?);
        if owners == Owners::Attribute {
            meta.read_owner(fd);
        }
        Ok(meta)
    }

    /// Takes the owner from its attribute, if there is one that makes sense.
    pub(crate) fn read_owner(&mut self, fd: BorrowedFd<'_>) {
        let mut buffer = [0u8; 32];
        let Ok(length) = rustix::fs::fgetxattr(fd, OWNER, &mut buffer[..]) else { return };
        let ids = std::str::from_utf8(&buffer[..length]).ok().and_then(|t| t.split_once(':'));
        if let Some((Ok(uid), Ok(gid))) = ids.map(|(u, g)| (u.parse(), g.parse())) {
            (self.uid, self.gid) = (uid, gid);
        }
    }

    /// The mark of a deleted file in a layer.
    pub(crate) fn is_whiteout(&self) -> bool {
        self.kind == Kind::CharDevice && self.rdev == 0
    }

    /// The `S_IFMT` bits with the permission bits.
    pub(crate) fn raw_mode(&self) -> u32 {
        let format = match self.kind {
            Kind::File => 0o100_000,
            Kind::Dir => 0o040_000,
            Kind::Symlink => 0o120_000,
            Kind::Fifo => 0o010_000,
            Kind::Socket => 0o140_000,
            Kind::CharDevice => 0o020_000,
            Kind::BlockDevice => 0o060_000,
        };
        format | self.mode
    }
}

/// The attributes that are part of a file: `security.capability` and everything outside
/// `security.*` and `system.*`; in layers, what overlay and the store write for themselves is not.
pub(crate) fn read_xattrs(fd: BorrowedFd<'_>, format: Format) -> io::Result<Xattrs> {
    let mut xattrs = Xattrs::new();
    let mut list = [0u8; 1024];
    let names = match rustix::fs::flistxattr(fd, &mut list[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::PERM) => return Ok(xattrs),
        Ok(length) => list[..length].to_vec(),
        Err(Errno::RANGE) => {
            let mut list = vec![0u8; MAX_XATTR];
            let length = rustix::fs::flistxattr(fd, &mut list[..])?;
            list.truncate(length);
            list
        }
        Err(errno) => return Err(errno.into()),
    };
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let ours = format.overlay
            && [&b"user.overlay."[..], b"trusted.overlay.", b"user.strake."]
                .iter()
                .any(|prefix| name.starts_with(prefix));
        let counts = name == b"security.capability"
            || !(name.starts_with(b"security.") || name.starts_with(b"system."));
        if ours || !counts {
            continue;
        }
        let mut value = [0u8; 512];
        let value = match rustix::fs::fgetxattr(fd, name, &mut value[..]) {
            Ok(length) => value[..length].to_vec(),
            Err(Errno::RANGE) => {
                let mut value = vec![0u8; MAX_XATTR];
                let length = rustix::fs::fgetxattr(fd, name, &mut value[..])?;
                value.truncate(length);
                value
            }
            // Gone meanwhile, or not for us to read.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => continue,
            Err(errno) => return Err(errno.into()),
        };
        xattrs.insert(name.to_vec(), value);
    }
    Ok(xattrs)
}

/// Sets one attribute; where the file system or our rights do not allow it, nothing happens.
pub(crate) fn set_xattr(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
    match rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {
            tracing::debug!(name = %String::from_utf8_lossy(name), "attribute not kept");
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Writes the owner where our user namespace cannot.
pub(crate) fn set_owner_attribute(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(fd, OWNER, format!("{uid}:{gid}").as_bytes(), XattrFlags::empty())?)
}
