//! Dockerfile and `.dockerignore` text → tree and diagnostics.

mod ast;
mod diagnostic;
mod expand;
mod ignore;
mod lint;
mod mount;
mod span;
mod value;

pub use ast::*;
pub use diagnostic::{Diagnostic, Severity};
pub use expand::{ExpandError, Expanded, ExpandedWords, Expander};
pub use ignore::{IgnoreLine, parse_ignore};
pub use lint::{Checks, LintRule, RULES, Skip};
pub use mount::{Mount, MountError, MountOption, MountSpec, Sharing};
pub use span::{LineColumn, LineIndex, Lines, Span, Spanned};
pub use value::{
    ExposedPorts, ModeChange, ModeClause, ModeOperator, ValueError, parse_duration, parse_expose,
    parse_signal,
};

/// A parsed file: the tree of what could be understood, and what is wrong or odd about the rest.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The tree. Instructions with errors are missing from it.
    pub dockerfile: Dockerfile,
    /// Errors and warnings in the order of the source.
    pub diagnostics: Vec<Diagnostic>,
    /// Offsets → lines.
    pub lines: LineIndex,
}

impl Parsed {
    /// Whether the file cannot be built.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// What a caller may choose.
#[derive(Clone, Debug, Default)]
pub struct ParseOptions {
    /// `BUILDKIT_DOCKERFILE_CHECK`: used instead of the file's own `# check=`.
    pub check: Option<Checks>,
}

/// Parses a Dockerfile. Never panics; all errors of the file come at once.
pub fn parse(source: &[u8]) -> Parsed {
    parse_with(source, &ParseOptions::default())
}

/// [`parse`] with options.
pub fn parse_with(source: &[u8], options: &ParseOptions) -> Parsed {
    let _ = (source, options);
    todo!()
}

/// Parses one `ONBUILD` trigger as an image's configuration stores it. Spans are offsets into
/// `trigger`.
pub fn parse_trigger(trigger: &str) -> Result<Instruction, Vec<Diagnostic>> {
    let _ = trigger;
    todo!()
}
