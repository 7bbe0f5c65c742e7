//! Where an entry goes: the directories of the tree being written.
//!
//! An open directory is known by its real path, in which no component is a link. A path of the
//! archive that equals one needs no walk; any other is walked from the deepest open directory on,
//! and its links are resolved by hand.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, mkdirat, readlinkat, statat, unlinkat};
use rustix::io::Errno;

use super::super::{printable, tree_error};
use crate::error::LayerError;
use crate::snapshot::{ActiveSnapshot, SnapshotLayer};
use crate::tree::{self, MergedDir, Metadata};

/// Open directories kept: half of the usual limit on open files, which others need too.
const MAX_OPEN: usize = 256;
/// As the kernel: `MAXSYMLINKS`.
const MAX_LINKS: usize = 40;
/// Components walked for one path, those of links included.
const MAX_STEPS: usize = 2048;
/// Paths and attributes of directories that wait for the end of the archive.
const MAX_WAITING_BYTES: usize = 256 << 20;

/// An open directory of the tree being written.
pub(super) struct Dir {
    /// Below the root: components joined by slashes; the root's is empty.
    pub(super) path: Vec<u8>,
    pub(super) fd: OwnedFd,
}

impl Dir {
    /// The path of something in it.
    pub(super) fn child(&self, name: &CStr) -> Vec<u8> {
        join(&self.path, name.to_bytes())
    }
}

/// All directories of the tree being written.
pub(super) struct Places {
    root: Rc<Dir>,
    below: MergedDir,
    open: HashMap<Vec<u8>, Rc<Dir>>,
    /// What directories get at the end.
    waiting: BTreeMap<Vec<u8>, Metadata>,
    waiting_bytes: usize,
    /// Directories that hide what is below them.
    opaque: BTreeSet<Vec<u8>>,
    max_depth: usize,
    /// Who owns a new file without being asked; `None` if that depends on the directory.
    default_owner: Option<(u32, u32)>,
}

