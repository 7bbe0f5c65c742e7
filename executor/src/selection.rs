//! The fingerprint of what a selector names.
//!
//! | counts | does not count |
//! |---|---|
//! | type and permission bits, owner, size, device number | modification and change time, inode, link count |
//! | bytes of files, targets of links | the order in which the disk lists a directory |
//! | `security.capability` and every attribute outside `security.*`, `system.*` | other attributes |
//! | names below a selected path; for patterns, names from the root of the tree | the name of a path that is selected literally |
//!
//! Of a context, owners are 0:0 and `security.capability` is not there, because copies of it are
//! made that way. A directory that is selected for its contents does not count itself.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use cache::hash::{Fingerprint, FingerprintBuilder};
use rayon::prelude::*;
use solver::llb::{SelectPath, Selector};
use solver::{Content, Ingredient};

use crate::ExecutorError;
use crate::filter::{Filter, FilterState, Verdict, matchers};
use crate::merged::{Dir, Entry, Kind, Meta, Xattrs, display_path};
use crate::pattern::{PatternMatcher, components, has_wildcards};
use crate::source_tree::{Found, SourceTree, join};
use crate::stat_cache::{Known, Listing};

/// Bytes of a file that are hashed at a time.
const CHUNK: usize = 256 * 1024;

/// With more files than this, `why` is told about directories instead.
const MAX_INGREDIENTS: usize = 2_000;
/// Directories further down than this are not told apart then.
const MAX_SUMMARY_DEPTH: usize = 7;

/// One file of a selection.
struct Item {
    /// From the selected path; empty for the path itself.
    relative: Vec<u8>,
    meta: Meta,
    known: Known,
}

/// The files of one selected path, or of one match of a pattern.
struct Selected {
    /// What counts of its name.
    label: Vec<u8>,
    /// Its path for people.
    shown: Vec<u8>,
    items: Vec<Item>,
}

impl SourceTree {
    /// The fingerprint of what `selector` names, with its parts. A literal path that is not there is
    /// an error, a pattern that matches nothing is not.
    pub(crate) fn content(&self, selector: &Selector) -> Result<Content, ExecutorError> {
        let (include, exclude) = matchers(&selector.include, &selector.exclude)?;
        let root = [SelectPath {
            path: "/".to_owned(),
            wildcard: false,
            follow: true,
            contents_only: true,
        }];
        let paths = if selector.paths.is_empty() { &root } else { &selector.paths[..] };
        let mut fingerprint = FingerprintBuilder::new("strake selected content v1");
        let mut everything = Vec::new();
        for path in paths {
            let selected = if selector.parents {
                self.select_with_parents(path, &exclude)?
            } else {
                self.select(path, &include, &exclude)?
            };
            fingerprint.add("path", &[]);
            for selected in selected {
                fingerprint.add("selected", &selected.label);
                for item in &selected.items {
                    fingerprint.add("file", &item.encode());
                }
                everything.push(selected);
            }
        }
        Ok(Content { fingerprint: fingerprint.finish(), ingredients: ingredients(&everything) })
    }

    /// The items of one path: per match its label, its path for people, and its files.
    fn select(
        &self,
        path: &SelectPath,
        include: &PatternMatcher,
        exclude: &PatternMatcher,
    ) -> Result<Vec<Selected>, ExecutorError> {
        let filter = Filter { ignore: &self.ignore, include, exclude };
        let is_pattern = path.wildcard && has_wildcards(&path.path);
        let mut selected = Vec::new();
        for found in self.find(&path.path, path.wildcard, path.follow)? {
            let shown = join(&found.path);
            let label = if is_pattern { shown.clone() } else { Vec::new() };
            let items = self.items_of(&found, path.contents_only, &filter)?;
            if items.is_empty() && !is_pattern {
                self.check_visible(&path.path, &found)?;
            }
            selected.push(Selected { label, shown, items });
        }
        Ok(selected)
    }

    /// A directory that is ignored, and of which nothing comes back in, is not there.
    fn check_visible(&self, written: &str, found: &Found) -> Result<(), ExecutorError> {
        let real = join(found.located.components());
        match self.ignore.excluded_by(&real) {
            Some(rule) if !real.is_empty() => Err(self.not_found(written, Vec::new(), Some(rule))),
            _ => Ok(()),
        }
    }

