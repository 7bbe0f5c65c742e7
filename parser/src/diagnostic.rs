//! What the parser has to say about a file: errors, and warnings under BuildKit's rule names.

use std::fmt;

use crate::span::Span;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be built.
    Error,
    /// The file can be built, but something in it looks wrong.
    Warning,
}

/// One finding, at one place of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The name of the build check ([`crate::RULES`]) for a warning that comes from one.
    pub rule: Option<&'static str>,
    /// What is wrong, in BuildKit's words where BuildKit has words for it.
    pub message: String,
    /// The bytes of the source that the message is about.
    pub span: Span,
    /// What to do about it: "did you mean `FROM`?".
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(message: impl Into<String>, span: Span) -> Self {
        Self { severity: Severity::Error, rule: None, message: message.into(), span, hint: None }
    }

    /// A warning of the build check `rule` at `span`.
    pub fn warning(rule: &'static str, message: impl Into<String>, span: Span) -> Self {
        let (severity, rule) = (Severity::Warning, Some(rule));
        Self { severity, rule, message: message.into(), span, hint: None }
    }

    /// The same finding with advice.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether this is an error.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rule) = self.rule {
            write!(f, "{rule}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}
