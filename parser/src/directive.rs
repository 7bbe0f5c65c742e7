//! Parser directives: `# syntax=`, `# escape=` and `# check=` at the top of a file.
//!
//! They end at the first line that is not one, whatever it is. `syntax` alone is also found in
//! files that are no Dockerfiles: behind a `#!` line, behind `//`, or as a JSON object, because a
//! frontend chosen by it may read any language.

use crate::ast::Directives;
use crate::diagnostic::Diagnostic;
use crate::grammar;
use crate::lint::Checks;
use crate::span::{Span, Spanned};

/// One `key=value`.
struct Directive<'a> {
    key: String,
    value: &'a str,
    span: Span,
    /// Where the next line starts.
    next: usize,
}

/// The directives and where what follows them starts.
pub(crate) struct Top {
    pub(crate) directives: Directives,
    /// The byte behind the directive lines.
    pub(crate) end: usize,
    /// How many lines they are.
    pub(crate) lines: u32,
}

/// Reads the directives of `source`, which starts at byte `start` (behind a byte order mark).
/// Checks that the caller has chosen replace the file's own, which then are not even read.
pub(crate) fn read(
    source: &str,
    start: usize,
    check: Option<&Checks>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Top {
    let mut directives = Directives::default();
    let mut seen: Vec<String> = Vec::new();
    let found = scan(source, start, "#");
    let lines = found.len() as u32;
    let end = found.last().map_or(start, |last| last.next);
    for directive in found {
        let Directive { key, value, span, .. } = directive;
        if seen.contains(&key) {
            let message = format!("only one {key} parser directive can be used");
            diagnostics.push(Diagnostic::error(message, span));
            continue;
        }
        match key.as_str() {
            "syntax" => directives.syntax = Some(Spanned::new(value.to_owned(), span)),
            "escape" => match value {
                "\\" => directives.escape = '\\',
                "`" => directives.escape = '`',
                _ => {
                    let message = format!("invalid escape token '{value}' does not match ` or \\");
                    diagnostics.push(Diagnostic::error(message, span));
                }
            },
            _ if check.is_some() => {}
            _ => match Checks::parse(value) {
                Ok(check) => directives.check = check,
                Err(message) => diagnostics.push(Diagnostic::error(message, span)),
            },
        }
        seen.push(key);
    }
    read_elsewhere(source, start, &seen, &mut directives);
    if let Some(check) = check {
        directives.check = check.clone();
    }
    Top { directives, end, lines }
}

/// Finds what only BuildKit's search for directives finds: behind `#!`, and `syntax` in the other
/// two spellings.
fn read_elsewhere(source: &str, start: usize, seen: &[String], directives: &mut Directives) {
    let text = &source[start..];
    let start = match text.strip_prefix("#!") {
        Some(_) => start + text.find('\n').map_or(text.len(), |at| at + 1),
        None => start,
    };
    if !seen.iter().any(|key| key == "check") {
        let found = scan(source, start, "#").into_iter().find(|d| d.key == "check");
        if let Some(Ok(check)) = found.map(|directive| Checks::parse(directive.value)) {
            directives.check = check;
        }
    }
    if directives.syntax.is_none() {
        directives.syntax = ["#", "//"]
            .iter()
            .flat_map(|comment| scan(source, start, comment))
            .find(|directive| directive.key == "syntax")
            .map(|directive| Spanned::new(directive.value.to_owned(), directive.span))
            .or_else(|| read_json(source, start));
    }
}

/// `{"syntax": "…"}` at the top.
fn read_json(source: &str, start: usize) -> Option<Spanned<String>> {
    let text = &source[start..];
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let syntax = grammar::json_object_text(text, "syntax")?;
    let syntax = syntax.trim().to_owned();
    if syntax.is_empty() || syntax.contains(char::is_control) {
        return None;
    }
    let first = start + (text.len() - text.trim_start().len());
    Some(Spanned::new(syntax, Span::new(first, source.trim_end().len().max(first))))
}

/// All directives at the top, duplicates included, up to the first line that is not one.
fn scan<'a>(source: &'a str, start: usize, comment: &str) -> Vec<Directive<'a>> {
    let mut directives = Vec::new();
    let mut at = start;
    for line in source[start..].split_inclusive('\n') {
        let text = line.trim_end_matches(['\r', '\n']);
        let Some((key, value)) = text.strip_prefix(comment).and_then(split) else { break };
        let key = key.to_ascii_lowercase();
        if !matches!(key.as_str(), "syntax" | "escape" | "check") {
            break;
        }
        let span = Span::new(at, at + text.len());
        at += line.len();
        directives.push(Directive { key, value, span, next: at });
    }
    directives
}

/// `key = value`, the key a word of letters and digits.
pub(crate) fn split(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.trim_start().split_once('=')?;
    let (key, value) = (key.trim_end(), value.trim());
    let word = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.chars().all(|c| c.is_ascii_alphanumeric());
    (word && !value.is_empty()).then_some((key, value))
}
