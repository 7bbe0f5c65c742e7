//! Templates of `--format`: as much of Go's `text/template` as docker's users write.
//!
//! ```text
//! {{.ID}}  {{.Config.Env}}  {{$.ID}}       a field, of the row or of what `range` is at
//! {{json .}}  {{upper .Tag}}               a function; {{.Tag | upper}} is the same
//! {{index .Labels "a"}}  {{len .Parents}}
//! {{if .Shared}}…{{else}}…{{end}}          not empty, zero or false
//! {{range .Parents}}…{{else}}…{{end}}
//! {{- … -}}                                without the blanks beside it
//! ```
//!
//! It is strict where Go prints `<no value>`: a field or a function that there is not is an error
//! that says what there is. Variables, definitions and comparisons by order are not there.

mod functions;
mod parse;

use std::collections::BTreeMap;

use serde_json::Value;
use thiserror::Error;

use functions::Function;

/// A template that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

/// Why a template cannot be used; `hint` says what can be written instead.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{message}")]
pub(crate) struct TemplateError {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// What a template is applied to: a JSON document, and for fields of it that people read in another
/// form, such as sizes, that form.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Row {
    pub(crate) value: Value,
    texts: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Show(Pipeline),
    If { condition: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    Range { over: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
}

/// Each command is given the result of the one before as its last argument.
#[derive(Debug, Clone, PartialEq)]
struct Pipeline {
    commands: Vec<Command>,
}

#[derive(Debug, Clone, PartialEq)]
struct Command {
    /// Without one there is one argument, which is the result.
    function: Option<Function>,
    arguments: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq)]
enum Term {
    /// `.A.B`, or `$.A.B` from the row on, wherever `range` is.
    Field {
        from_row: bool,
        path: Vec<String>,
    },
    Literal(Value),
    Nested(Pipeline),
}

/// A value with the form that people read.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    value: Value,
    text: Option<String>,
}

impl Seen {
    fn of(value: impl Into<Value>) -> Seen {
        Seen { value: value.into(), text: None }
    }

    fn text(&self) -> String {
        self.text.clone().unwrap_or_else(|| shown(&self.value))
    }
}

impl TemplateError {
    fn new(message: impl Into<String>) -> TemplateError {
        TemplateError { message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> TemplateError {
        self.hint = Some(hint.into());
        self
    }
}

impl Row {
    /// A row without fields.
    pub(crate) fn new() -> Row {
        Row { value: Value::Object(serde_json::Map::new()), texts: BTreeMap::new() }
    }

    /// Adds a field. What is text in it does not drive a terminal.
    pub(crate) fn with(self, name: &'static str, value: impl Into<Value>) -> Row {
        let value = value.into();
        match &value {
            Value::String(text) => {
                let text = crate::progress::sanitize(text, false).replace(['\t', '\n'], " ");
                self.shown(name, value, text)
            }
            _ => {
                let text = shown(&value);
                self.shown(name, value, text)
            }
        }
    }

    /// Adds a field that people read as `text`.
    pub(crate) fn shown(
        mut self,
        name: &'static str,
        value: impl Into<Value>,
        text: String,
    ) -> Row {
        if let Value::Object(fields) = &mut self.value {
            fields.insert(name.to_owned(), value.into());
        }
        self.texts.insert(name, text);
        self
    }
}

impl Row {
    /// A field as people read it; nothing if there is none of that name.
    pub(crate) fn text(&self, name: &str) -> String {
        self.texts.get(name).cloned().unwrap_or_default()
    }
}

impl From<Value> for Row {
    fn from(value: Value) -> Row {
        Row { value, texts: BTreeMap::new() }
    }
}

impl Template {
    /// Understands a template, which may use `fields` of a row; any if it is empty.
    pub(crate) fn parse(text: &str, fields: &[&str]) -> Result<Template, TemplateError> {
        let template = Template { nodes: parse::nodes(text)? };
        if !fields.is_empty() {
            check_fields(&template.nodes, fields, true)?;
        }
        Ok(template)
    }

    /// What it makes of a row.
    pub(crate) fn render(&self, row: &Row) -> Result<String, TemplateError> {
        let mut out = String::new();
        Rendering { row, is_head: false }.nodes(&self.nodes, None, &mut out)?;
        Ok(out)
    }

    /// The heads of the columns: the template of the fields' own heads, as docker has it; functions
    /// leave those as they are.
    pub(crate) fn head(&self, heads: &[(&'static str, &'static str)]) -> String {
        let row = heads.iter().fold(Row::new(), |row, (field, head)| row.with(field, *head));
        let mut out = String::new();
        // A head is a text, of which a template may want something else: then it is cut short.
        let _ = Rendering { row: &row, is_head: true }.nodes(&self.nodes, None, &mut out);
        out
    }
}

/// Whether all fields of the row that are named are there. What `range` goes over has fields of its
/// own, which are known when there is a row.
fn check_fields(nodes: &[Node], fields: &[&str], in_row: bool) -> Result<(), TemplateError> {
    for node in nodes {
        match node {
            Node::Text(_) => {}
            Node::Show(pipeline) => check_pipeline(pipeline, fields, in_row)?,
            Node::If { condition, then, otherwise } => {
                check_pipeline(condition, fields, in_row)?;
                check_fields(then, fields, in_row)?;
                check_fields(otherwise, fields, in_row)?;
            }
            Node::Range { over, body, otherwise } => {
                check_pipeline(over, fields, in_row)?;
                check_fields(body, fields, false)?;
                check_fields(otherwise, fields, in_row)?;
            }
        }
    }
    Ok(())
}

fn check_pipeline(pipeline: &Pipeline, fields: &[&str], in_row: bool) -> Result<(), TemplateError> {
    for term in pipeline.commands.iter().flat_map(|command| &command.arguments) {
        match term {
            Term::Field { from_row, path } if *from_row || in_row => {
                if let Some(name) = path.first().filter(|name| !fields.contains(&name.as_str())) {
                    return Err(no_field(name, fields.iter().copied()));
                }
            }
            Term::Nested(pipeline) => check_pipeline(pipeline, fields, in_row)?,
            _ => {}
        }
    }
    Ok(())
}

fn no_field<'a>(name: &str, fields: impl Iterator<Item = &'a str> + Clone) -> TemplateError {
    let error = TemplateError::new(format!("unknown field `.{name}`"));
    if let Some(near) = crate::dockerfile::nearest(name, fields.clone()) {
        return error.hint(format!("did you mean `.{near}`?"));
    }
    let all: Vec<String> = fields.map(|field| format!(".{field}")).collect();
    error.hint(format!("possible are {}", all.join(", ")))
}

struct Rendering<'a> {
    row: &'a Row,
    is_head: bool,
}

