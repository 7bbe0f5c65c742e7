//! The walk over a word, character by character.

use std::collections::HashSet;

use super::ExpandError;
use super::pattern::Pattern;

/// `${…}` within `${…}` deeper than this is an error rather than a stack overflow.
const NESTING: usize = 100;

/// What quotes are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// They quote.
    Words,
    /// They are ordinary characters.
    Heredoc,
}

pub(super) struct Scanner<'a> {
    rest: &'a str,
    escape: char,
    mode: Mode,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    unset: Vec<String>,
    /// Whether escape characters stay in the result: in patterns, which have escapes themselves.
    raw_escapes: bool,
    /// A modifier with a word of its own has been read, see [`Output::forgotten`].
    forgets: bool,
    depth: usize,
}

/// What has been read: the text, and where its words end.
///
/// Words are runs of the text without unquoted blanks, so it is enough to note which blanks those
/// are.
#[derive(Default)]
struct Output {
    text: String,
    /// Byte offsets of the blanks that separate words.
    blanks: Vec<usize>,
    /// Where each `${name<modifier>word}` begins.
    ///
    /// Reading its word makes BuildKit forget what it has of the word around it: `80${x:-90}`
    /// is `90` where words are split (EXPOSE), and `8090` everywhere else.
    forgotten: Vec<usize>,
}

impl Output {
    /// Text whose blanks separate words.
    fn push_open(&mut self, text: &str) {
        let start = self.text.len();
        let blanks = text.char_indices().filter(|(_, c)| c.is_whitespace());
        self.blanks.extend(blanks.map(|(at, _)| start + at));
        self.text.push_str(text);
    }

    /// Text that belongs to one word, whatever is in it.
    fn push_quoted(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut start = 0;
        for end in self.blanks.iter().copied().chain([self.text.len()]) {
            let forgotten = self.forgotten.iter().rfind(|at| (start..=end).contains(*at));
            start = forgotten.copied().unwrap_or(start);
            if end > start {
                words.push(self.text[start..end].to_owned());
            }
            start = end + self.text[end..].chars().next().map_or(0, char::len_utf8);
        }
        words
    }
}

fn syntax(message: impl Into<String>) -> ExpandError {
    ExpandError::Syntax { message: message.into() }
}

impl<'a> Scanner<'a> {
    pub(super) fn new(
        word: &'a str,
        escape: char,
        mode: Mode,
        lookup: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        Self {
            rest: word,
            escape,
            mode,
            lookup,
            unset: Vec::new(),
            raw_escapes: false,
            forgets: false,
            depth: 0,
        }
    }

    /// The expanded text.
    pub(super) fn text(&mut self) -> Result<String, ExpandError> {
        Ok(self.until(None, false)?.text)
    }

    /// The words of the expanded text.
    pub(super) fn words(&mut self) -> Result<Vec<String>, ExpandError> {
        Ok(self.until(None, false)?.words())
    }

    /// The names that were not set, in order, each once.
    pub(super) fn into_unset(self) -> Vec<String> {
        let mut seen = HashSet::new();
        let mut unset = self.unset;
        unset.retain(|name| seen.insert(name.clone()));
        unset
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Reads up to and with `stop`; to the end without one.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<Output, ExpandError> {
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let result = self.until_inner(stop);
        self.raw_escapes = outer;
        result
    }

    fn until_inner(&mut self, stop: Option<char>) -> Result<Output, ExpandError> {
        let mut out = Output::default();
        while let Some(c) = self.peek() {
            match c {
                c if Some(c) == stop => {
                    self.next();
                    return Ok(out);
                }
                '$' => {
                    let value = self.dollar()?;
                    self.forget(&mut out);
                    out.push_open(&value);
                }
                '\'' if self.mode == Mode::Words => out.push_quoted(self.single_quote()?),
                '"' if self.mode == Mode::Words => {
                    let quoted = self.double_quote()?;
                    self.forget(&mut out);
                    out.push_quoted(&quoted);
                }
                c if c == self.escape => {
                    let escape = &self.rest[..c.len_utf8()];
                    self.next();
                    if self.raw_escapes {
                        out.push_quoted(escape);
                    }
                    let escaped = self.rest;
                    self.next();
                    out.push_quoted(&escaped[..escaped.len() - self.rest.len()]);
                }
                c => {
                    // Up to the next character that may mean something.
                    let special = ['$', '\'', '"', self.escape, stop.unwrap_or('$')];
                    let behind = &self.rest[c.len_utf8()..];
                    let end = behind.find(special).unwrap_or(behind.len()) + c.len_utf8();
                    out.push_open(&self.rest[..end]);
                    self.rest = &self.rest[end..];
                }
            }
        }
        match stop {
            Some(stop) => Err(syntax(format!(
                "unexpected end of statement while looking for matching {stop}"
            ))),
            None => Ok(out),
        }
    }

    fn forget(&mut self, out: &mut Output) {
        if std::mem::take(&mut self.forgets) {
            out.forgotten.push(out.text.len());
        }
    }

    fn single_quote(&mut self) -> Result<&'a str, ExpandError> {
        let inside = &self.rest[1..];
        let end = inside.find('\'').ok_or_else(|| {
            self.rest = "";
            ExpandError::Quote { quote: "single-quote" }
        })?;
        self.rest = &inside[end + 1..];
        Ok(&inside[..end])
    }