    /// `COPY --parents`: the pattern may hold `**`, and the directories that lead to a match count.
    fn select_with_parents(
        &self,
        path: &SelectPath,
        exclude: &PatternMatcher,
    ) -> Result<Vec<Selected>, ExecutorError> {
        let pivoted = Pivoted::new(&path.path);
        let include = PatternMatcher::new(&[pivoted.pattern.as_str()])?;
        let filter = Filter { ignore: &self.ignore, include: &include, exclude };
        let mut selected = Vec::new();
        for found in self.find_pivots(&path.path, &pivoted)? {
            let items = self.items_of(&found, true, &filter)?;
            if items.is_empty() && !pivoted.is_pattern {
                return Err(self.missing_below(&path.path, &found, &pivoted.pattern));
            }
            selected.push(Selected { label: Vec::new(), shown: join(&found.path), items });
        }
        Ok(selected)
    }

    /// The directories that `--parents` counts from. A name must be there, whatever follows it.
    pub(crate) fn find_pivots(
        &self,
        written: &str,
        pivoted: &Pivoted,
    ) -> Result<Vec<Found>, ExecutorError> {
        if pivoted.pattern.is_empty() {
            // `.` or `dir/./`: as in BuildKit there is nothing to count from.
            return Err(self.not_found(written, Vec::new(), None));
        }
        let wildcard = has_wildcards(&pivoted.base);
        match self.find(&pivoted.base, wildcard, true) {
            Ok(mut found) => {
                found.retain(|found| !wildcard || self.is_dir(&found.located));
                Ok(found)
            }
            Err(ExecutorError::NotFound { tree, near, excluded_by, .. }) => {
                let path = written.to_owned();
                Err(ExecutorError::NotFound { path, tree, near, excluded_by })
            }
            Err(error) => Err(error),
        }
    }

    /// The error for a literal `path` below a pivot that is not there.
    pub(crate) fn missing_below(&self, written: &str, base: &Found, path: &str) -> ExecutorError {
        let mut whole = String::from_utf8_lossy(&join(&base.path)).into_owned();
        whole.push('/');
        whole.push_str(path);
        match self.find(&whole, false, true) {
            Err(ExecutorError::NotFound { tree, near, excluded_by, .. }) => {
                ExecutorError::NotFound { path: written.to_owned(), tree, near, excluded_by }
            }
            Err(error) => error,
            Ok(_) => self.not_found(written, Vec::new(), None),
        }
    }

    fn items_of(
        &self,
        found: &Found,
        contents_only: bool,
        filter: &Filter<'_>,
    ) -> Result<Vec<Item>, ExecutorError> {
        let real = join(found.located.components());
        let mut items = Vec::new();
        if let Some((name, entry)) = &found.located.last
            && entry.meta.kind != Kind::Dir
        {
            let parent = found.located.parent(&self.root);
            items.push(self.item(parent, name, entry, Vec::new(), &real)?);
            return Ok(items);
        }
        let dir = self.open_dir(&found.located)?;
        if !contents_only && found.located.last.is_some() {
            let failed = |e| ExecutorError::File {
                attempt: "look at",
                path: found.located.path(),
                source: e,
            };
            if let Some(meta) = dir.meta().map_err(failed)? {
                let xattrs = self.attributes(&dir.xattrs().map_err(failed)?);
                let known = Known { content: Fingerprint::of(b""), xattrs };
                items.push(Item { relative: Vec::new(), meta: self.counted(meta), known });
            }
        }
        items.extend(self.items_below(&dir, &real, &[], &filter.start(&real), filter)?);
        Ok(items)
    }

