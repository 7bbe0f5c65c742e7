//! Confined access to directory trees that somebody else filled.
//!
//! Every step into a tree is one `openat` of one name with `O_NOFOLLOW`, on a directory that is
//! already open. A symbolic link is never the kernel's to follow: it is read, and its target is
//! walked the same way from the root of the tree, `..` stopping there. So nothing in the tree, not
//! even a link that is swapped in at the wrong moment, leads out of it, and this holds on kernels
//! and under seccomp filters that know no `openat2`.
//!
//! Owners and devices that an unprivileged user namespace cannot make are recorded in extended
//! attributes; this is the one place that writes and reads them:
//!
//! | attribute | on | value |
//! |---|---|---|
//! | `user.strake.owner` | files, directories | `uid:gid`, decimal |
//! | `user.strake.device` | an empty file | `c:major:minor` or `b:major:minor` |

mod merged;
mod metadata;

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use merged::{MergedDir, MergedEntry};
pub use metadata::{
    Device, Metadata, OVERLAY_OPAQUE, Xattr, is_opaque, is_whiteout, make_whiteout, read_device,
    read_metadata, read_xattrs, set_metadata, set_metadata_of_link, set_opaque,
};
pub(crate) use metadata::{set_device, set_metadata_but_owner};

/// How a directory is opened: never through a link.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory at the root of a tree, which is ours: links in `path` are followed.
pub fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens the directory `name`, one path component, of `dir`; a link is an error (`ENOTDIR`).
pub fn open_dir(dir: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())
}

/// Opens the file `name`, one path component, of `dir` for reading; a link is an error (`ELOOP`).
/// Do not ask for a FIFO: it would not block, but say nothing either.
pub fn open_file(dir: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// The names in a directory, without `.` and `..`, in byte order.
pub fn names(dir: impl AsFd) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes `name` of `dir`, whatever it is, with everything below it.
pub fn remove(dir: impl AsFd, name: &CStr) -> Result<(), Errno> {
    use rustix::fs::{AtFlags, unlinkat};
    match unlinkat(&dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        result => return result,
    }
    // Depth first with an own stack: what is left of each directory, the open directory, its name.
    let root = open_dir(&dir, name)?;
    let mut stack = vec![(names(&root)?, root, name.to_owned())];
    while let Some((left, current, _)) = stack.last_mut() {
        if let Some(child) = left.pop() {
            match unlinkat(&*current, &child, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => {
                    let opened = open_dir(&*current, &child)?;
                    stack.push((names(&opened)?, opened, child));
                }
                result => result?,
            }
            continue;
        }
        let Some((_, _, done)) = stack.pop() else { break };
        match stack.last() {
            Some((_, parent, _)) => unlinkat(parent, &done, AtFlags::REMOVEDIR)?,
            None => unlinkat(&dir, &done, AtFlags::REMOVEDIR)?,
        }
    }
    Ok(())
}