    fn double_quote(&mut self) -> Result<String, ExpandError> {
        self.next();
        let mut text = String::new();
        loop {
            match self.peek() {
                None => return Err(ExpandError::Quote { quote: "double-quote" }),
                Some('"') => {
                    self.next();
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) if c == self.escape => {
                    self.next();
                    if self.raw_escapes {
                        text.push(c);
                    }
                    match self.peek() {
                        Some(escaped) if matches!(escaped, '"' | '$') || escaped == c => {
                            self.next();
                            text.push(escaped);
                        }
                        // Before any other character the escape character stands for itself.
                        Some(_) => text.push(c),
                        None => {}
                    }
                }
                Some(c) => {
                    self.next();
                    text.push(c);
                }
            }
        }
    }

    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(match name {
                "" => "$".to_owned(),
                name => self.value(name).unwrap_or_default(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(syntax("syntax error: missing '}'")),
            Some('{' | '}' | ':') => return Err(syntax("syntax error: bad substitution")),
            Some(_) => {}
        }
        self.depth += 1;
        if self.depth > NESTING {
            return Err(syntax("substitution nested too deeply"));
        }
        let value = self.braces();
        self.depth -= 1;
        value
    }

    /// Behind `${`: a name, and what is done with it.
    fn braces(&mut self) -> Result<String, ExpandError> {
        let name = self.name();
        let mut modifier = String::new();
        let Some(mut operator) = self.next() else {
            return Err(syntax("syntax error: missing '}'"));
        };
        modifier.push(operator);
        match operator {
            '}' => return Ok(self.value(name).unwrap_or_default()),
            '/' => return self.replace(name),
            ':' => match self.next() {
                Some(next) => {
                    operator = next;
                    modifier.push(next);
                }
                None => return Err(syntax("syntax error: missing '}'")),
            },
            '+' | '-' | '?' | '#' | '%' => {}
            _ => return Err(unsupported(&modifier)),
        }
        let or_empty = modifier.len() > operator.len_utf8();
        let is_pattern = matches!(operator, '#' | '%');
        if or_empty && is_pattern {
            return Err(unsupported(&modifier));
        }
        let word = self.inner('}', is_pattern, "syntax error: missing '}'")?;
        if !matches!(operator, '+' | '-' | '?' | '#' | '%') {
            return Err(unsupported(&modifier));
        }
        let value = self.value(name);
        let usable = value.as_ref().is_some_and(|value| !(or_empty && value.is_empty()));
        match operator {
            '-' if !usable => Ok(word),
            '+' if usable => Ok(word),
            '+' => Ok(String::new()),
            '?' if !usable => {
                let message = match (word.is_empty(), &value) {
                    (false, _) => word,
                    (true, Some(_)) => "is not allowed to be empty".to_owned(),
                    (true, None) => "is not allowed to be unset".to_owned(),
                };
                Err(ExpandError::Required { name: name.to_owned(), message })
            }
            '#' | '%' => trim(&value.unwrap_or_default(), operator, &word),
            _ => Ok(value.unwrap_or_default()),
        }
    }

    /// `${name/pattern/replacement}`, behind the first slash.
    fn replace(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.inner('/', true, "syntax error: missing '/' in ${}")?;
        let replacement = self.inner('}', true, "syntax error: missing '}'")?;
        let value = self.value(name).unwrap_or_default();
        compile(&pattern)?
            .replace(&value, &replacement, all)
            .map_err(|problem| bad(&pattern, problem))
    }

    /// A word within braces. An error at the end of the text is a brace that is missing, whatever
    /// else it may look like.
    fn inner(&mut self, stop: char, raw: bool, missing: &str) -> Result<String, ExpandError> {
        let inner = self.until(Some(stop), raw);
        self.forgets = true;
        match inner {
            Ok(out) => Ok(out.text),
            Err(_) if self.rest.is_empty() => Err(syntax(missing)),
            Err(error) => Err(error),
        }
    }

    /// A name: letters, digits and `_`; digits alone; or one special character.
    fn name(&mut self) -> &'a str {
        let rest = self.rest;
        let first = self.peek();
        let length = match first {
            Some(c) if c.is_numeric() => rest.find(|c: char| !c.is_numeric()).unwrap_or(rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()),
        };
        self.rest = &rest[length..];
        &rest[..length]
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        if value.is_none() {
            self.unset.push(name.to_owned());
        }
        value
    }
}

fn unsupported(modifier: &str) -> ExpandError {
    syntax(format!("unsupported modifier ({modifier}) in substitution"))
}

fn bad(pattern: &str, problem: String) -> ExpandError {
    syntax(format!("invalid pattern ({pattern}) in substitution: {problem}"))
}

fn compile(pattern: &str) -> Result<Pattern, ExpandError> {
    Pattern::new(pattern).map_err(|problem| bad(pattern, problem))
}

/// `#`, `##`, `%` and `%%`: a doubled operator is the longest match.
fn trim(value: &str, operator: char, word: &str) -> Result<String, ExpandError> {
    let (pattern, longest) = match word.strip_prefix(operator) {
        Some(pattern) => (pattern, true),
        None => (word, false),
    };
    match operator {
        '#' => compile(pattern)?.trim_prefix(value, longest),
        _ => Pattern::trim_suffix(pattern, value, longest),
    }
    .map_err(|problem| bad(pattern, problem))
}
