//! The tree that a step writes: a layer of changes over the layers below it.
//!
//! Changes are written straight into the layer, never through a mounted overlay: what a merged
//! view needs of the layers below is read from them, and a directory that exists only below is
//! made in the layer (with its attributes) when something in it changes. That spares every file the
//! way through the overlay, and it works where nothing can be mounted.
//!
//! The layer belongs to this step alone and the layers below never change; each name is opened with
//! `O_NOFOLLOW` relative to its directory, so nothing in either can lead a write outside.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::earlier::Earlier;
use crate::merged::{
    Dir, Entry, Format, Kind, MAX_LINKS, Meta, Owners, Xattrs, set_owner_attribute, set_xattr,
};
use crate::pattern::components;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory of the tree.
#[derive(Debug)]
pub(crate) struct TargetDir {
    /// The same directory in the layers below, as far as it is visible.
    lower: Dir,
    /// The directory in our layer, once it is there.
    upper: OnceLock<OwnedFd>,
    /// Serialises making it there.
    making: Mutex<()>,
    /// The same directory in the last result of the same step, if there is one.
    earlier: Option<Earlier>,
    parent: Option<(Arc<TargetDir>, OsString)>,
    owners: Owners,
}

/// What is at a name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Existing {
    pub meta: Meta,
    /// It is part of the layer that is being written.
    pub in_upper: bool,
}

/// How a file is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a> {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    /// Left to the clock where it is absent.
    pub mtime: Option<(i64, u32)>,
    pub xattrs: &'a Xattrs,
}

impl TargetDir {
    /// The root of a tree whose changes go to the directory `upper`, over `lower`.
    pub(crate) fn root(upper: &Path, lower: Dir, owners: Owners) -> io::Result<Arc<Self>> {
        Self::root_after(None, upper, lower, owners)
    }