    /// The files below a directory, each directory before its entries, names in byte order.
    fn items_below(
        &self,
        dir: &Dir,
        path: &[u8],
        relative: &[u8],
        state: &FilterState,
        filter: &Filter<'_>,
    ) -> Result<Vec<Item>, ExecutorError> {
        let failed = |attempt: &'static str, path: &[u8]| {
            ExecutorError::file(attempt, display_path([OsStr::from_bytes(path)]))
        };
        let names = dir.names().map_err(failed("list", path))?;
        let look = |name: OsString| {
            let looked_up = dir.lookup(&name);
            // Without an entry it is gone meanwhile.
            let entry = looked_up.map_err(|e| failed("look at", &child(path, &name))(e))?;
            Ok(entry.map(|entry| (name, entry)))
        };
        let listing = names.into_par_iter().with_min_len(8).map(look);
        let listing = listing.filter_map(Result::transpose);
        let listing = listing.collect::<Result<Listing, ExecutorError>>()?;
        let parts: Vec<Vec<Item>> = listing
            .par_iter()
            .with_min_len(8)
            .map(|(name, entry)| {
                let path = child(path, name);
                let relative = child(relative, name);
                let is_dir = entry.meta.kind == Kind::Dir;
                let (verdict, state) = filter.judge(state, &path, &relative, is_dir);
                if verdict == Verdict::Skip {
                    return Ok(Vec::new());
                }
                if !is_dir {
                    return Ok(vec![self.item(dir, name, entry, relative, &path)?]);
                }
                let below = dir.open_dir(name).map_err(failed("open", &path))?;
                let items = self.items_below(&below, &path, &relative, &state, filter)?;
                if verdict == Verdict::Through && items.is_empty() {
                    return Ok(items);
                }
                let known = self.known(&entry.meta, || Ok((Fingerprint::of(b""), below.xattrs()?)));
                let known = known.map_err(failed("read the attributes of", &path))?;
                let mut all = vec![Item { relative, meta: self.counted(entry.meta), known }];
                all.extend(items);
                Ok(all)
            })
            .collect::<Result<_, ExecutorError>>()?;
        if let Some(cache) = &self.cache
            && let Some(meta) = dir.meta().map_err(failed("look at", path))?
        {
            cache.keep_listing(&meta, listing);
        }
        Ok(parts.into_iter().flatten().collect())
    }

    fn item(
        &self,
        dir: &Dir,
        name: &OsStr,
        entry: &Entry,
        relative: Vec<u8>,
        path: &[u8],
    ) -> Result<Item, ExecutorError> {
        let known = self.known(&entry.meta, || match entry.meta.kind {
            Kind::File => {
                let file = dir.open_file(name, entry)?;
                let xattrs = dir.file_xattrs(std::os::fd::AsFd::as_fd(&file))?;
                Ok((hash_file(file.into())?, xattrs))
            }
            Kind::Symlink => {
                let target = dir.read_link(name, entry)?;
                Ok((Fingerprint::of(target.as_bytes()), Xattrs::new()))
            }
            _ => Ok((Fingerprint::of(b""), Xattrs::new())),
        });
        let shown = || display_path([OsStr::from_bytes(path)]);
        let known = known.map_err(|source| ExecutorError::File {
            attempt: "read",
            path: shown(),
            source,
        })?;
        Ok(Item { relative, meta: self.counted(entry.meta), known })
    }

    /// What is remembered of a file, else what `read` finds.
    fn known(
        &self,
        meta: &Meta,
        read: impl FnOnce() -> io::Result<(Fingerprint, Xattrs)>,
    ) -> io::Result<Known> {
        if let Some(known) = self.cache.as_ref().and_then(|cache| cache.get(meta)) {
            return Ok(known);
        }
        let now = SystemTime::now();
        let (content, xattrs) = read()?;
        let known = Known { content, xattrs: self.attributes(&xattrs) };
        if let Some(cache) = &self.cache {
            cache.insert(meta, known, now);
        }
        Ok(known)
    }

    fn attributes(&self, xattrs: &Xattrs) -> Fingerprint {
        let mut fingerprint = FingerprintBuilder::new("strake attributes v1");
        for (name, value) in xattrs {
            if !(self.is_context && name == b"security.capability") {
                fingerprint.add("name", name);
                fingerprint.add("value", value);
            }
        }
        fingerprint.finish()
    }

    fn counted(&self, meta: Meta) -> Meta {
        if self.is_context { Meta { uid: 0, gid: 0, ..meta } } else { meta }
    }
}

impl Item {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.relative.len() + 104);
        bytes.extend((self.relative.len() as u64).to_le_bytes());
        bytes.extend(&self.relative);
        for number in [self.meta.raw_mode(), self.meta.uid, self.meta.gid] {
            bytes.extend(number.to_le_bytes());
        }
        let device = matches!(self.meta.kind, Kind::CharDevice | Kind::BlockDevice);
        bytes.extend(if device { self.meta.rdev } else { 0 }.to_le_bytes());
        bytes.extend(self.size().to_le_bytes());
        bytes.extend(self.known.content.as_bytes());
        bytes.extend(self.known.xattrs.as_bytes());
        bytes
    }

    /// Its path for people, without a slash before it, in the place of what `path` held.
    fn write_path(&self, selected: &[u8], path: &mut Vec<u8>) {
        path.clear();
        path.extend(selected);
        if !path.is_empty() && !self.relative.is_empty() {
            path.push(b'/');
        }
        path.extend(&self.relative);
    }

    /// File systems disagree about the size of anything else.
    fn size(&self) -> u64 {
        if self.meta.kind == Kind::File { self.meta.size } else { 0 }
    }

    fn ingredient(&self, selected: &[u8]) -> Ingredient {
        let mut path = Vec::new();
        self.write_path(selected, &mut path);
        let meta = &self.meta;
        let owner = if (meta.uid, meta.gid) == (0, 0) {
            String::new()
        } else {
            format!(" owner={}:{}", meta.uid, meta.gid)
        };
        let value = format!(
            "mode={:06o}{owner} size={} content={} attributes={}",
            meta.raw_mode(),
            self.size(),
            self.known.content.short(),
            self.known.xattrs.short(),
        );
        Ingredient { part: format!("file:/{}", String::from_utf8_lossy(&path)), value }
    }
}

