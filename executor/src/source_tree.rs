//! Trees that steps copy and mount from, and the finding of paths in them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{ExcludedBy, ExecutorError, near};
use crate::merged::{Dir, Format, Kind, Located, LookupError, display_path, resolve};
use crate::pattern::{PatternMatcher, components, glob_match, has_wildcards};
use crate::stat_cache::StatCache;

/// A tree to read from.
#[derive(Debug, Clone)]
pub(crate) struct SourceTree {
    pub root: Arc<Dir>,
    /// What the ignore file takes out.
    pub ignore: Arc<PatternMatcher>,
    /// How errors call it: `the build context`.
    pub name: String,
    /// It is the user's: owners are 0:0 and `security.capability` means nothing.
    pub is_context: bool,
    /// What is remembered of its files.
    pub cache: Option<Arc<StatCache>>,
    /// The directory, if it is to go away with the tree.
    pub guard: Option<Arc<tempfile::TempDir>>,
}

/// A path that was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The last name of the path as it was written or matched: a link keeps its own.
    pub name: OsString,
    /// The path as it was written or matched, without a leading slash.
    pub path: Vec<OsString>,
    /// Where it leads, links followed.
    pub located: Located,
}

impl SourceTree {
    /// A directory of the user.
    pub(crate) fn context(
        root: &Path,
        name: String,
        excludes: &[String],
        cache: Option<Arc<StatCache>>,
    ) -> Result<Self, ExecutorError> {
        let dir = Dir::root([root], Format::PLAIN)
            .map_err(ExecutorError::file("open the build context", root))?;
        let ignore = Arc::new(PatternMatcher::new(excludes)?);
        Ok(Self { root: Arc::new(dir), ignore, name, is_context: true, cache, guard: None })
    }

    /// The files of a stage or an image.
    pub(crate) fn stage(root: Arc<Dir>, name: String) -> Self {
        Self { root, ignore: Arc::default(), name, is_context: false, cache: None, guard: None }
    }

