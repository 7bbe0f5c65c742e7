//! The first phase: lines → logical instructions.
//!
//! A logical instruction is what stands between two ends of line that are not continued, comments
//! and empty lines inside it dropped. Heredoc bodies follow it and can only be told apart once it
//! has been parsed, so the caller asks for them with [`Lexer::heredoc_body`] before it asks for
//! the next instruction.
//!
//! Joining lines moves text; [`OffsetMap`] leads every position of the joined text back to the
//! source.

use std::borrow::Cow;

use crate::diagnostic::Diagnostic;
use crate::span::{Lines, Span};

/// The longest line in bytes, line ending included.
const LINE_LIMIT: usize = 65_535;

/// Splits a source into logical instructions.
pub(crate) struct Lexer<'a> {
    source: &'a str,
    /// Where the next line starts.
    at: usize,
    /// Lines read so far.
    line: u32,
    escape: u8,
}

/// One instruction, lines joined.
#[derive(Debug)]
pub(crate) struct Logical<'a> {
    /// The text without leading blanks; borrowed if it is one line.
    pub(crate) text: Cow<'a, str>,
    /// Where each part of the text came from.
    pub(crate) map: OffsetMap,
    /// From the first byte of the text to the end of its last line.
    pub(crate) span: Span,
    /// The lines of `span`.
    pub(crate) lines: Lines,
    /// The comments directly above, without `#` and blanks around.
    pub(crate) comments: Vec<&'a str>,
    /// The first empty line inside the instruction.
    pub(crate) empty_line: Option<Span>,
}

/// The body of a heredoc.
pub(crate) struct Body<'a> {
    /// The lines before the terminator.
    pub(crate) content: &'a str,
    /// Where they are.
    pub(crate) span: Span,
    /// The end of the terminator line, without its line ending.
    pub(crate) end: usize,
    /// The line of the terminator.
    pub(crate) last_line: u32,
}

/// Joined text → source.
#[derive(Clone, Debug)]
pub(crate) struct OffsetMap {
    /// Source offset of the first byte of the text.
    first: usize,
    /// Where the later lines start, in the text and in the source, ascending.
    joints: Vec<(usize, usize)>,
}

impl OffsetMap {
    pub(crate) fn new(first: usize) -> Self {
        Self { first, joints: Vec::new() }
    }

    /// The source offset of the byte at `offset` of the joined text.
    fn source(&self, offset: usize) -> usize {
        match self.joints.partition_point(|(text, _)| *text <= offset) {
            0 => self.first + offset,
            n => {
                let (text, source) = self.joints[n - 1];
                source + (offset - text)
            }
        }
    }

    /// The source span of `start..end` of the joined text. A span that crosses a joint covers what
    /// stands between.
    pub(crate) fn span(&self, start: usize, end: usize) -> Span {
        // The end belongs to the last byte, not to the line that may start behind it.
        if end > start {
            Span::new(self.source(start), self.source(end - 1) + 1)
        } else {
            let at = match start {
                0 => self.source(0),
                _ => self.source(start - 1) + 1,
            };
            Span::new(at, at)
        }
    }
}

/// A line of the source.
#[derive(Clone, Copy)]
struct Line<'a> {
    /// Without line ending.
    text: &'a str,
    start: usize,
    /// Behind the line ending.
    next: usize,
}

impl<'a> Lexer<'a> {
    /// Starts at the byte `at`, which is behind `line` whole lines.
    pub(crate) fn new(source: &'a str, at: usize, line: u32, escape: u8) -> Self {
        Self { source, at, line, escape }
    }

    fn peek(&self) -> Option<Line<'a>> {
        let rest = self.source.get(self.at..)?;
        if rest.is_empty() {
            return None;
        }
        let length = rest.bytes().position(|b| b == b'\n').map_or(rest.len(), |n| n + 1);
        let text = rest[..length].trim_end_matches(['\r', '\n']);
        Some(Line { text, start: self.at, next: self.at + length })
    }

    fn take(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Option<Line<'a>> {
        let line = self.peek()?;
        if line.next - line.start > LINE_LIMIT {
            let message = format!("dockerfile line greater than max allowed size of {LINE_LIMIT}");
            let span = Span::new(line.start, line.start + line.text.len());
            diagnostics.push(Diagnostic::error(message, span));
        }
        self.at = line.next;
        self.line += 1;
        Some(line)
    }

    /// The next instruction; lines that are too long are reported on the way.
    pub(crate) fn next(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Option<Logical<'a>> {
        let mut comments = Vec::new();
        loop {
            let line = self.take(diagnostics)?;
            let text = line.text.trim_start();
            if let Some(comment) = text.strip_prefix('#') {
                match comment.trim() {
                    "" => comments.clear(),
                    comment => comments.push(comment),
                }
            } else if text.is_empty() {
                comments.clear();
            } else {
                return Some(self.join(line, text, comments, diagnostics));
            }
        }
    }

    fn join(
        &mut self,
        line: Line<'a>,
        text: &'a str,
        comments: Vec<&'a str>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Logical<'a> {
        let start = line.start + (line.text.len() - text.len());
        let first_line = self.line;
        let mut map = OffsetMap::new(start);
        let mut end = line.start + line.text.len();
        let mut empty_line = None;
        let (text, mut continued) = self.cut_continuation(text);
        let mut text = Cow::Borrowed(text);
        while continued {
            let Some(line) = self.take(diagnostics) else { break };
            let trimmed = line.text.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            end = line.start + line.text.len();
            if trimmed.is_empty() {
                empty_line.get_or_insert(Span::new(line.start, end));
                continue;
            }
            let part;
            (part, continued) = self.cut_continuation(line.text);
            map.joints.push((text.len(), line.start));
            text.to_mut().push_str(part);
        }
        let lines = Lines { first: first_line, last: self.line };
        Logical { text, map, span: Span::new(start, end), lines, comments, empty_line }
    }

    /// `line` without a trailing escape character, and whether it had one. A doubled escape
    /// character does not continue the line.
    fn cut_continuation(&self, line: &'a str) -> (&'a str, bool) {
        let trimmed = line.trim_end_matches([' ', '\t']).as_bytes();
        match trimmed {
            [before @ .., last] if *last == self.escape && before.last() != Some(&self.escape) => {
                (&line[..before.len()], true)
            }
            _ => (line, false),
        }
    }

    /// Takes lines up to one that is exactly `name`, leading tabs aside if `strip_tabs`. `None`
    /// if there is no such line: then nothing is left.
    pub(crate) fn heredoc_body(
        &mut self,
        name: &str,
        strip_tabs: bool,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Body<'a>> {
        let start = self.at;
        while let Some(line) = self.take(diagnostics) {
            let text = if strip_tabs { line.text.trim_start_matches('\t') } else { line.text };
            if text == name {
                return Some(Body {
                    content: &self.source[start..line.start],
                    span: Span::new(start, line.start),
                    end: line.start + line.text.len(),
                    last_line: self.line,
                });
            }
        }
        None
    }

    /// What has not been read yet.
    pub(crate) fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }
}
