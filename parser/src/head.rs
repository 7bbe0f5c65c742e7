//! What all instructions begin with: keyword, flags, the text behind them.

use std::ops::Range;

use crate::ast::CommandForm;
use crate::diagnostic::Diagnostic;
use crate::flags::{Flags, Takes};
use crate::grammar::{self, Json, RawFlag, is_blank};
use crate::lexer::OffsetMap;
use crate::span::{Span, Spanned};

/// The joined text of one logical instruction, with the way back to the source.
#[derive(Clone, Copy)]
pub(crate) struct Joined<'a> {
    pub(crate) text: &'a str,
    pub(crate) map: &'a OffsetMap,
    pub(crate) escape: char,
}

impl Joined<'_> {
    pub(crate) fn span(&self, range: &Range<usize>) -> Span {
        self.map.span(range.start, range.end)
    }

    pub(crate) fn spanned(&self, range: Range<usize>) -> Spanned<String> {
        Spanned::new(self.text[range.clone()].to_owned(), self.span(&range))
    }
}

/// One instruction, taken apart as far as all are alike. Ranges are of the joined text.
pub(crate) struct Head<'a> {
    pub(crate) joined: Joined<'a>,
    /// The keyword as written.
    pub(crate) keyword: Range<usize>,
    /// What stands behind the flags, without blanks around.
    pub(crate) args: Range<usize>,
    flags: Vec<RawFlag>,
    flags_at: usize,
}

/// Words with their places in the joined text.
pub(crate) struct Words {
    pub(crate) words: Vec<(String, Range<usize>)>,
    /// Whether they came from a JSON array.
    pub(crate) json: bool,
}

impl<'a> Head<'a> {
    /// Reads the instruction that starts at byte `start` of the joined text.
    pub(crate) fn read(joined: Joined<'a>, start: usize) -> Head<'a> {
        let whole = trim(joined.text, start..joined.text.len());
        let text = &joined.text[whole.clone()];
        let keyword = text.find(is_blank).unwrap_or(text.len());
        let flags_at = whole.start + keyword;
        let (flags, rest) = grammar::flags(&joined.text[flags_at..whole.end], joined.escape);
        let args = trim(joined.text, flags_at + rest..whole.end);
        Head { joined, keyword: whole.start..flags_at, args, flags, flags_at }
    }

    pub(crate) fn keyword(&self) -> &'a str {
        &self.joined.text[self.keyword.clone()]
    }

    /// The text behind the flags.
    pub(crate) fn args(&self) -> &'a str {
        &self.joined.text[self.args.clone()]
    }

    /// Keyword to end of arguments, in the source.
    pub(crate) fn span(&self) -> Span {
        self.joined.span(&(self.keyword.start..self.args.end.max(self.keyword.end)))
    }

    /// An error about the whole instruction.
    pub(crate) fn error(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(message, self.span())
    }

    /// The flags, held to `accepted`.
    pub(crate) fn flags(self, accepted: &[(&'static str, Takes)]) -> Result<Flags, Diagnostic> {
        Flags::check(self.flags, accepted, self.joined.map, self.flags_at)
    }

    /// Fails if there is any flag.
    pub(crate) fn no_flags(self) -> Result<(), Diagnostic> {
        self.flags(&[]).map(|_| ())
    }

    /// `text[range]` as a command: a JSON array of strings, or else a text for the shell.
    pub(crate) fn command_in(&self, range: Range<usize>) -> Result<CommandForm, Diagnostic> {
        let text = &self.joined.text[range.clone()];
        match grammar::json_array(text) {
            Json::Strings(words) => {
                Ok(CommandForm::Exec(words.into_iter().map(|(word, _)| word).collect()))
            }
            Json::No => Ok(CommandForm::Shell(text.to_owned())),
            Json::NotStrings => Err(self.not_strings(&range)),
        }
    }

    /// The arguments as a command.
    pub(crate) fn command(&self) -> Result<CommandForm, Diagnostic> {
        self.command_in(self.args.clone())
    }

    /// The arguments as words: of a JSON array, or between blanks.
    pub(crate) fn words_or_json(&self) -> Result<Words, Diagnostic> {
        match grammar::json_array(self.args()) {
            Json::Strings(words) => {
                let at = self.args.start;
                let words = words.into_iter().map(|(word, r)| (word, at + r.start..at + r.end));
                Ok(Words { words: words.collect(), json: true })
            }
            Json::NotStrings => Err(self.not_strings(&self.args)),
            Json::No => Ok(Words { words: self.plain_words(), json: false }),
        }
    }

    /// The arguments between blanks.
    pub(crate) fn plain_words(&self) -> Vec<(String, Range<usize>)> {
        let at = self.args.start;
        let words = grammar::plain_words(self.args()).into_iter();
        words.map(|r| (self.args()[r.clone()].to_owned(), at + r.start..at + r.end)).collect()
    }

    /// The arguments between unquoted blanks, quotes left in, as ranges of the joined text.
    pub(crate) fn quoted_words(&self) -> Vec<Range<usize>> {
        let at = self.args.start;
        let words = grammar::words(self.args(), self.joined.escape).into_iter();
        words.map(|r| at + r.start..at + r.end).collect()
    }

    fn not_strings(&self, range: &Range<usize>) -> Diagnostic {
        let message = "when using JSON array syntax, arrays must be comprised of strings only";
        Diagnostic::error(message, self.joined.span(range))
    }
}

/// `range` of `text` without blanks around.
pub(crate) fn trim(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let trimmed = part.trim_start();
    let start = range.start + (part.len() - trimmed.len());
    start..start + trimmed.trim_end().len()
}

/// `text` as Go's `%q` prints it, as far as messages need it.
pub(crate) fn go_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
