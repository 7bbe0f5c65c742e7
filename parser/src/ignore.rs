//! `.dockerignore` text → ordered pattern lines.
//!
//! Only the text is read here: comments, blanks, `!`, and the cleaning of paths. Which files a
//! pattern matches is a matter of whoever walks them.

use crate::diagnostic::Diagnostic;
use crate::span::Span;

/// One pattern line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoreLine {
    /// The pattern without `!`, cleaned as a path, without a leading `/`.
    pub pattern: String,
    /// Whether it started with `!`: what it matches is taken back in.
    pub negated: bool,
    /// The line, from 1.
    pub line: u32,
    /// The line as written, without blanks around.
    pub text: String,
}

impl IgnoreLine {
    /// The line as pattern matchers take it: the pattern with `!` before it if negated.
    pub fn rule(&self) -> String {
        let negation = if self.negated { "!" } else { "" };
        format!("{negation}{}", self.pattern)
    }
}

/// Reads a `.dockerignore`. Lines that are wrong are reported and left out; spans are offsets into
/// `source`.
pub fn parse_ignore(source: &[u8]) -> (Vec<IgnoreLine>, Vec<Diagnostic>) {
    let mut lines = Vec::new();
    let mut diagnostics = Vec::new();
    let mut start = if source.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
    for (index, line) in source[start..].split_inclusive(|b| *b == b'\n').enumerate() {
        let span = Span::new(start, start + line.trim_ascii_end().len());
        start += line.len();
        if line.starts_with(b"#") {
            continue;
        }
        let Ok(text) = std::str::from_utf8(line) else {
            diagnostics.push(Diagnostic::error("invalid UTF-8 in a pattern", span));
            continue;
        };
        let text = text.trim();
        let (negated, pattern) = match text.strip_prefix('!') {
            Some(pattern) => (true, pattern.trim()),
            None => (false, text),
        };
        if pattern.is_empty() {
            if negated {
                let message = "illegal exclusion pattern: \"!\"";
                diagnostics.push(Diagnostic::error(message, span));
            }
            continue;
        }
        let cleaned = clean(pattern);
        let pattern = match cleaned.strip_prefix('/') {
            Some(rest) if !rest.is_empty() => rest.to_owned(),
            _ => cleaned,
        };
        if pattern == "." {
            // Docker ignores it: excluding everything was never what it meant.
            continue;
        }
        if !is_pattern(&pattern) {
            let message = format!("syntax error in pattern: {text}");
            diagnostics.push(Diagnostic::error(message, span));
            continue;
        }
        let line = index as u32 + 1;
        lines.push(IgnoreLine { pattern, negated, line, text: text.to_owned() });
    }
    (lines, diagnostics)
}

/// The shortest path of the same meaning, by words alone, as Go's `filepath.Clean` finds it.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}

/// Whether Go's `filepath.Match` would take the pattern: classes closed and not empty, nothing
/// missing behind a `\` or a `-`.
fn is_pattern(pattern: &str) -> bool {
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.next().is_none() => return false,
            '[' => {
                chars.next_if_eq(&'^');
                let mut empty = true;
                loop {
                    if !empty && chars.next_if_eq(&']').is_some() {
                        break;
                    }
                    if !class_char(&mut chars) {
                        return false;
                    }
                    if chars.next_if_eq(&'-').is_some() && !class_char(&mut chars) {
                        return false;
                    }
                    empty = false;
                }
            }
            _ => {}
        }
    }
    true
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> bool {
    match chars.next() {
        None | Some('-' | ']') => false,
        Some('\\') => chars.next().is_some(),
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cleaned_and_kept_in_order() {
        let source = "\u{feff}# comment\n\n  *.log  \r\n # no comment\n!keep.log\n! /a/./b/../c/ \n\
                      /rooted\n./x\n.\n../up\n/\n**/*.o\nlast";
        let (lines, diagnostics) = parse_ignore(source.as_bytes());
        assert_eq!(diagnostics, []);
        let found: Vec<_> = lines.iter().map(|l| (l.line, l.rule())).collect();
        let expected = [
            (3, "*.log"),
            (4, "# no comment"),
            (5, "!keep.log"),
            (6, "!a/c"),
            (7, "rooted"),
            (8, "x"),
            (10, "../up"),
            (11, "/"),
            (12, "**/*.o"),
            (13, "last"),
        ];
        assert_eq!(found, expected.map(|(line, rule)| (line, rule.to_owned())));
        assert_eq!(lines[3].text, "! /a/./b/../c/");
    }

    #[test]
    fn a_wrong_line_costs_only_itself() {
        let (lines, diagnostics) = parse_ignore(b"a\n!\n[\n[]\n[a-]\nx\\\n[^]\n\xFF\n[a-c]\\[z");
        assert_eq!(lines.iter().map(|l| l.line).collect::<Vec<_>>(), [1, 9]);
        let messages: Vec<_> = diagnostics.iter().map(|d| d.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "illegal exclusion pattern: \"!\"",
                "syntax error in pattern: [",
                "syntax error in pattern: []",
                "syntax error in pattern: [a-]",
                "syntax error in pattern: x\\",
                "syntax error in pattern: [^]",
                "invalid UTF-8 in a pattern",
            ]
        );
        assert_eq!((diagnostics[0].span.start, diagnostics[0].span.end), (2, 3));
    }
}
