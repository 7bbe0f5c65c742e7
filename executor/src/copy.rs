//! The file operations of a build: COPY, ADD, WORKDIR.
//!
//! ```text
//! sources:  SourceTree::find ── files and directories, links followed, patterns expanded
//! target:   TargetDir ── our layer over the base, links resolved inside it
//! copy:     directories merge, files replace files; a file never replaces a directory
//! ```
//!
//! Rules in BuildKit's words (features of `fsutil/copy`): the contents of a source directory go
//! into the destination; a file goes to `dest/name` if `dest` is a directory or ends in `/`; new
//! destination directories are 0755 and root's, or have the owner and the octal mode that the step
//! names; existing ones keep theirs, directories below them get those of the source.

pub(crate) mod archive;
mod chmod;
mod copier;
mod earlier;
mod file;
mod pax_sparse;
mod reuse;
mod target;

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cache::snapshot::{ActiveSnapshot, Snapshot};
use solver::llb::{CopyAction, MkdirAction, Unpack};

use crate::ExecutorError;
use crate::filter::{Filter, matchers};
use crate::merged::{Dir, Format, Kind, Owners, Xattrs, display_path};
use crate::pattern::PatternMatcher;
use crate::selection::Pivoted;
use crate::source_tree::{Found, SourceTree};
use crate::users::Users;
use chmod::Chmod;
use copier::Copier;
use earlier::Earlier;
use file::Links;
pub(crate) use reuse::Reuse;
pub(crate) use target::{Attributes, TargetDir, timestamps};
use target::{Destination, resolve_destination};

const OPEN: &str = "open the snapshot";

/// The mode of directories that nobody says anything about.
const DIRECTORY_MODE: u32 = 0o755;

/// The merged view of a snapshot; of nothing, an empty tree.
pub(crate) fn view(snapshot: Option<&Snapshot>, owners: Owners) -> io::Result<Dir> {
    let format = Format::layers(owners);
    match snapshot {
        None => Ok(Dir::empty(format)),
        Some(snapshot) => {
            let layers: Vec<_> = snapshot.layers().map(|layer| layer.upper()).collect();
            Dir::root(layers.into_iter().rev(), format)
        }
    }
}

/// The merged view of a tree that is being written.
pub(crate) fn view_active(active: &ActiveSnapshot, owners: Owners) -> io::Result<Dir> {
    let below = active.layers_below().map(|layer| layer.upper());
    let layers = std::iter::once(active.upper()).chain(below.rev());
    Dir::root(layers, Format::layers(owners))
}

/// A file operation in progress on one tree.
pub(crate) struct FileOperation {
    root: Arc<TargetDir>,
    base: Arc<Dir>,
    reuse: Option<Reuse>,
    cancelled: Arc<AtomicBool>,
}

/// How what is made is to be owned.
#[derive(Debug, Clone)]
struct Ownership {
    owner: Option<(u32, u32)>,
    chmod: Option<Chmod>,
    from_context: bool,
    created: Option<(i64, u32)>,
}

impl FileOperation {
    /// An operation whose changes go to `active`.
    pub(crate) fn new(active: &ActiveSnapshot, owners: Owners) -> Result<Self, ExecutorError> {
        Self::beside(None, active, owners).map_err(ExecutorError::file(OPEN, active.upper()))
    }

    /// As [`FileOperation::new`], with the last result of the same step.
    fn beside(
        earlier: Option<Earlier>,
        active: &ActiveSnapshot,
        owners: Owners,
    ) -> io::Result<Self> {
        let lower = view(active.parent(), owners)?;
        let base = Arc::new(view(active.parent(), owners)?);
        Ok(Self::over(TargetDir::root_after(earlier, active.upper(), lower, owners)?, base))
    }

    /// As [`FileOperation::new`]; files that are as they were when `earlier`, the last result of the
    /// same step, was made are taken from it. `reuse` is its note. What is made is noted, so that
    /// the next run can do the same: [`FileOperation::finish`].
    pub(crate) fn after(
        earlier: Option<&Snapshot>,
        reuse: Reuse,
        active: &ActiveSnapshot,
        owners: Owners,
    ) -> Result<Self, ExecutorError> {
        let own = |snapshot: &Snapshot| {
            let layers = snapshot.own_layers().map(|layer| layer.upper()).rev();
            Dir::root(layers, Format::layers(owners))
        };
        let open = || -> io::Result<Self> {
            let earlier = match active.amended() {
                Some(amended) => Some(Earlier::kept(own(amended)?)),
                None => {
                    let earlier = earlier.filter(|_| reuse.knows_any());
                    earlier.map(own).transpose()?.map(Earlier::linked)
                }
            };
            Self::beside(earlier, active, owners)
        };
        let operation = open().map_err(ExecutorError::file(OPEN, active.upper()))?;
        Ok(Self { reuse: Some(reuse), ..operation })
    }