impl Places {
    pub(super) fn new(into: &ActiveSnapshot, max_depth: usize) -> Result<Places, LayerError> {
        let failed = |errno| tree_error("open the root of", b"/", errno);
        let below = match into.parent() {
            None => MergedDir::default(),
            Some(parent) => {
                MergedDir::open(parent.layers().map(SnapshotLayer::upper)).map_err(failed)?
            }
        };
        let fd = tree::open_root(into.upper()).map_err(failed)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        // In a directory with set-group-ID, files inherit its group.
        let inherits = stat.st_mode & 0o2000 != 0;
        let euid = rustix::process::geteuid().as_raw();
        let egid = rustix::process::getegid().as_raw();
        Ok(Places {
            root: Rc::new(Dir { path: Vec::new(), fd }),
            below,
            open: HashMap::new(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            opaque: BTreeSet::new(),
            max_depth,
            default_owner: (!inherits).then_some((euid, egid)),
        })
    }

    /// The directory at a path of the archive, made if it is not there.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<Rc<Dir>, LayerError> {
        let (mut at, rest) = self.deepest_open(path);
        let mut left: Vec<Vec<u8>> = components_reversed(rest);
        let (mut links, mut steps) = (0, 0);
        while let Some(component) = left.pop() {
            steps += 1;
            let refuse = |reason: &str| {
                Err(LayerError::Entry { name: printable(path), reason: reason.to_owned() })
            };
            match &component[..] {
                b"" | b"." => continue,
                b".." => {
                    let parent = at.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                    let parent = at.path[..parent].to_vec();
                    at = self.reopen(&parent)?;
                    continue;
                }
                _ => {}
            }
            let Ok(name) = CString::new(component) else {
                return refuse("a link in its path contains a NUL byte");
            };
            if at.path.iter().filter(|byte| **byte == b'/').count() + 2 > self.max_depth {
                return refuse("it lies in too many directories");
            }
            match self.step(&at, &name)? {
                Step::Dir(dir) => at = dir,
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS || steps > MAX_STEPS {
                        return refuse("its path has too many symbolic links");
                    }
                    if target.starts_with(b"/") {
                        at = self.root.clone();
                    }
                    left.extend(components_reversed(&target));
                }
                Step::Neither => {
                    let reason = format!("`{}` is not a directory", printable(&at.child(&name)));
                    return refuse(&reason);
                }
            }
        }
        Ok(at)
    }

    /// What the layers below show at a real path of this tree.
    pub(super) fn below(&self, path: &[u8]) -> Result<MergedDir, LayerError> {
        let mut below = self.below.clone();
        let mut walked = Vec::new();
        if self.opaque.contains(&walked) {
            return Ok(MergedDir::default());
        }
        for component in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            if below.is_nowhere() {
                break;
            }
            walked = join(&walked, component);
            if self.opaque.contains(&walked) {
                return Ok(MergedDir::default());
            }
            let Ok(name) = CString::new(component) else { return Ok(MergedDir::default()) };
            below = below.dir(&name).map_err(|errno| tree_error("look below", &walked, errno))?;
        }
        Ok(below)
    }

    /// Makes something that is no directory under a name, in place of whatever is there.
    pub(super) fn placed<T>(
        &mut self,
        dir: &Dir,
        name: &CStr,
        mut make: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, LayerError> {
        let mut result = make();
        if matches!(result, Err(Errno::EXIST)) {
            let path = dir.child(name);
            self.forget(&path);
            tree::remove(&dir.fd, name).map_err(|errno| tree_error("replace", &path, errno))?;
            result = make();
        }
        result.map_err(|errno| tree_error("make", &dir.child(name), errno))
    }

    /// Makes a directory, unless there is one.
    pub(super) fn make_directory(&mut self, dir: &Dir, name: &CStr) -> Result<(), LayerError> {
        let path = dir.child(name);
        let failed = |errno| tree_error("make the directory", &path, errno);
        match mkdirat(&dir.fd, name, Mode::RWXU) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let stat = statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    return Ok(());
                }
                // Whatever this was, it hid a directory that the layers below may have there.
                unlinkat(&dir.fd, name, AtFlags::empty()).map_err(failed)?;
                mkdirat(&dir.fd, name, Mode::RWXU).map_err(failed)?;
                let fd = tree::open_dir(&dir.fd, name).map_err(failed)?;
                self.make_opaque(&Dir { path: path.clone(), fd })
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Notes what a directory gets at the end.
    pub(super) fn set_directory(
        &mut self,
        path: &[u8],
        metadata: Metadata,
    ) -> Result<(), LayerError> {
        let xattrs: usize =
            metadata.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
        // Not less when one is replaced: this is a bound, not an account.
        self.waiting_bytes += path.len() + xattrs + size_of::<Metadata>();
        if self.waiting_bytes > MAX_WAITING_BYTES {
            let limit = MAX_WAITING_BYTES as u64;
            return Err(LayerError::TooBig { what: "bytes of directories", limit });
        }
        self.waiting.insert(path.to_vec(), metadata);
        Ok(())
    }

    /// Hides what the layers below have in a directory.
    pub(super) fn make_opaque(&mut self, dir: &Dir) -> Result<(), LayerError> {
        self.opaque.insert(dir.path.clone());
        if self.below.is_nowhere() {
            return Ok(());
        }
        tree::set_opaque(&dir.fd)
            .map_err(|errno| tree_error("hide what is below", &dir.path, errno))
    }

    /// Hides what the layers below have under a name, and nothing of this layer.
    pub(super) fn whiteout(&mut self, dir: &Dir, name: &CStr) -> Result<(), LayerError> {
        if self.below.is_nowhere() {
            return Ok(());
        }
        let path = dir.child(name);
        let failed = |errno| tree_error("delete", &path, errno);
        match tree::make_whiteout(&dir.fd, name) {
            Err(Errno::EXIST) => match tree::open_dir(&dir.fd, name) {
                Ok(fd) => self.make_opaque(&Dir { path: path.clone(), fd }),
                // A file hides what is below it as it is.
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(errno) => Err(failed(errno)),
            },
            result => result.map_err(failed),
        }
    }

    /// Gives a new file its metadata; most need no change of owner.
    pub(super) fn set_metadata(&self, file: &OwnedFd, metadata: &Metadata) -> Result<(), Errno> {
        let is_ours = self.default_owner == Some((metadata.uid, metadata.gid));
        if is_ours {
            tree::set_metadata_but_owner(file, metadata)
        } else {
            tree::set_metadata(file, metadata)
        }
    }

    /// Gives all directories their metadata, children before their parents.
    pub(super) fn finish(&mut self) -> Result<(), LayerError> {
        for (path, metadata) in std::mem::take(&mut self.waiting).into_iter().rev() {
            let dir = self.reopen(&path)?;
            tree::set_metadata(&dir.fd, &metadata)
                .map_err(|errno| tree_error("set the metadata of", &path, errno))?;
        }
        Ok(())
    }

    /// The open directory that a path goes through last, and the rest of the path.
    fn deepest_open<'p>(&self, path: &'p [u8]) -> (Rc<Dir>, &'p [u8]) {
        let mut end = path.len();
        while end > 0 {
            if let Some(dir) = self.open.get(&path[..end]) {
                return (dir.clone(), &path[end..]);
            }
            end = path[..end].iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        }
        (self.root.clone(), path)
    }

    /// The directory at a real path, which is there.
    fn reopen(&mut self, path: &[u8]) -> Result<Rc<Dir>, LayerError> {
        let (mut at, rest) = self.deepest_open(path);
        for component in components_reversed(rest).into_iter().rev() {
            if component.is_empty() {
                continue;
            }
            let failed = |errno| tree_error("open", path, errno);
            let name = CString::new(component).map_err(|_| failed(Errno::INVAL))?;
            let fd = tree::open_dir(&at.fd, &name).map_err(failed)?;
            at = self.keep_open(Dir { path: at.child(&name), fd });
        }
        Ok(at)
    }

    fn step(&mut self, at: &Dir, name: &CStr) -> Result<Step, LayerError> {
        let path = at.child(name);
        if let Some(dir) = self.open.get(&path) {
            return Ok(Step::Dir(dir.clone()));
        }
        let failed = |errno| tree_error("open", &path, errno);
        match tree::open_dir(&at.fd, name) {
            Ok(fd) => Ok(Step::Dir(self.keep_open(Dir { path, fd }))),
            Err(Errno::NOENT) => self.step_below(at, name),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let stat = statat(&at.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                if tree::is_whiteout(&stat) {
                    self.make_directory(at, name)?;
                    return self.omitted(at, name, omitted_metadata());
                }
                if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                    let target = readlinkat(&at.fd, name, Vec::new()).map_err(failed)?;
                    return Ok(Step::Link(target.into_bytes()));
                }
                Ok(Step::Neither)
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    /// A step to something that this layer does not have.
    fn step_below(&mut self, at: &Dir, name: &CStr) -> Result<Step, LayerError> {
        let path = at.child(name);
        let failed = |errno| tree_error("look below", &path, errno);
        let parent = self.below(&at.path)?;
        let metadata = match parent.entry(name).map_err(failed)? {
            None => omitted_metadata(),
            Some(entry) => match entry.file_type() {
                FileType::Symlink => {
                    let target = readlinkat(entry.dir(), name, Vec::new()).map_err(failed)?;
                    return Ok(Step::Link(target.into_bytes()));
                }
                FileType::Directory => {
                    let dir = tree::open_dir(entry.dir(), name).map_err(failed)?;
                    tree::read_metadata(&entry.stat, Some(dir.as_fd())).map_err(failed)?
                }
                _ => return Ok(Step::Neither),
            },
        };
        mkdirat(&at.fd, name, Mode::RWXU)
            .map_err(|errno| tree_error("make the directory", &path, errno))?;
        self.omitted(at, name, metadata)
    }

    /// A directory that the archive takes for granted.
    fn omitted(&mut self, at: &Dir, name: &CStr, metadata: Metadata) -> Result<Step, LayerError> {
        let path = at.child(name);
        self.set_directory(&path, metadata)?;
        let fd = tree::open_dir(&at.fd, name).map_err(|errno| tree_error("open", &path, errno))?;
        Ok(Step::Dir(self.keep_open(Dir { path, fd })))
    }

    fn keep_open(&mut self, dir: Dir) -> Rc<Dir> {
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        let dir = Rc::new(dir);
        self.open.insert(dir.path.clone(), dir.clone());
        dir
    }

    /// Forgets a directory that is being replaced, and everything in it.
    fn forget(&mut self, path: &[u8]) {
        let within = [path, b"/"].concat();
        self.open.retain(|other, _| other != path && !other.starts_with(&within));
        self.waiting.remove(path);
        self.opaque.remove(path);
        // Everything with one prefix stands together.
        while let Some((other, _)) = self.waiting.range(within.clone()..).next()
            && other.starts_with(&within)
        {
            let other = other.clone();
            self.waiting.remove(&other);
        }
        while let Some(other) = self.opaque.range(within.clone()..).next()
            && other.starts_with(&within)
        {
            let other = other.clone();
            self.opaque.remove(&other);
        }
    }
}

enum Step {
    Dir(Rc<Dir>),
    Link(Vec<u8>),
    Neither,
}

/// A parent that neither the archive nor the layers below have.
fn omitted_metadata() -> Metadata {
    Metadata { mode: 0o755, ..Metadata::default() }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

fn components_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
}
