//! The walk over a word, character by character.

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
    depth: usize,
}

/// Collects words out of what is read.
#[derive(Default)]
struct Words {
    words: Vec<String>,
    word: String,
}

impl Words {
    /// Text whose blanks separate words.
    fn split(&mut self, text: &str) {
        text.chars().for_each(|c| self.push(c));
    }

    fn push(&mut self, c: char) {
        if !c.is_whitespace() {
            self.word.push(c);
        } else if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
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
        Self { rest: word, escape, mode, lookup, unset: Vec::new(), raw_escapes: false, depth: 0 }
    }

    /// The expanded text, whole and as words.
    pub(super) fn run(&mut self) -> Result<(String, Vec<String>), ExpandError> {
        self.until(None, false)
    }

    pub(super) fn into_unset(self) -> Vec<String> {
        self.unset
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
    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
    ) -> Result<(String, Vec<String>), ExpandError> {
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let result = self.until_inner(stop);
        self.raw_escapes = outer;
        result
    }

    fn until_inner(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), ExpandError> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(c) = self.peek() {
            match c {
                c if Some(c) == stop => {
                    self.next();
                    return Ok((text, words.finish()));
                }
                '$' => {
                    let value = self.dollar()?;
                    words.split(&value);
                    text.push_str(&value);
                }
                '\'' | '"' if self.mode == Mode::Words => {
                    let quoted = match c {
                        '"' => self.double_quote()?,
                        _ => self.single_quote()?,
                    };
                    words.word.push_str(&quoted);
                    text.push_str(&quoted);
                }
                c if c == self.escape => {
                    self.next();
                    let escaped = self.next();
                    for c in self.raw_escapes.then_some(c).into_iter().chain(escaped) {
                        words.word.push(c);
                        text.push(c);
                    }
                }
                c => {
                    self.next();
                    words.push(c);
                    text.push(c);
                }
            }
        }
        match stop {
            Some(stop) => Err(syntax(format!(
                "unexpected end of statement while looking for matching {stop}"
            ))),
            None => Ok((text, words.finish())),
        }
    }

    fn single_quote(&mut self) -> Result<String, ExpandError> {
        let inside = &self.rest[1..];
        let end = inside.find('\'').ok_or_else(|| {
            self.rest = "";
            ExpandError::Quote { quote: "single-quote" }
        })?;
        self.rest = &inside[end + 1..];
        Ok(inside[..end].to_owned())
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
            return Ok(match name.as_str() {
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
            '}' => return Ok(self.value(&name).unwrap_or_default()),
            '/' => return self.replace(&name),
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
        let value = self.value(&name);
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
                Err(ExpandError::Required { name, message })
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
        match self.until(Some(stop), raw) {
            Ok((text, _)) => Ok(text),
            Err(_) if self.rest.is_empty() => Err(syntax(missing)),
            Err(error) => Err(error),
        }
    }

    /// A name: letters, digits and `_`; digits alone; or one special character.
    fn name(&mut self) -> String {
        let rest = self.rest;
        let first = self.peek();
        let length = match first {
            Some(c) if c.is_numeric() => rest.find(|c: char| !c.is_numeric()).unwrap_or(rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()),
        };
        self.rest = &rest[length..];
        rest[..length].to_owned()
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        if value.is_none() && !self.unset.iter().any(|unset| unset == name) {
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
    let compiled = compile(pattern)?;
    match operator {
        '#' => compiled.trim_prefix(value, longest),
        _ => compiled.trim_suffix(value, longest),
    }
    .map_err(|problem| bad(pattern, problem))
}