    /// Completes `active`, and writes down what its files were copied from. `false` if it lies over
    /// the last result and cannot become what it should be that way.
    pub(crate) fn finish(self, active: &ActiveSnapshot) -> Result<bool, ExecutorError> {
        let Some(reuse) = self.reuse else { return Ok(true) };
        let amends = active.amended().is_some();
        if amends {
            let failed = ExecutorError::file("complete", active.upper());
            if reuse.is_doubtful() || !self.root.settle().map_err(failed)? {
                return Ok(false);
            }
        }
        let note = active.copied_note();
        reuse.write(amends, &note).map_err(ExecutorError::file("write", &note))?;
        Ok(true)
    }

    /// An operation on the tree at `root`, whose base is `base`.
    pub(crate) fn over(root: Arc<TargetDir>, base: Arc<Dir>) -> Self {
        Self { root, base, reuse: None, cancelled: Arc::default() }
    }

    /// Unpacks an archive into the root of the tree.
    pub(crate) fn unpack(
        &self,
        archive: archive::Archive,
        shown: &str,
        owner: Option<(u32, u32)>,
    ) -> Result<(), ExecutorError> {
        archive::unpack(archive, shown, &self.root, owner)
    }

    /// Stops the operation, with an error, soon after this is set.
    pub(crate) fn cancelled_by(mut self, cancelled: Arc<AtomicBool>) -> Self {
        self.cancelled = cancelled;
        self
    }

    /// Makes a directory.
    pub(crate) fn mkdir(&self, action: &MkdirAction) -> Result<(), ExecutorError> {
        let owner = match &action.owner {
            None => (0, 0),
            // BuildKit makes the directory root's when nobody has the name of USER.
            Some(owner) => match Users::read(&self.base)?.owner(owner) {
                Err(ExecutorError::UnknownOwner { .. }) => (0, 0),
                known => known?,
            },
        };
        self.make_directory(&action.path, owner, action.mode, action.created.map(|s| (s, 0)))
    }

    /// Makes the directory `path` and its parents where they are missing.
    pub(crate) fn make_directory(
        &self,
        path: &str,
        owner: (u32, u32),
        mode: u32,
        created: Option<(i64, u32)>,
    ) -> Result<(), ExecutorError> {
        let ownership = Ownership {
            owner: Some(owner),
            chmod: Some(Chmod::Octal(mode)),
            from_context: false,
            created,
        };
        let destination = self.resolve(path)?;
        self.make_all(&destination, &destination.rest, &ownership)?;
        Ok(())
    }

    /// Copies.
    pub(crate) fn copy(
        &self,
        action: &CopyAction,
        source: &SourceTree,
    ) -> Result<Copied, ExecutorError> {
        let owner = match &action.owner {
            None => None,
            // The step's own base, not what the step has changed, says who is who.
            Some(owner) => Some(Users::read(&self.base)?.owner(owner)?),
        };
        let chmod = action.mode.as_ref().map(Chmod::parse).transpose()?;
        let from_context = action.from_context;
        let created = action.created.map(|seconds| (seconds, 0));
        let ownership = Ownership { owner, chmod, from_context, created };
        let (_, exclude) = matchers(&[], &action.exclude)?;
        let reuse = self.reuse.as_ref().filter(|_| source.is_context && from_context);
        let cancelled = &self.cancelled;
        let mut copied = Copied::default();
        for written in &action.sources {
            // As in BuildKit, hard links are kept within one source, not from one to the next.
            let copier = || Copier {
                source,
                ownership: &ownership,
                links: Links::default(),
                reuse,
                cancelled,
            };
            if action.parents {
                self.copy_with_parents(&copier(), action, written, &exclude)?;
                continue;
            }
            let found = match source.find(written, action.wildcard, true) {
                Err(ExecutorError::NotFound { .. }) if !action.required => continue,
                other => other?,
            };
            if found.is_empty() {
                copied.unmatched.push(written.clone());
            }
            for found in found {
                self.copy_one(&copier(), action, &found, &exclude)?;
            }
        }
        Ok(copied)
    }

    fn copy_one(
        &self,
        copier: &Copier<'_>,
        action: &CopyAction,
        found: &Found,
        exclude: &PatternMatcher,
    ) -> Result<(), ExecutorError> {
        let source = copier.source;
        if source.is_dir(&found.located) {
            let dir = source.open_dir(&found.located)?;
            let empty = PatternMatcher::default();
            let filter = Filter { ignore: &source.ignore, include: &empty, exclude };
            let target = self.destination_directory(&action.dest, copier.ownership)?;
            copier.directory_contents(&dir, &found.located, &target, &filter)?;
            // The destination takes the time of the source, even where it existed.
            let meta = dir.meta().map_err(ExecutorError::file("look at", found.located.path()))?;
            if let Some(meta) = meta {
                target.set_mtime(meta.mtime).map_err(failed("set the time of", &target, None))?;
            }
            return Ok(());
        }
        let Some((name, entry)) = &found.located.last else { return Ok(()) };
        let parent = found.located.parent(&source.root);
        if entry.meta.kind == Kind::File && action.unpack != Unpack::No {
            let file = parent
                .open_file(name, entry)
                .map_err(ExecutorError::file("open", found.located.path()))?;
            let shown = display_path(&found.path).display().to_string();
            if let Some(archive) = archive::open(file.into(), &shown)? {
                let target = self.destination_directory(&action.dest, copier.ownership)?;
                if let Some(reuse) = &self.reuse {
                    reuse.distrust();
                }
                return archive::unpack(archive, &shown, &target, copier.ownership.owner);
            }
            if action.unpack == Unpack::Always {
                return Err(ExecutorError::NotAnArchive { path: shown });
            }
        }
        let is_directory = action.dest.ends_with('/') || action.dest.ends_with("/.");
        let destination = self.resolve(&action.dest)?;
        let (dir, target_name) =
            if is_directory || (destination.rest.is_empty() && !destination.is_file) {
                let dir = self.make_all(&destination, &destination.rest, copier.ownership)?;
                (dir, found.name.clone())
            } else {
                let (last, parents) = match destination.rest.split_last() {
                    Some(split) => split,
                    None => return Ok(()),
                };
                let dir = self.make_all(&destination, parents, copier.ownership)?;
                (dir, last.clone())
            };
        copier.entry(parent, name, entry, &dir, &target_name)
    }

