//! The flags of an instruction, held to those that it takes.

use crate::diagnostic::Diagnostic;
use crate::grammar::RawFlag;
use crate::lexer::OffsetMap;
use crate::span::{Span, Spanned};
use crate::suggest;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, `=true` or `=false`.
    Bool,
    /// One text.
    Text,
    /// A text, any number of times.
    Texts,
}

/// Flags that were checked.
#[derive(Default)]
pub(crate) struct Flags {
    found: Vec<(&'static str, Value)>,
}

enum Value {
    Bool(bool),
    Text(Spanned<String>),
}

impl Flags {
    /// Checks `flags` against what is accepted. `offset` is where the flags' text starts in the
    /// text that `map` is for.
    pub(crate) fn check(
        flags: Vec<RawFlag>,
        accepted: &[(&'static str, Takes)],
        map: &OffsetMap,
        offset: usize,
    ) -> Result<Flags, Diagnostic> {
        let mut found: Vec<(&'static str, Value)> = Vec::new();
        for RawFlag { range, name, value } in flags {
            let span = map.span(offset + range.start, offset + range.end);
            let Some(&(known, takes)) = accepted.iter().find(|(known, _)| name[2..] == **known)
            else {
                return Err(unknown(&name, accepted, span));
            };
            if takes != Takes::Texts && found.iter().any(|(used, _)| *used == known) {
                return Err(Diagnostic::error(format!("duplicate flag specified: {name}"), span));
            }
            let missing = || Diagnostic::error(format!("missing a value on flag: {name}"), span);
            let value = match (takes, value) {
                (Takes::Bool, None) => Value::Bool(true),
                (Takes::Bool, Some((text, _))) => match text.to_ascii_lowercase().as_str() {
                    "true" => Value::Bool(true),
                    "false" => Value::Bool(false),
                    "" => return Err(missing()),
                    _ => {
                        let message =
                            format!("expecting boolean value for flag {name}, not: {text}");
                        return Err(Diagnostic::error(message, span));
                    }
                },
                (_, None) => return Err(missing()),
                (_, Some((text, range))) => {
                    let span = map.span(offset + range.start, offset + range.end);
                    Value::Text(Spanned::new(text, span))
                }
            };
            found.push((known, value));
        }
        Ok(Flags { found })
    }

    /// Whether a bool flag was given, and as what.
    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        self.found.iter().find_map(|(found, value)| match value {
            Value::Bool(value) if *found == name => Some(*value),
            _ => None,
        })
    }

    /// The text of a flag; given but empty is the same as not given.
    pub(crate) fn text(&mut self, name: &str) -> Option<Spanned<String>> {
        self.given(name).filter(|text| !text.value.is_empty())
    }

    /// The text of a flag if it was given, empty or not.
    pub(crate) fn given(&mut self, name: &str) -> Option<Spanned<String>> {
        self.texts(name).into_iter().next()
    }

    /// All texts of a flag, in order.
    pub(crate) fn texts(&mut self, name: &str) -> Vec<Spanned<String>> {
        let (mine, others) = std::mem::take(&mut self.found)
            .into_iter()
            .partition(|(found, value)| *found == name && matches!(value, Value::Text(_)));
        self.found = others;
        let texts = Vec::into_iter(mine).filter_map(|(_, value)| match value {
            Value::Text(text) => Some(text),
            Value::Bool(_) => None,
        });
        texts.collect()
    }
}

fn unknown(name: &str, accepted: &[(&'static str, Takes)], span: Span) -> Diagnostic {
    let error = Diagnostic::error(format!("unknown flag: {name}"), span);
    let names: Vec<&str> = accepted.iter().map(|(name, _)| *name).collect();
    match suggest::nearest(&name[2..], &names) {
        Some(near) => error.with_hint(format!("did you mean --{near}?")),
        None if names.is_empty() => error.with_hint("this instruction takes no flags"),
        None => error,
    }
}
