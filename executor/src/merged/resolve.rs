//! Finding a path in a tree, with links resolved inside it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Dir, Entry, Kind, display_path};

/// How many links a path may take, as in BuildKit.
pub(crate) const MAX_LINKS: usize = 255;

/// Where a path leads.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    /// The directories that lead there, without the root, each with its name; links are resolved.
    pub parents: Vec<(OsString, Arc<Dir>)>,
    /// The last name and what it is; `None` if the path is the root itself.
    pub last: Option<(OsString, Entry)>,
}

impl Located {
    /// The path with its links resolved, from the root.
    pub(crate) fn path(&self) -> PathBuf {
        display_path(self.components())
    }

    /// The names of the path with its links resolved.
    pub(crate) fn components(&self) -> impl Iterator<Item = &OsStr> {
        let parents = self.parents.iter().map(|(name, _)| name.as_os_str());
        parents.chain(self.last.iter().map(|(name, _)| name.as_os_str()))
    }

    /// The directory that holds the last name.
    pub(crate) fn parent<'a>(&'a self, root: &'a Arc<Dir>) -> &'a Arc<Dir> {
        self.parents.last().map_or(root, |(_, dir)| dir)
    }
}

/// Why a path leads nowhere.
#[derive(Debug)]
pub(crate) enum LookupError {
    /// There is no `name` in the directory `parent` (links resolved).
    NotFound {
        parent: Box<Located>,
        name: OsString,
    },
    /// Something that is no directory stands in the middle of the path.
    NotADirectory {
        path: PathBuf,
    },
    /// More than [`MAX_LINKS`] links.
    TooManyLinks,
    Io {
        path: PathBuf,
        source: io::Error,
    },
}

/// Follows `path` from the root of a tree. Links, absolute ones too, never leave the tree; the last
/// one is followed only if `follow_last`.
pub(crate) fn resolve<S: AsRef<OsStr>>(
    root: &Arc<Dir>,
    path: &[S],
    follow_last: bool,
) -> Result<Located, LookupError> {
    let mut pending: VecDeque<OsString> = path.iter().map(|c| c.as_ref().to_owned()).collect();
    let mut parents: Vec<(OsString, Arc<Dir>)> = Vec::new();
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        match name.as_bytes() {
            b"" | b"." => continue,
            b".." => {
                parents.pop();
                continue;
            }
            _ => {}
        }
        let here = parents.last().map_or(root, |(_, dir)| dir).clone();
        let failed = |parents: &[(OsString, Arc<Dir>)], source| {
            let names = parents.iter().map(|(n, _)| n.as_os_str()).chain([name.as_os_str()]);
            LookupError::Io { path: display_path(names), source }
        };
        let Some(entry) = here.lookup(&name).map_err(|e| failed(&parents, e))? else {
            let parent = Box::new(directory(parents));
            return Err(LookupError::NotFound { parent, name });
        };
        let is_last = pending.is_empty();
        match entry.meta.kind {
            Kind::Symlink if !is_last || follow_last => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(LookupError::TooManyLinks);
                }
                let target = here.read_link(&name, &entry).map_err(|e| failed(&parents, e))?;
                if target.as_bytes().starts_with(b"/") {
                    parents.clear();
                }
                for part in target.as_bytes().rsplit(|&b| b == b'/') {
                    pending.push_front(OsStr::from_bytes(part).to_owned());
                }
            }
            Kind::Dir if !is_last => {
                let dir = here.open_dir(&name).map_err(|e| failed(&parents, e))?;
                parents.push((name, Arc::new(dir)));
            }
            _ if !is_last => {
                let names = parents.iter().map(|(n, _)| n.as_os_str()).chain([name.as_os_str()]);
                return Err(LookupError::NotADirectory { path: display_path(names) });
            }
            _ => return Ok(Located { parents, last: Some((name, entry)) }),
        }
    }
    Ok(directory(parents))
}

/// The last of `parents` (or the root) as a place of its own.
fn directory(mut parents: Vec<(OsString, Arc<Dir>)>) -> Located {
    match parents.pop() {
        None => Located { parents, last: None },
        Some((name, dir)) => {
            let last = dir.meta().ok().flatten().map(|meta| (name, Entry { meta, layer: 0 }));
            Located { parents, last }
        }
    }
}