    /// `COPY --parents`: the path below the pivot is kept.
    fn copy_with_parents(
        &self,
        copier: &Copier<'_>,
        action: &CopyAction,
        written: &str,
        exclude: &PatternMatcher,
    ) -> Result<(), ExecutorError> {
        let source = copier.source;
        let pivoted = Pivoted::new(written);
        let found = match source.find_pivots(written, &pivoted) {
            Err(ExecutorError::NotFound { .. }) if !action.required => Vec::new(),
            other => other?,
        };
        let include = PatternMatcher::new(&[pivoted.pattern.as_str()])?;
        let filter = Filter { ignore: &source.ignore, include: &include, exclude };
        for found in found {
            if !source.is_dir(&found.located) {
                return Err(ExecutorError::NotADirectory { path: found.located.path() });
            }
            let dir = source.open_dir(&found.located)?;
            let required = !pivoted.is_pattern && action.required;
            if required && !copier.has_any(&dir, &found.located, &filter)? {
                return Err(source.missing_below(written, &found, &pivoted.pattern));
            }
            // As in BuildKit the destination is made even if the pattern matches nothing.
            let target = self.destination_directory(&action.dest, copier.ownership)?;
            copier.directory_contents(&dir, &found.located, &target, &filter)?;
            if found.located.last.is_some() {
                let meta = dir.meta().map_err(ExecutorError::file("look at", written))?;
                if let Some(meta) = meta {
                    target.set_mtime(meta.mtime).map_err(failed(
                        "set the time of",
                        &target,
                        None,
                    ))?;
                }
            }
        }
        Ok(())
    }

    /// The destination as a directory, made if it is not there.
    fn destination_directory(
        &self,
        path: &str,
        ownership: &Ownership,
    ) -> Result<Arc<TargetDir>, ExecutorError> {
        let destination = self.resolve(path)?;
        self.make_all(&destination, &destination.rest, ownership)
    }

    fn resolve(&self, path: &str) -> Result<Destination, ExecutorError> {
        resolve_destination(&self.root, path).map_err(|source| match source.kind() {
            io::ErrorKind::NotADirectory => ExecutorError::NotADirectory { path: path.into() },
            _ => ExecutorError::File { attempt: "find the destination", path: path.into(), source },
        })
    }

    /// Makes the missing directories `names` of a destination.
    fn make_all(
        &self,
        destination: &Destination,
        names: &[OsString],
        ownership: &Ownership,
    ) -> Result<Arc<TargetDir>, ExecutorError> {
        if destination.is_file && !names.is_empty() {
            let path = destination.dir.path().join(&names[0]);
            return Err(ExecutorError::DirectoryOverFile { path });
        }
        let (uid, gid) = ownership.owner.unwrap_or((0, 0));
        let mode = ownership.chmod.as_ref().and_then(Chmod::for_parents).unwrap_or(DIRECTORY_MODE);
        let xattrs = Xattrs::new();
        let mtime = ownership.created;
        let attributes = Attributes { uid, gid, mode, mtime, xattrs: &xattrs };
        let mut dir = destination.dir.clone();
        let mut made: Vec<Arc<TargetDir>> = Vec::new();
        for name in names {
            let new = dir.make_dir(name).map_err(failed("create", &dir, Some(name)))?;
            new.set_attributes(&attributes).map_err(failed("create", &new, None))?;
            made.push(new.clone());
            dir = new;
        }
        if let Some(created) = ownership.created {
            for dir in made.iter().rev() {
                dir.set_mtime(created).map_err(failed("set the time of", dir, None))?;
            }
        }
        Ok(dir)
    }
}

/// What a copy has to say beyond having worked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Patterns that matched nothing.
    pub unmatched: Vec<String>,
}

fn failed<'a>(
    attempt: &'static str,
    dir: &'a Arc<TargetDir>,
    name: Option<&'a OsStr>,
) -> impl FnOnce(io::Error) -> ExecutorError + use<'a> {
    move |source| {
        let path = match name {
            Some(name) => dir.path().join(name),
            None => dir.path(),
        };
        ExecutorError::File { attempt, path, source }
    }
}

#[cfg(test)]
mod tests;