/// What `range` is at; `None` for the row.
type Dot<'a> = Option<&'a Value>;

impl Rendering<'_> {
    fn nodes(&self, nodes: &[Node], dot: Dot<'_>, out: &mut String) -> Result<(), TemplateError> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Show(pipeline) => out.push_str(&self.pipeline(pipeline, dot)?.text()),
                Node::If { condition, then, otherwise } => {
                    let is_true = is_true(&self.pipeline(condition, dot)?.value);
                    self.nodes(if is_true { then } else { otherwise }, dot, out)?;
                }
                Node::Range { over, body, otherwise } => {
                    let items = match self.pipeline(over, dot)?.value {
                        Value::Array(items) => items,
                        // In the order of its names, as in Go.
                        Value::Object(fields) => fields.into_iter().map(|(_, v)| v).collect(),
                        Value::Null => Vec::new(),
                        // The head of a column that is a list.
                        head if self.is_head => vec![head],
                        other => {
                            let what = functions::kind(&other);
                            let message = format!("`range` goes over a list, not {what}");
                            return Err(TemplateError::new(message));
                        }
                    };
                    if items.is_empty() {
                        self.nodes(otherwise, dot, out)?;
                    }
                    for item in items {
                        self.nodes(body, Some(&item), out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: Dot<'_>) -> Result<Seen, TemplateError> {
        let mut last: Option<Seen> = None;
        for command in &pipeline.commands {
            let mut arguments = command
                .arguments
                .iter()
                .map(|term| self.term(term, dot))
                .collect::<Result<Vec<_>, _>>()?;
            arguments.extend(last.take());
            last = Some(match command.function {
                None => arguments.swap_remove(0),
                Some(function) if self.is_head && function.keeps_heads() => {
                    arguments.swap_remove(0)
                }
                Some(function) => function.call(&arguments)?,
            });
        }
        last.ok_or_else(|| TemplateError::new("`{{}}` is empty"))
    }

    fn term(&self, term: &Term, dot: Dot<'_>) -> Result<Seen, TemplateError> {
        match term {
            Term::Literal(value) => Ok(Seen::of(value.clone())),
            Term::Nested(pipeline) => self.pipeline(pipeline, dot),
            Term::Field { from_row, path } => {
                let dot = dot.filter(|_| !from_row);
                let mut value = dot.unwrap_or(&self.row.value);
                for name in path {
                    value = match value {
                        Value::Object(fields) => fields
                            .get(name)
                            .ok_or_else(|| no_field(name, fields.keys().map(String::as_str)))?,
                        // As in Go, nothing of nothing is nothing.
                        Value::Null => &Value::Null,
                        other => {
                            let what = functions::kind(other);
                            let message = format!("`.{name}` is wanted of {what}");
                            return Err(TemplateError::new(message));
                        }
                    };
                }
                let text = match &path[..] {
                    [name] if dot.is_none() => self.row.texts.get(name.as_str()).cloned(),
                    _ => None,
                };
                Ok(Seen { value: value.clone(), text })
            }
        }
    }
}

/// As Go sees it.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// As Go prints it, but that nothing is nothing.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name}:{}", shown(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
    }
}

#[cfg(test)]
mod tests;
