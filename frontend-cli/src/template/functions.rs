//! What a template can do with values: docker's functions, and those of Go's that need no more than
//! these.

use serde_json::Value;

use super::{Seen, TemplateError, is_true};

/// `pad` adds no more than this.
const MAX_PAD: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Json,
    Join,
    Split,
    Lower,
    Upper,
    Title,
    Pad,
    Truncate,
    Print,
    Println,
    Len,
    Index,
    Eq,
    Ne,
    Not,
    And,
    Or,
}

/// Names, with the fewest and the most arguments.
const FUNCTIONS: [(&str, Function, usize, usize); 17] = [
    ("json", Function::Json, 1, 1),
    ("join", Function::Join, 2, 2),
    ("split", Function::Split, 2, 2),
    ("lower", Function::Lower, 1, 1),
    ("upper", Function::Upper, 1, 1),
    ("title", Function::Title, 1, 1),
    ("pad", Function::Pad, 3, 3),
    ("truncate", Function::Truncate, 2, 2),
    ("print", Function::Print, 0, usize::MAX),
    ("println", Function::Println, 0, usize::MAX),
    ("len", Function::Len, 1, 1),
    ("index", Function::Index, 2, usize::MAX),
    ("eq", Function::Eq, 2, usize::MAX),
    ("ne", Function::Ne, 2, 2),
    ("not", Function::Not, 1, 1),
    ("and", Function::And, 1, usize::MAX),
    ("or", Function::Or, 1, usize::MAX),
];

impl Function {
    pub(super) fn find(name: &str) -> Result<Function, TemplateError> {
        if let Some((_, function, ..)) = FUNCTIONS.iter().find(|(known, ..)| *known == name) {
            return Ok(*function);
        }
        let names = FUNCTIONS.iter().map(|(known, ..)| *known);
        let error = TemplateError::new(format!("unknown function `{name}`"));
        Err(match crate::dockerfile::nearest(name, names.clone()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("possible are {}", names.collect::<Vec<_>>().join(", "))),
        })
    }

    fn name(self) -> &'static str {
        FUNCTIONS.iter().find(|(_, function, ..)| *function == self).map_or("", |(name, ..)| name)
    }

    /// Whether so many arguments can be given to it.
    pub(super) fn check_count(self, count: usize) -> Result<(), TemplateError> {
        let bounds = FUNCTIONS.iter().find(|(_, function, ..)| *function == self);
        let (least, most) = bounds.map_or((0, usize::MAX), |(_, _, least, most)| (*least, *most));
        if (least..=most).contains(&count) {
            return Ok(());
        }
        let wanted = match (least, most) {
            (least, usize::MAX) => format!("at least {least}"),
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        let name = self.name();
        Err(TemplateError::new(format!("`{name}` takes {wanted} arguments, not {count}")))
    }

    /// Whether the head of a column is what it is without the function.
    pub(super) fn keeps_heads(self) -> bool {
        matches!(
            self,
            Function::Json
                | Function::Join
                | Function::Split
                | Function::Lower
                | Function::Upper
                | Function::Title
                | Function::Pad
                | Function::Truncate
        )
    }

    pub(super) fn call(self, arguments: &[Seen]) -> Result<Seen, TemplateError> {
        self.check_count(arguments.len())?;
        let text = |at: usize| arguments[at].text();
        let texts = || arguments.iter().map(Seen::text).collect::<Vec<_>>();
        let number = |at: usize| self.number(&arguments[at].value);
        Ok(match self {
            Function::Json => Seen::of(arguments[0].value.to_string()),
            Function::Join => {
                let Value::Array(items) = &arguments[0].value else {
                    return Err(self.wrong("a list", &arguments[0].value));
                };
                let items: Vec<String> = items.iter().map(super::shown).collect();
                Seen::of(items.join(&text(1)))
            }
            Function::Split => {
                let (whole, separator) = (text(0), text(1));
                let parts: Vec<&str> = match separator.as_str() {
                    "" => whole.split("").filter(|part| !part.is_empty()).collect(),
                    separator => whole.split(separator).collect(),
                };
                Seen::of(parts)
            }
            Function::Lower => Seen::of(text(0).to_lowercase()),
            Function::Upper => Seen::of(text(0).to_uppercase()),
            Function::Title => Seen::of(title(&text(0))),
            Function::Pad => {
                let (before, after) = (number(1)?.min(MAX_PAD), number(2)?.min(MAX_PAD));
                Seen::of(format!("{}{}{}", " ".repeat(before), text(0), " ".repeat(after)))
            }
            Function::Truncate => Seen::of(text(0).chars().take(number(1)?).collect::<String>()),
            Function::Print => Seen::of(texts().concat()),
            Function::Println => Seen::of(texts().join(" ") + "\n"),
            Function::Len => match &arguments[0].value {
                Value::String(text) => Seen::of(text.len()),
                Value::Array(items) => Seen::of(items.len()),
                Value::Object(fields) => Seen::of(fields.len()),
                Value::Null => Seen::of(0),
                other => return Err(self.wrong("a text or a list", other)),
            },
            Function::Index => self.index(arguments)?,
            Function::Eq => {
                let first = &arguments[0];
                Seen::of(arguments[1..].iter().any(|other| is_same(first, other)))
            }
            Function::Ne => Seen::of(!is_same(&arguments[0], &arguments[1])),
            Function::Not => Seen::of(!is_true(&arguments[0].value)),
            // The first that decides, as in Go.
            Function::And => self.first(arguments, false),
            Function::Or => self.first(arguments, true),
        })
    }

    fn first(self, arguments: &[Seen], wanted: bool) -> Seen {
        let found = arguments.iter().find(|argument| is_true(&argument.value) == wanted);
        found.or(arguments.last()).cloned().unwrap_or_else(|| Seen::of(Value::Null))
    }

    fn index(self, arguments: &[Seen]) -> Result<Seen, TemplateError> {
        let mut value = &arguments[0].value;
        for at in &arguments[1..] {
            value = match value {
                Value::Array(items) => {
                    let number = self.number(&at.value)?;
                    items.get(number).ok_or_else(|| {
                        let count = items.len();
                        TemplateError::new(format!("`index {number}` of a list of {count}"))
                    })?
                }
                // As in Go, a label that is not there is empty.
                Value::Object(fields) => fields.get(&at.text()).unwrap_or(&Value::Null),
                Value::Null => &Value::Null,
                other => return Err(self.wrong("a list", other)),
            };
        }
        Ok(Seen::of(value.clone()))
    }

    fn number(self, value: &Value) -> Result<usize, TemplateError> {
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| self.wrong("a number", value))
    }

    fn wrong(self, wanted: &str, found: &Value) -> TemplateError {
        TemplateError::new(format!("`{}` takes {wanted}, not {}", self.name(), kind(found)))
    }
}

/// Whether the values are the same, or read the same: `eq .Size "7.2MB"`.
fn is_same(one: &Seen, other: &Seen) -> bool {
    one.value == other.value || one.text() == other.text()
}

/// What a value is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Every word with a capital.
fn title(text: &str) -> String {
    let mut is_first = true;
    let letters = text.chars().flat_map(|letter| {
        let upper = is_first && letter.is_alphabetic();
        is_first = letter.is_whitespace();
        match upper {
            true => letter.to_uppercase().collect::<Vec<_>>(),
            false => vec![letter],
        }
    });
    letters.collect()
}
