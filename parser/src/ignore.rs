//! `.dockerignore` text → ordered pattern lines. Matching lives with whoever walks the files.

use crate::diagnostic::Diagnostic;

/// One pattern line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoreLine {
    /// The pattern without `!`, cleaned, with `/` separators and no leading `/`.
    pub pattern: String,
    /// Whether it started with `!`: what it matches is taken back in.
    pub negated: bool,
    /// The line, from 1.
    pub line: u32,
    /// The line as written, trimmed.
    pub text: String,
}

impl IgnoreLine {
    /// The line as pattern matchers take it: the pattern with `!` before it if negated.
    pub fn rule(&self) -> String {
        todo!()
    }
}

/// Reads a `.dockerignore`. Lines that are wrong are reported and left out.
pub fn parse_ignore(source: &[u8]) -> (Vec<IgnoreLine>, Vec<Diagnostic>) {
    let _ = source;
    todo!()
}
