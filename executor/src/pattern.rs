//! Path patterns: Go's `filepath.Match` and the ignore-file rules of moby/patternmatcher.
//!
//! Two languages share this module because they share the cleaning of paths. A *glob*
//! ([`glob_match`]) is what `COPY *.go /` means: `*`, `?` and `[…]`, one path component at a
//! time, with an error for malformed patterns. A [`PatternMatcher`] is a list of ignore rules:
//! `**`, `!`, anchored at the root, the last matching rule wins, and a rule that matches a
//! directory covers everything below it.
//!
//! Names are bytes, as the kernel has them; `?` and classes count UTF-8 characters, and a byte
//! that is not UTF-8 counts as one character, as in Go.

mod glob;
mod matcher;

pub(crate) use glob::components;
pub use glob::{clean, glob_match, has_wildcards};
pub use matcher::{ParentMatch, Pattern, PatternMatcher};

/// A pattern that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// An unclosed class, an empty class, or a backslash at the end.
    #[error("syntax error in pattern `{pattern}`")]
    Syntax {
        /// The pattern as written.
        pattern: String,
        /// Which pattern of the list it is, from 0.
        index: usize,
    },
    /// `!` without anything behind it.
    #[error("illegal exclusion pattern: \"!\"")]
    BareExclamation {
        /// Which pattern of the list it is, from 0.
        index: usize,
    },
}