    /// As [`TargetDir::root`], with what the last run of the step made beside it or below it.
    pub(super) fn root_after(
        earlier: Option<Earlier>,
        upper: &Path,
        lower: Dir,
        owners: Owners,
    ) -> io::Result<Arc<Self>> {
        let open = |path: &Path| rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty());
        Ok(Arc::new(Self {
            lower,
            upper: OnceLock::from(open(upper)?),
            making: Mutex::new(()),
            earlier,
            parent: None,
            owners,
        }))
    }

    /// The same directory in the last result of the step.
    pub(super) fn earlier(&self) -> Option<&Earlier> {
        self.earlier.as_ref()
    }

    /// That, where it is what this directory is made over: nothing of the base is here.
    fn made_over(&self) -> Option<&Earlier> {
        self.earlier.as_ref().filter(|earlier| self.lower.is_empty() && earlier.is_below())
    }

    /// The path from the root of the tree.
    pub(crate) fn path(&self) -> PathBuf {
        match &self.parent {
            None => PathBuf::from("/"),
            Some((parent, name)) => parent.path().join(name),
        }
    }

    /// The same as bytes, behind what `bytes` holds and without a slash at the end.
    pub(crate) fn write_path(&self, bytes: &mut Vec<u8>) {
        if let Some((parent, name)) = &self.parent {
            parent.write_path(bytes);
            bytes.push(b'/');
            bytes.extend(name.as_bytes());
        }
    }

    /// The root of our layer.
    pub(crate) fn tree_root(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.parent {
            None => self.upper(),
            Some((parent, _)) => parent.tree_root(),
        }
    }

    pub(crate) fn owners(&self) -> Owners {
        self.owners
    }

    /// The directory in our layer, made with the attributes it has below if it is not there yet.
    pub(crate) fn upper(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(fd) = self.upper.get() {
            return Ok(fd.as_fd());
        }
        let _making = self.making.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.upper.get().is_none() {
            let Some((parent, name)) = &self.parent else { return Err(Errno::NOENT.into()) };
            let above = parent.upper()?;
            let is_new = match rustix::fs::mkdirat(above, name, Mode::RWXU) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(errno) => return Err(errno.into()),
            };
            let fd = rustix::fs::openat(above, name, DIRECTORY, Mode::empty())?;
            let like = match self.made_over() {
                Some(earlier) => earlier.metadata()?,
                None => self.lower.metadata()?,
            };
            if let Some((meta, xattrs)) = like.filter(|_| is_new) {
                let (uid, gid, mode) = (meta.uid, meta.gid, meta.mode);
                let mtime = Some(meta.mtime);
                let attributes = Attributes { uid, gid, mode, mtime, xattrs: &xattrs };
                set_attributes(fd.as_fd(), &attributes, self.owners)?;
            }
            let _ = self.upper.set(fd);
        }
        self.upper.get().map(AsFd::as_fd).ok_or_else(|| Errno::NOENT.into())
    }

    /// Whether nothing of the layers below is here.
    pub(crate) fn is_new(&self) -> bool {
        self.lower.is_empty()
    }

    /// Whether this run wrote something at `name`.
    pub(super) fn has_own(&self, name: &OsStr) -> io::Result<bool> {
        let Some(fd) = self.upper.get() else { return Ok(false) };
        match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether the layers below have `name`.
    pub(super) fn is_in_base(&self, name: &OsStr) -> io::Result<bool> {
        Ok(self.lower.lookup(name)?.is_some())
    }

    /// What `name` is here.
    pub(crate) fn lookup(&self, name: &OsStr) -> io::Result<Option<Existing>> {
        if let Some(fd) = self.upper.get() {
            match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let meta = Meta::of_stat(&stat);
                    return Ok((!meta.is_whiteout()).then_some(Existing { meta, in_upper: true }));
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if let Some(kept) = self.kept(name)? {
            return Ok(Some(Existing { meta: kept.meta, in_upper: true }));
        }
        let below = self.lower.lookup(name)?;
        Ok(below.map(|entry| Existing { meta: entry.meta, in_upper: false }))
    }

    /// What is kept of the last result at `name`.
    fn kept(&self, name: &OsStr) -> io::Result<Option<Entry>> {
        self.earlier.as_ref().map_or(Ok(None), |earlier| earlier.kept_entry(name))
    }

    /// Opens the directory `name`, which [`TargetDir::lookup`] said is one.
    pub(crate) fn open_dir(self: &Arc<Self>, name: &OsStr) -> io::Result<Arc<Self>> {
        let earlier = self.earlier.as_ref().and_then(|earlier| earlier.directory(name));
        let dir = self.open_with(name, earlier)?;
        if !dir.lower.is_empty() && dir.earlier.as_ref().is_some_and(Earlier::is_below) {
            // As it is in the base, whatever the last run made of it.
            dir.upper()?;
        }
        Ok(dir)
    }

    /// As [`TargetDir::open_dir`], where the directory of the last result is known.
    pub(super) fn open_with(
        self: &Arc<Self>,
        name: &OsStr,
        earlier: Option<Earlier>,
    ) -> io::Result<Arc<Self>> {
        let format = Format::layers(self.owners);
        let mut lower = match self.lower.lookup(name)? {
            Some(entry) if entry.meta.kind == Kind::Dir => self.lower.open_dir(name)?,
            _ => Dir::empty(format),
        };
        let upper = OnceLock::new();
        if let Some(fd) = self.upper.get() {
            match rustix::fs::openat(fd, name, DIRECTORY, Mode::empty()) {
                Ok(fd) => {
                    if crate::merged::is_opaque(fd.as_fd()) {
                        lower = Dir::empty(format);
                    }
                    let _ = upper.set(fd);
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Arc::new(Self {
            lower,
            upper,
            making: Mutex::new(()),
            earlier,
            parent: Some((self.clone(), name.to_owned())),
            owners: self.owners,
        }))
    }

    /// Makes the directory `name`, which is not there, with mode 0700 for now. Where the last result
    /// has it and the tree lies over that, it is there already, and made anew when it changes.
    pub(crate) fn make_dir(self: &Arc<Self>, name: &OsStr) -> io::Result<Arc<Self>> {
        let earlier = self.earlier.as_ref().and_then(|earlier| earlier.directory(name));
        if earlier.as_ref().is_some_and(Earlier::is_below) && !self.is_in_base(name)? {
            return self.open_with(name, earlier);
        }
        let above = self.upper()?;
        rustix::fs::mkdirat(above, name, Mode::RWXU)?;
        let fd = rustix::fs::openat(above, name, DIRECTORY, Mode::empty())?;
        if !self.lower.is_empty() && self.lower.lookup(name)?.is_some() {
            // Something below would show through, or be merged: it was replaced by this.
            rustix::fs::fsetxattr(&fd, crate::merged::OPAQUE, b"y", XattrFlags::empty())?;
        }
        Ok(Arc::new(Self {
            lower: Dir::empty(Format::layers(self.owners)),
            upper: OnceLock::from(fd),
            making: Mutex::new(()),
            earlier,
            parent: Some((self.clone(), name.to_owned())),
            owners: self.owners,
        }))
    }

    /// Makes room for a file at `name`; a directory there is removed too.
    pub(crate) fn clear(&self, name: &OsStr) -> io::Result<()> {
        let Some(fd) = self.upper.get() else { return Ok(()) };
        match rustix::fs::unlinkat(fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(fd.as_fd(), name),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Creates the file `name`, in the place of whatever file is there.
    pub(crate) fn create_file(&self, name: &OsStr) -> io::Result<OwnedFd> {
        self.create_file_with(name, 0o600)
    }

    /// As [`TargetDir::create_file`], with the permissions of `mode` as far as the process's mask
    /// allows. Bits that change whom a program runs as are not among them.
    pub(crate) fn create_file_with(&self, name: &OsStr, mode: u32) -> io::Result<OwnedFd> {
        let mode = Mode::from_raw_mode(mode & 0o777);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let above = self.upper()?;
        match rustix::fs::openat(above, name, flags, mode) {
            Err(Errno::EXIST) => {
                self.clear(name)?;
                Ok(rustix::fs::openat(above, name, flags, mode)?)
            }
            other => Ok(other?),
        }
    }

    /// Sets what the directory itself is like.
    pub(crate) fn set_attributes(&self, attributes: &Attributes<'_>) -> io::Result<()> {
        if let Some((meta, xattrs)) = self.as_it_was()?
            && (meta.uid, meta.gid, meta.mode) == (attributes.uid, attributes.gid, attributes.mode)
            && attributes.mtime.is_none_or(|mtime| mtime == meta.mtime)
            && xattrs == *attributes.xattrs
        {
            return Ok(());
        }
        set_attributes(self.upper()?, attributes, self.owners)
    }

    /// What the directory is like if all of it is kept from the last result so far.
    fn as_it_was(&self) -> io::Result<Option<(Meta, Xattrs)>> {
        match self.made_over() {
            Some(earlier) if self.upper.get().is_none() => earlier.metadata(),
            _ => Ok(None),
        }
    }

    /// Sets when the directory itself was last changed.
    pub(crate) fn set_mtime(&self, mtime: (i64, u32)) -> io::Result<()> {
        if self.as_it_was()?.is_some_and(|(meta, _)| meta.mtime == mtime) {
            return Ok(());
        }
        Ok(rustix::fs::futimens(self.upper()?, &timestamps(mtime))?)
    }
}

/// Owner, mode, attributes, time: in this order, because each undoes some of the next.
pub(crate) fn set_attributes(
    fd: BorrowedFd<'_>,
    attributes: &Attributes<'_>,
    owners: Owners,
) -> io::Result<()> {
    let (uid, gid) = (attributes.uid, attributes.gid);
    match rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        Ok(()) => {}
        Err(Errno::INVAL | Errno::PERM) if owners == Owners::Attribute => {
            set_owner_attribute(fd, uid, gid)?;
        }
        Err(errno) => return Err(owner_error(errno, uid, gid)),
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(attributes.mode))?;
    set_further_attributes(fd, attributes)
}

/// Why a file cannot have an owner, in words where the kernel has only a number.
pub(super) fn owner_error(errno: Errno, uid: u32, gid: u32) -> io::Error {
    match errno {
        Errno::INVAL => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "its owner would be {uid}:{gid}, and this user's ranges of ids (/etc/subuid, \
                 /etc/subgid) do not reach that far"
            ),
        ),
        errno => errno.into(),
    }
}

/// As [`set_attributes`], of a file that is `made` as it is: its owner and mode are left alone if
/// they are right, which most are, and each change costs what making a file costs.
pub(crate) fn set_missing_attributes(
    fd: BorrowedFd<'_>,
    made: &Meta,
    attributes: &Attributes<'_>,
    owners: Owners,
) -> io::Result<()> {
    let is_right =
        (made.uid, made.gid, made.mode) == (attributes.uid, attributes.gid, attributes.mode);
    if is_right {
        set_further_attributes(fd, attributes)
    } else {
        set_attributes(fd, attributes, owners)
    }
}

fn set_further_attributes(fd: BorrowedFd<'_>, attributes: &Attributes<'_>) -> io::Result<()> {
    for (name, value) in attributes.xattrs {
        set_xattr(fd, name, value)?;
    }
    if let Some(mtime) = attributes.mtime {
        rustix::fs::futimens(fd, &timestamps(mtime))?;
    }
    Ok(())
}

pub(crate) fn timestamps((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Removes the directory `name` of our layer and everything in it.
fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let dir = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?;
    let listed = Dir::of_fd(dir.try_clone()?, Format::PLAIN);
    for child in listed.names()? {
        match rustix::fs::unlinkat(&dir, child.as_os_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(dir.as_fd(), &child)?,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Where a path of the tree leads, as far as it exists.
#[derive(Debug)]
pub(crate) struct Destination {
    /// The last directory that exists.
    pub dir: Arc<TargetDir>,
    /// What is missing below it; a last name that exists but is no directory stands here too.
    pub rest: Vec<OsString>,
    /// `rest` is a file that exists.
    pub is_file: bool,
}

/// Follows `path` from `root`. Links stay in the tree and are followed at the end too.
pub(crate) fn resolve_destination(root: &Arc<TargetDir>, path: &str) -> io::Result<Destination> {
    let parts: Vec<OsString> = components(path).into_iter().map(OsString::from).collect();
    resolve_below(root, parts)
}

/// As [`resolve_destination`], for names that are already apart. A link that leads above `root` is
/// an error, unless `root` is that of the whole tree.
pub(crate) fn resolve_below(
    root: &Arc<TargetDir>,
    parts: Vec<OsString>,
) -> io::Result<Destination> {
    let mut pending: std::collections::VecDeque<OsString> = parts.into();
    let mut dir = root.clone();
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        match name.as_bytes() {
            b"" | b"." => continue,
            b".." => {
                if !Arc::ptr_eq(&dir, root)
                    && let Some((parent, _)) = &dir.parent
                {
                    dir = parent.clone();
                } else if root.parent.is_some() {
                    return Err(escape(root));
                }
                continue;
            }
            _ => {}
        }
        match dir.lookup(&name)? {
            None => {
                let mut rest = vec![name];
                for name in pending {
                    match name.as_bytes() {
                        b"" | b"." => {}
                        b".." => drop(rest.pop()),
                        _ => rest.push(name),
                    }
                }
                return Ok(Destination { dir, rest, is_file: false });
            }
            Some(existing) if existing.meta.kind == Kind::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = dir.read_link(&name, &existing)?;
                if target.as_bytes().starts_with(b"/") {
                    if root.parent.is_some() {
                        return Err(escape(root));
                    }
                    dir = root.clone();
                }
                for part in target.as_bytes().rsplit(|&b| b == b'/') {
                    pending.push_front(OsStr::from_bytes(part).to_owned());
                }
            }
            Some(existing) if existing.meta.kind == Kind::Dir => dir = dir.open_dir(&name)?,
            Some(_) if pending.iter().all(|part| matches!(part.as_bytes(), b"" | b".")) => {
                return Ok(Destination { dir, rest: vec![name], is_file: true });
            }
            Some(_) => {
                let path = dir.path().join(name);
                let text = format!("{} is not a directory", path.display());
                return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
            }
        }
    }
    Ok(Destination { dir, rest: Vec::new(), is_file: false })
}

fn escape(root: &TargetDir) -> io::Error {
    io::Error::other(format!("a link leads out of {}", root.path().display()))
}

impl TargetDir {
    /// Brings a file that exists only below into our layer, by `copy`.
    pub(crate) fn copy_up(
        &self,
        name: &OsStr,
        existing: &Existing,
        copy: impl FnOnce(&OwnedFd, &Meta, &Xattrs) -> io::Result<()>,
    ) -> io::Result<()> {
        if existing.in_upper {
            return Ok(());
        }
        let entry = self.lower.lookup(name)?.ok_or(Errno::NOENT)?;
        if entry.meta.kind != Kind::File {
            return Err(io::Error::other("only files of the image can get further names"));
        }
        let source = self.lower.open_file(name, &entry)?;
        let xattrs = self.lower.file_xattrs(source.as_fd())?;
        copy(&source, &entry.meta, &xattrs)
    }

    fn read_link(&self, name: &OsStr, existing: &Existing) -> io::Result<OsString> {
        use std::os::unix::ffi::OsStringExt;
        if !existing.in_upper {
            let entry = self.lower.lookup(name)?.ok_or(Errno::NOENT)?;
            return self.lower.read_link(name, &entry);
        }
        if let Some(earlier) = &self.earlier
            && let Some(kept) = earlier.kept_entry(name)?
        {
            return earlier.read_link(name, &kept);
        }
        let upper = self.upper.get().ok_or(Errno::NOENT)?;
        let target = rustix::fs::readlinkat(upper, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }
}
