//! Where something stands in the source: byte ranges, and the lines and columns people count.

use std::fmt;

/// A range of bytes of the source, end exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
}

impl Span {
    /// A span from `start` to `end`, in bytes.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// Whether the span covers no byte.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// The smallest span that covers both.
    pub fn to(self, other: Span) -> Span {
        Span { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// A value and the place it was written at.
#[derive(Clone, Debug, Default)]
pub struct Spanned<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// `value`, written at `span`.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

impl Spanned<String> {
    /// The text alone.
    pub fn as_str(&self) -> &str {
        &self.value
    }
}

/// Two spanned values are equal when their values are; where they stand is no part of what they
/// say. This is what lets a printed and re-parsed file compare equal to the original.
impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

impl<T: fmt::Display> fmt::Display for Spanned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// A range of source lines, counted from 1, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lines {
    /// The first line.
    pub first: u32,
    /// The last line; equal to `first` for one line.
    pub last: u32,
}

/// A line and a column, both counted from 1; the column counts characters, not bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineColumn {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for LineColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The starts of all lines of one source, for turning offsets into lines.
#[derive(Clone, Debug, Default)]
pub struct LineIndex {
    starts: Vec<usize>,
}

impl LineIndex {
    /// Reads the line starts of `source` once.
    pub fn new(source: &[u8]) -> Self {
        let mut starts = vec![0];
        starts
            .extend(source.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1));
        Self { starts }
    }

    /// The line, from 1, that the byte at `offset` is on.
    pub fn line(&self, offset: usize) -> u32 {
        self.starts.partition_point(|start| *start <= offset).max(1) as u32
    }

    /// The lines that `span` touches.
    pub fn lines(&self, span: Span) -> Lines {
        let last = if span.is_empty() { span.start } else { span.end - 1 };
        Lines { first: self.line(span.start), last: self.line(last) }
    }

    /// Line and column of the byte at `offset` of `source`, the text this index was made from.
    pub fn position(&self, source: &[u8], offset: usize) -> LineColumn {
        let line = self.line(offset);
        let start = self.starts.get(line as usize - 1).copied().unwrap_or(0);
        let before = source.get(start..offset.min(source.len())).unwrap_or_default();
        // Continuation bytes of UTF-8 belong to the character before them.
        let column = 1 + before.iter().filter(|b| **b & 0xC0 != 0x80).count() as u32;
        LineColumn { line, column }
    }
}
