//! File trees as they are read: one directory, or the layers of a snapshot seen as one.
//!
//! Contexts and snapshots are read through the same [`Dir`], without mounting anything: a directory
//! is the descriptors of that directory in every layer that has it, topmost first, and whiteouts
//! and opaque directories hide what lies below. Committed layers never change and the descriptors
//! are opened one name at a time with `O_NOFOLLOW`, so no link in a tree can lead out of it.
//!
//! ```text
//! Dir "/etc"   layers: [ <top>/etc, <base>/etc ]
//!              entries: passwd (top), group (base)      hosts (whiteout in top): hidden
//! ```

mod meta;
mod resolve;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir};
use rustix::io::Errno;

pub(crate) use meta::{Kind, Meta, Owners, Xattrs, read_xattrs, set_owner_attribute, set_xattr};
pub(crate) use resolve::{Located, LookupError, MAX_LINKS, resolve};

pub(crate) const OPAQUE: &str = "user.overlay.opaque";
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How the layers of a tree are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    /// Whiteouts and opaque marks mean something, and overlay's attributes are hidden.
    pub overlay: bool,
    /// Where the owners of files are written.
    pub owners: Owners,
}

impl Format {
    /// A directory of the user: what lies there is what there is.
    pub(crate) const PLAIN: Format = Format { overlay: false, owners: Owners::Native };

    /// Layers of a snapshot.
    pub(crate) fn layers(owners: Owners) -> Format {
        Format { overlay: true, owners }
    }
}

/// One directory of a tree, in every layer that has it.
#[derive(Debug)]
pub(crate) struct Dir {
    layers: Vec<OwnedFd>,
    format: Format,
}

/// One name in a [`Dir`].
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub meta: Meta,
    layer: usize,
}

impl Dir {
    /// The root of a tree made of `layers`, topmost first.
    pub(crate) fn root<P: AsRef<Path>>(
        layers: impl IntoIterator<Item = P>,
        format: Format,
    ) -> io::Result<Self> {
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let open = |path: P| -> io::Result<OwnedFd> {
            rustix::fs::openat(CWD, path.as_ref(), flags, Mode::empty()).map_err(|errno| {
                let cause = io::Error::from(errno);
                io::Error::new(cause.kind(), format!("{}: {cause}", path.as_ref().display()))
            })
        };
        let layers = layers.into_iter().map(open).collect::<io::Result<_>>()?;
        Ok(Self { layers, format })
    }

    /// A directory that is open already, alone.
    pub(crate) fn of_fd(fd: OwnedFd, format: Format) -> Self {
        Self { layers: vec![fd], format }
    }

    /// A tree without anything in it.
    pub(crate) fn empty(format: Format) -> Self {
        Self { layers: Vec::new(), format }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// What the directory itself is; `None` for the root of a tree without layers.
    pub(crate) fn meta(&self) -> io::Result<Option<Meta>> {
        match self.layers.first() {
            None => Ok(None),
            Some(fd) => Ok(Some(Meta::of_fd(fd.as_fd(), self.format.owners)?)),
        }
    }

    /// Both: what the directory is, and its attributes.
    pub(crate) fn metadata(&self) -> io::Result<Option<(Meta, Xattrs)>> {
        let Some(meta) = self.meta()? else { return Ok(None) };
        Ok(Some((meta, self.xattrs()?)))
    }

    /// Attributes of the directory itself.
    pub(crate) fn xattrs(&self) -> io::Result<Xattrs> {
        self.layers.first().map_or(Ok(Xattrs::new()), |fd| read_xattrs(fd.as_fd(), self.format))
    }

    /// What `name` is here; `None` if there is nothing.
    pub(crate) fn lookup(&self, name: &OsStr) -> io::Result<Option<Entry>> {
        for (layer, fd) in self.layers.iter().enumerate() {
            match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {}
                Err(Errno::NAMETOOLONG) => return Ok(None),
                Err(errno) => return Err(errno.into()),
                Ok(stat) => {
                    let mut meta = Meta::of_stat(&stat);
                    if self.format.overlay && meta.is_whiteout() {
                        return Ok(None);
                    }
                    if self.format.owners == Owners::Attribute
                        && matches!(meta.kind, Kind::File | Kind::Dir)
                    {
                        let flags =
                            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                        let file = rustix::fs::openat(fd, name, flags, Mode::empty())?;
                        meta.read_owner(file.as_fd());
                    }
                    return Ok(Some(Entry { meta, layer }));
                }
            }
        }
        Ok(None)
    }

