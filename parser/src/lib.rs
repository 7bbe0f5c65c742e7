//! Dockerfile and `.dockerignore` text → tree and diagnostics.
//!
//! Two phases. The lexer joins continued lines, drops comments and takes heredoc bodies, none of
//! which a context-free grammar can do; it keeps the way back from the joined text to the source.
//! Then a pest grammar reads the inside of each instruction: flags, words, JSON, `key=value`,
//! mount options.
//!
//! ```text
//! bytes ─ directive ─ lexer ──► logical instruction ─ head ─ grammar ──► instruction ──► file
//!          # escape=   joins      text + offset map    flags   words       run, copy…     stages
//! ```
//!
//! Nothing here is expanded, looked up or opened: variables stay in the tree, and [`Expander`]
//! resolves them for a caller who knows the environment. One bad line costs one diagnostic; the
//! rest of the file is still parsed, so all that is wrong with it is said at once. Messages are
//! BuildKit's where it has words for the case.

mod ast;
mod copy;
mod diagnostic;
mod directive;
mod expand;
mod file;
mod flags;
mod grammar;
mod head;
mod heredoc;
mod ignore;
mod instruction;
mod lexer;
mod lint;
mod mode;
mod mount;
mod print;
mod rules;
mod run;
mod span;
mod suggest;
mod value;

pub use ast::*;
pub use diagnostic::{Diagnostic, Severity};
pub use expand::{ExpandError, Expanded, ExpandedWords, Expander};
pub use ignore::{IgnoreLine, parse_ignore};
pub use lint::{Checks, Skip, names_a_secret};
pub use mode::{ModeChange, ModeClause, ModeOperator};
pub use mount::{Mount, MountError, MountOption, MountSpec, Sharing};
pub use rules::{LintRule, RULES, lint_rule};
pub use span::{LineColumn, LineIndex, Lines, Span, Spanned};
pub use suggest::edit_distance;
pub use value::{ExposedPorts, ValueError, parse_duration, parse_expose, parse_signal, parse_size};

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
    file::parse(source, options)
}

/// Parses one `ONBUILD` trigger as an image's configuration stores it. Spans are offsets into
/// `trigger`.
pub fn parse_trigger(trigger: &str) -> Result<Instruction, Vec<Diagnostic>> {
    file::parse_trigger(trigger)
}
