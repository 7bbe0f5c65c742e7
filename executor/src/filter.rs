//! Which files of a tree a step sees.
//!
//! Three lists of patterns can take files out: the ignore file of a context (anchored at the
//! tree's root), the `include` and the `exclude` lists of a selector (anchored at each selected
//! path). They are asked together, once per file, on the way down.

use crate::ExecutorError;
use crate::pattern::{ParentMatch, PatternMatcher};

/// The lists that apply to one walk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filter<'a> {
    /// Anchored at the root of the tree.
    pub ignore: &'a PatternMatcher,
    /// Anchored at the selected path; empty takes everything.
    pub include: &'a PatternMatcher,
    /// Anchored at the selected path.
    pub exclude: &'a PatternMatcher,
}

/// What the lists said of a directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct FilterState {
    ignore: ParentMatch,
    include: ParentMatch,
    exclude: ParentMatch,
}

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is there.
    Take,
    /// A directory that is there only if something below it is.
    Through,
    /// It is not there.
    Skip,
}

impl Filter<'_> {
    /// Whether every file is taken.
    pub(crate) fn takes_all(&self) -> bool {
        self.ignore.is_empty() && self.include.is_empty() && self.exclude.is_empty()
    }

    /// The state for entries of the directory `path` (from the tree's root, empty for the root), a
    /// selected path itself.
    pub(crate) fn start(&self, path: &[u8]) -> FilterState {
        let mut state = FilterState::default();
        if !path.is_empty() {
            let ends = path.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(i, _)| i);
            for end in ends.chain([path.len()]) {
                state.ignore = self.ignore.matches_below(&path[..end], &state.ignore).1;
            }
        }
        state
    }

    /// Judges one entry: `path` from the tree's root, `relative` from the selected path.
    pub(crate) fn judge(
        &self,
        parent: &FilterState,
        path: &[u8],
        relative: &[u8],
        is_dir: bool,
    ) -> (Verdict, FilterState) {
        if self.takes_all() {
            return (Verdict::Take, FilterState::default());
        }
        let (ignored, ignore) = self.ignore.matches_below(path, &parent.ignore);
        let (excluded, exclude) = self.exclude.matches_below(relative, &parent.exclude);
        let (included, include) = self.include.matches_below(relative, &parent.include);
        let included = included || self.include.is_empty();
        let state = FilterState { ignore, include, exclude };
        let verdict = if included && !ignored && !excluded {
            Verdict::Take
        } else if is_dir
            && (!ignored || self.ignore.may_reinclude_below(path))
            && (!excluded || self.exclude.may_reinclude_below(relative))
        {
            Verdict::Through
        } else {
            Verdict::Skip
        };
        (verdict, state)
    }
}

/// The matchers of a selector's two lists.
pub(crate) fn matchers(
    include: &[String],
    exclude: &[String],
) -> Result<(PatternMatcher, PatternMatcher), ExecutorError> {
    let include: Vec<_> = include.iter().map(|rule| rule.trim().trim_start_matches('/')).collect();
    // Of `--exclude` no slash is taken: as in BuildKit one in front keeps a rule from matching.
    Ok((PatternMatcher::new(&include)?, PatternMatcher::new(exclude)?))
}