    /// Opens the directory `name`, which [`Dir::lookup`] said is one.
    pub(crate) fn open_dir(&self, name: &OsStr) -> io::Result<Dir> {
        let mut layers = Vec::new();
        for fd in &self.layers {
            match rustix::fs::openat(fd, name, DIRECTORY, Mode::empty()) {
                Ok(dir) => {
                    let opaque = self.format.overlay && is_opaque(dir.as_fd());
                    layers.push(dir);
                    if opaque {
                        break;
                    }
                }
                Err(Errno::NOENT) => {}
                // A file, a link or a whiteout hides what lies below.
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NXIO) if !layers.is_empty() => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        if layers.is_empty() {
            return Err(Errno::NOENT.into());
        }
        Ok(Dir { layers, format: self.format })
    }

    /// Opens the regular file `name` for reading.
    pub(crate) fn open_file(&self, name: &OsStr, entry: &Entry) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.layers[entry.layer], name, flags, Mode::empty())?)
    }

    /// Gives the file `name`, which never changes, the same name in `into`.
    pub(crate) fn link(&self, name: &OsStr, entry: &Entry, into: BorrowedFd<'_>) -> io::Result<()> {
        let fd = &self.layers[entry.layer];
        Ok(rustix::fs::linkat(fd, name, into, name, AtFlags::empty())?)
    }

    /// As [`Dir::link`], of a file that is known to be visible.
    pub(crate) fn link_topmost(&self, name: &OsStr, into: BorrowedFd<'_>) -> io::Result<()> {
        for fd in &self.layers {
            match rustix::fs::linkat(fd, name, into, name, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                linked => return Ok(linked?),
            }
        }
        Err(Errno::NOENT.into())
    }

    /// Where the symbolic link `name` points.
    pub(crate) fn read_link(&self, name: &OsStr, entry: &Entry) -> io::Result<OsString> {
        let target = rustix::fs::readlinkat(&self.layers[entry.layer], name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// The attributes of the regular file behind `file`.
    pub(crate) fn file_xattrs(&self, file: BorrowedFd<'_>) -> io::Result<Xattrs> {
        read_xattrs(file, self.format)
    }

    /// All names, in the order of their bytes.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        if let [fd] = &self.layers[..] {
            let mut names = self.layer_names(fd)?;
            names.retain(|(_, hidden)| !hidden);
            names.sort_unstable();
            return Ok(names.into_iter().map(|(name, _)| name).collect());
        }
        let mut seen = BTreeMap::<OsString, bool>::new();
        for fd in &self.layers {
            for (name, hidden) in self.layer_names(fd)? {
                seen.entry(name).or_insert(hidden);
            }
        }
        Ok(seen.into_iter().filter(|(_, hidden)| !hidden).map(|(name, _)| name).collect())
    }

    /// The names of one layer, each with whether it is a whiteout.
    fn layer_names(&self, fd: &OwnedFd) -> io::Result<Vec<(OsString, bool)>> {
        let mut names = Vec::new();
        list(fd.as_fd(), |name, maybe_whiteout| names.push((name.to_owned(), maybe_whiteout)))?;
        for (name, hidden) in &mut names {
            *hidden = *hidden
                && self.format.overlay
                && rustix::fs::statat(fd, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| Meta::of_stat(&stat).is_whiteout());
        }
        Ok(names)
    }
}

/// Calls `each` for every name but `.` and `..`, with whether it could be a whiteout.
fn list(fd: BorrowedFd<'_>, mut each: impl FnMut(&OsStr, bool)) -> io::Result<()> {
    // A descriptor of its own: two threads may list one directory, and the position is shared.
    let fd = rustix::fs::openat(fd, ".", DIRECTORY, Mode::empty())?;
    let mut buffer = [const { MaybeUninit::<u8>::uninit() }; 16 * 1024];
    let mut entries = RawDir::new(fd, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let maybe = matches!(
                entry.file_type(),
                rustix::fs::FileType::CharacterDevice | rustix::fs::FileType::Unknown
            );
            each(OsStr::from_bytes(name), maybe);
        }
    }
    Ok(())
}

/// Whether a directory of a layer hides the same directory of the layers below.
pub(crate) fn is_opaque(dir: BorrowedFd<'_>) -> bool {
    let mut value = [0u8; 1];
    matches!(rustix::fs::fgetxattr(dir, OPAQUE, &mut value[..]), Ok(1) if value[0] == b'y')
}

/// A path for people: absolute within its tree.
pub(crate) fn display_path<S: AsRef<OsStr>>(components: impl IntoIterator<Item = S>) -> PathBuf {
    let mut path = PathBuf::from("/");
    path.extend(components.into_iter().map(|c| PathBuf::from(c.as_ref())));
    path
}