    /// The places that `path` names. Links in it and at its end are followed, inside the tree; with
    /// `wildcard` it may be a pattern, whose matches come in the order of their bytes.
    pub(crate) fn find(
        &self,
        path: &str,
        wildcard: bool,
        follow: bool,
    ) -> Result<Vec<Found>, ExecutorError> {
        let parts = components(path);
        let literal = parts.iter().take_while(|part| !wildcard || !has_wildcards(part)).count();
        if literal == parts.len() {
            let parts: Vec<OsString> = parts.into_iter().map(OsString::from).collect();
            return Ok(vec![self.find_literal(path, parts, follow)?]);
        }
        for part in &parts[literal..] {
            glob_match(part, b"")?;
        }
        // Where the literal beginning leads nowhere, the pattern matches nothing.
        let start = match resolve(&self.root, &parts[..literal], true) {
            Ok(located) => located,
            Err(LookupError::NotFound { .. } | LookupError::NotADirectory { .. }) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(self.explain(path, error)),
        };
        let dir = match &start.last {
            None => self.root.clone(),
            Some((name, entry)) if entry.meta.kind == Kind::Dir => {
                Arc::new(start.parent(&self.root).open_dir(name).map_err(|source| {
                    ExecutorError::File { attempt: "open", path: start.path(), source }
                })?)
            }
            Some(_) => return Ok(Vec::new()),
        };
        let mut matches = Vec::new();
        let mut prefix: Vec<OsString> = start.components().map(OsStr::to_owned).collect();
        expand(&dir, &mut prefix, &parts[literal..], &mut matches)?;
        let mut found = Vec::new();
        for parts in matches {
            match self.find_literal(path, parts.clone(), follow) {
                Ok(place) => found.push(place),
                Err(error @ ExecutorError::NotFound { .. }) => {
                    // What is ignored is not there; a link to nowhere cannot be copied.
                    if let Ok(place) = self.find_literal(path, parts, false)
                        && place
                            .located
                            .last
                            .as_ref()
                            .is_some_and(|(_, e)| e.meta.kind == Kind::Symlink)
                    {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn find_literal(
        &self,
        written: &str,
        parts: Vec<OsString>,
        follow: bool,
    ) -> Result<Found, ExecutorError> {
        let located = resolve(&self.root, &parts, follow).map_err(|e| self.explain(written, e))?;
        let real = join(located.components());
        let ignored_by = self.ignore.excluded_by(&real).filter(|_| !real.is_empty());
        if let Some(rule) = ignored_by
            && !(self.is_dir(&located) && self.ignore.may_reinclude_below(&real))
        {
            return Err(self.not_found(written, Vec::new(), Some(rule)));
        }
        let name = parts.last().cloned().unwrap_or_default();
        Ok(Found { name, path: parts, located })
    }

    pub(crate) fn is_dir(&self, located: &Located) -> bool {
        located.last.as_ref().is_none_or(|(_, entry)| entry.meta.kind == Kind::Dir)
    }

    /// Opens the directory that was found.
    pub(crate) fn open_dir(&self, located: &Located) -> Result<Arc<Dir>, ExecutorError> {
        match &located.last {
            None => Ok(self.root.clone()),
            Some((name, _)) => located
                .parent(&self.root)
                .open_dir(name)
                .map(Arc::new)
                .map_err(ExecutorError::file("open", located.path())),
        }
    }

    /// The user's words for a path that leads nowhere.
    pub(crate) fn explain(&self, written: &str, error: LookupError) -> ExecutorError {
        match error {
            LookupError::NotFound { parent, name } => {
                let mut path: Vec<&OsStr> = parent.components().collect();
                path.push(&name);
                let rule = self.ignore.excluded_by(&join(path));
                let names = self.open_dir(&parent).and_then(|dir| {
                    dir.names().map_err(ExecutorError::file("list", parent.path()))
                });
                let names: Vec<String> = names
                    .unwrap_or_default()
                    .iter()
                    .take(10_000)
                    .map(|name| name.to_string_lossy().into_owned())
                    .collect();
                let near = near(&name.to_string_lossy(), names.iter().map(String::as_str));
                self.not_found(written, near, rule)
            }
            LookupError::NotADirectory { path } => ExecutorError::NotADirectory { path },
            LookupError::TooManyLinks => ExecutorError::TooManyLinks { path: written.to_owned() },
            LookupError::Io { path, source } => {
                ExecutorError::File { attempt: "look up", path, source }
            }
        }
    }

    pub(crate) fn not_found(
        &self,
        written: &str,
        near: Vec<String>,
        rule: Option<usize>,
    ) -> ExecutorError {
        let excluded_by = rule.and_then(|rule| {
            let pattern = self.ignore.pattern(rule)?;
            let sign = if pattern.is_exclusion() { "!" } else { "" };
            Some(ExcludedBy { rule, pattern: format!("{sign}{}", pattern.text()) })
        });
        let path = written.to_owned();
        ExecutorError::NotFound { path, tree: self.name.clone(), near, excluded_by }
    }
}

/// Adds every path below `dir` that the patterns match, component by component. Links inside the
/// pattern's part are not followed.
fn expand(
    dir: &Dir,
    prefix: &mut Vec<OsString>,
    patterns: &[String],
    matches: &mut Vec<Vec<OsString>>,
) -> Result<(), ExecutorError> {
    let Some((pattern, rest)) = patterns.split_first() else { return Ok(()) };
    let here = display_path(prefix.iter());
    for name in dir.names().map_err(ExecutorError::file("list", &here))? {
        if !glob_match(pattern, name.as_bytes())? {
            continue;
        }
        prefix.push(name.clone());
        if rest.is_empty() {
            matches.push(prefix.clone());
        } else {
            let entry =
                dir.lookup(&name).map_err(ExecutorError::file("look up", here.join(&name)))?;
            if entry.is_some_and(|entry| entry.meta.kind == Kind::Dir) {
                let below =
                    dir.open_dir(&name).map_err(ExecutorError::file("open", here.join(&name)))?;
                expand(&below, prefix, rest, matches)?;
            }
        }
        prefix.pop();
    }
    Ok(())
}

/// `a/b/c` as patterns see it.
pub(crate) fn join<S: AsRef<OsStr>>(parts: impl IntoIterator<Item = S>) -> Vec<u8> {
    let mut path = Vec::new();
    for part in parts {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(part.as_ref().as_bytes());
    }
    path
}