/// Files as they are while they are few, else one ingredient for each of the topmost directories.
fn ingredients(selected: &[Selected]) -> Vec<Ingredient> {
    let files = || {
        selected.iter().flat_map(|group| group.items.iter().map(|item| (item, &group.shown[..])))
    };
    if files().count() <= MAX_INGREDIENTS {
        return files().map(|(item, shown)| item.ingredient(shown)).collect();
    }
    let mut path = Vec::new();
    // Files of one directory stand together, so that changes of the beginning count directories.
    let mut directories = [0; MAX_SUMMARY_DEPTH + 1];
    let mut before = Vec::new();
    for (item, shown) in files() {
        item.write_path(shown, &mut path);
        for (depth, count) in directories.iter_mut().enumerate().skip(1) {
            *count += usize::from(beginning(&path, depth) != beginning(&before, depth));
        }
        std::mem::swap(&mut path, &mut before);
    }
    let fits = |depth: &usize| directories[*depth] <= MAX_INGREDIENTS;
    let depth = (2..=MAX_SUMMARY_DEPTH).take_while(fits).last().unwrap_or(1);
    summary(files(), depth)
}

/// One ingredient for each beginning of the files' paths, `depth` names long.
fn summary<'a>(files: impl Iterator<Item = (&'a Item, &'a [u8])>, depth: usize) -> Vec<Ingredient> {
    let mut groups = std::collections::BTreeMap::<Vec<u8>, Fingerprint>::new();
    let mut close = |group: &[u8], builder: &mut FingerprintBuilder| {
        let sum = match groups.get(group) {
            // Two paths of a step may lead into one directory.
            Some(before) => {
                builder.add("before", before.as_bytes());
                builder.finish()
            }
            None if groups.len() == MAX_INGREDIENTS => return,
            None => builder.finish(),
        };
        groups.insert(group.to_vec(), sum);
    };
    let new = || FingerprintBuilder::new("strake file summary v1");
    let (mut path, mut group, mut builder) = (Vec::new(), None::<Vec<u8>>, new());
    for (item, shown) in files {
        item.write_path(shown, &mut path);
        let here = beginning(&path, depth);
        if group.as_deref().is_some_and(|group| group != here) {
            close(&group.take().unwrap_or_default(), &mut builder);
            builder = new();
        }
        builder.add("path", &path);
        builder.add("file", &item.encode());
        group.get_or_insert_with(|| here.to_vec());
    }
    if let Some(group) = group {
        close(&group, &mut builder);
    }
    let ingredient = |(group, sum): (Vec<u8>, Fingerprint)| Ingredient {
        part: format!("file:/{}", String::from_utf8_lossy(&group)),
        value: sum.short(),
    };
    groups.into_iter().map(ingredient).collect()
}

/// The first `depth` names of a path.
fn beginning(path: &[u8], depth: usize) -> &[u8] {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let end = slashes.map(|(index, _)| index).nth(depth - 1);
    &path[..end.unwrap_or(path.len())]
}

fn hash_file(file: std::fs::File) -> io::Result<Fingerprint> {
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; CHUNK]);
    }
    BUFFER.with_borrow_mut(|buffer| {
        let mut fingerprint = FingerprintBuilder::new("strake file content v1");
        let mut file = file;
        loop {
            let mut filled = 0;
            while filled < CHUNK {
                match file.read(&mut buffer[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            fingerprint.add("bytes", &buffer[..filled]);
            if filled < CHUNK {
                return Ok(fingerprint.finish());
            }
        }
    })
}

pub(crate) fn child(path: &[u8], name: &OsStr) -> Vec<u8> {
    let mut child = Vec::with_capacity(path.len() + 1 + name.len());
    child.extend(path);
    if !path.is_empty() {
        child.push(b'/');
    }
    child.extend(name.as_bytes());
    child
}

/// A source of `COPY --parents`: what stands before `/./` is not kept.
pub(crate) struct Pivoted {
    /// The directory that is counted from, or a pattern for several.
    pub base: String,
    /// The path or pattern below it.
    pub pattern: String,
    /// It holds wildcards.
    pub is_pattern: bool,
}

impl Pivoted {
    pub(crate) fn new(source: &str) -> Self {
        // A `./` or `/` in front is no pivot.
        let (base, pattern) = match source.trim_start_matches('/').split_once("/./") {
            Some((base, rest)) => (base, rest),
            None => ("/", source),
        };
        let pattern = components(pattern).join("/");
        let is_pattern = has_wildcards(&pattern) || has_wildcards(base);
        Self { base: base.to_owned(), pattern, is_pattern }
    }
}
