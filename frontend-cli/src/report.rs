//! What the human reads when something went wrong, printed once, in `main`.
//!
//! ```text
//! error: `RUN make -j4` exited with code 2
//!   --> Dockerfile:12:1
//!    |
//! 12 | RUN make -j4
//!    | ^^^^^^^^^^^^
//!    = last output: make: *** No rule to make target 'all'. Stop.
//!
//! hint: the context has no `Makefile`; `.dockerignore` line 3 (`Make*`) excludes it
//! ```
//!
//! Library crates return typed errors; this module is the only one that turns them into text. A
//! cause is printed below the message that it caused, never repeated in it.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;
use std::process::ExitCode;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// Whose move it is after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The user's input is wrong: a Dockerfile, a flag, a name.
    Input,
    /// The machine cannot do it: permissions, space, network, kernel.
    Environment,
    /// Strake is wrong.
    Internal,
}

/// A place in a source file, shown as an excerpt.
#[derive(Debug, Clone)]
pub(crate) struct Excerpt {
    /// The name shown, as the user wrote it.
    pub(crate) file: String,
    /// The whole text of the file.
    pub(crate) source: String,
    /// What to underline, in bytes of `source`.
    pub(crate) span: Range<usize>,
    /// The label below the underlined text, where there is something to add.
    pub(crate) label: Option<String>,
}

/// One problem with everything that helps to solve it.
#[derive(Debug)]
pub(crate) struct Problem {
    message: String,
    excerpt: Option<Excerpt>,
    notes: Vec<String>,
    hints: Vec<String>,
}

/// Why a command failed, and with which code the process ends.
#[derive(Debug)]
pub(crate) struct CliError {
    kind: ErrorKind,
    problems: Vec<Problem>,
    exit_code: u8,
}

impl Problem {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Problem { message: message.into(), excerpt: None, notes: Vec::new(), hints: Vec::new() }
    }

    pub(crate) fn at(mut self, excerpt: Excerpt) -> Self {
        self.excerpt = Some(excerpt);
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl CliError {
    pub(crate) fn input(message: impl Into<String>) -> Self {
        CliError::new(ErrorKind::Input, vec![Problem::new(message)])
    }

    pub(crate) fn environment(message: impl Into<String>) -> Self {
        CliError::new(ErrorKind::Environment, vec![Problem::new(message)])
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        CliError::new(ErrorKind::Internal, vec![Problem::new(message)])
    }

    pub(crate) fn new(kind: ErrorKind, problems: Vec<Problem>) -> Self {
        CliError { kind, problems, exit_code: 1 }
    }

    /// An error of the machine with its chain of causes below it.
    pub(crate) fn caused(message: impl Into<String>, cause: &dyn Error) -> Self {
        CliError::environment(message).note(chain(cause))
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        if let Some(problem) = self.problems.last_mut() {
            problem.notes.push(note.into());
        }
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Some(problem) = self.problems.last_mut() {
            problem.hints.push(hint.into());
        }
        self
    }

    /// Says where it is.
    pub(crate) fn at(mut self, excerpt: Excerpt) -> Self {
        if let Some(problem) = self.problems.last_mut() {
            problem.excerpt = Some(excerpt);
        }
        self
    }

    /// To be told with others.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// The code that the process ends with instead of 1.
    pub(crate) fn with_exit_code(mut self, code: u8) -> Self {
        self.exit_code = code;
        self
    }

    pub(crate) fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// The error as it is printed.
    pub(crate) fn text(&self) -> String {
        self.render(false)
    }

    #[cfg(test)]
    pub(crate) fn message(&self) -> String {
        self.problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// Prints the error on stderr and gives the code to exit with.
    pub(crate) fn report(&self, colour: bool) -> ExitCode {
        let text = self.render(colour);
        // Nobody is left to tell when stderr is closed.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        ExitCode::from(self.exit_code)
    }

    fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        for problem in &self.problems {
            render_problem(&mut text, problem, colour);
        }
        if self.kind == ErrorKind::Internal {
            text.push_str(
                "\nThis is a defect of strake. Please report it with the command and its output.\n",
            );
        }
        text
    }
}

fn render_problem(text: &mut String, problem: &Problem, colour: bool) {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let message = printable(&problem.message);
    let title = Level::ERROR.primary_title(message);
    let group = match &problem.excerpt {
        Some(excerpt) => {
            let span = clamp(&excerpt.span, &excerpt.source);
            let annotation = AnnotationKind::Primary.span(span);
            let annotation = match &excerpt.label {
                Some(label) => annotation.label(label.as_str()),
                None => annotation,
            };
            title.element(
                Snippet::source(excerpt.source.as_str())
                    .path(excerpt.file.as_str())
                    .annotation(annotation),
            )
        }
        None => annotate_snippets::Group::with_title(title),
    };
    text.push_str(&renderer.render(&[group]));
    text.push('\n');
    for note in &problem.notes {
        let _ = writeln!(text, "   = {}", printable(note).trim_end().replace('\n', "\n     "));
    }
    for hint in &problem.hints {
        let _ = writeln!(text, "\nhint: {}", printable(hint));
    }
}

/// Output of a step or of a foreign file must not drive the terminal (threat 25).
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

fn clamp(span: &Range<usize>, source: &str) -> Range<usize> {
    let mut start = span.start.min(source.len());
    while !source.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = span.end.clamp(start, source.len());
    while !source.is_char_boundary(end) {
        end -= 1;
    }
    start..end.max(start)
}

/// The messages of an error and of all its causes, one a line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // A transparent wrapper repeats its inner error; said once is enough.
        if !text.ends_with(&inner_text) {
            let _ = write!(text, "\ncaused by: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_line_and_the_hint() {
        let source = "FROM busybox\nRUNN true\n";
        let error = CliError::new(
            ErrorKind::Input,
            vec![
                Problem::new("unknown instruction: RUNN")
                    .at(Excerpt {
                        file: "Dockerfile".into(),
                        source: source.into(),
                        span: 13..17,
                        label: None,
                    })
                    .hint("did you mean RUN?"),
            ],
        );
        let text = error.render(false);
        assert!(text.contains("error: unknown instruction: RUNN"), "{text}");
        assert!(text.contains("Dockerfile:2:1"), "{text}");
        assert!(text.contains("2 | RUNN true"), "{text}");
        assert!(text.contains("hint: did you mean RUN?"), "{text}");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        let text = CliError::input("a\x1b[31mb").render(false);
        assert!(!text.contains('\x1b'), "{text:?}");
    }

    #[test]
    fn a_span_outside_of_the_text_is_clamped() {
        assert_eq!(clamp(&(5..99), "abc"), 3..3);
        assert_eq!(clamp(&(1..2), "aé"), 1..1);
    }
}
