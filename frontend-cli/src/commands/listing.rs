//! How commands that list print their rows: what `--format` says.
//!
//! ```text
//! table                    the command's own columns
//! json                     a JSON object a line
//! table {{.ID}}\t{{.Size}} other columns
//! {{.ID}}: {{json .Tag}}   a line for each row
//! ```

use serde_json::Value;

use super::{say, table};
use crate::report::CliError;
use crate::template::{Row, Template, TemplateError};

/// A field that a template may name, with the head of its column.
pub(super) type Field = (&'static str, &'static str);

/// What `--format` asks for.
#[derive(Debug)]
pub(super) enum Format {
    /// The command's own table.
    Table,
    /// Each row as JSON.
    Json,
    /// `du --format pretty`: everything about each, in lines.
    Pretty,
    /// A table of other columns.
    Columns(Listing),
    /// A line for each row.
    Lines(Listing),
}

/// A template with what it is written in.
#[derive(Debug)]
pub(super) struct Listing {
    text: String,
    template: Template,
    fields: &'static [Field],
}

impl Format {
    /// What was typed, for rows of these fields.
    pub(super) fn parse(text: &str, fields: &'static [Field]) -> Result<Format, CliError> {
        let listing = |template: &str| -> Result<Listing, CliError> {
            let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            let parsed = Template::parse(template, &names);
            let parsed = parsed.map_err(|error| mistake(text, error))?;
            Ok(Listing { text: text.to_owned(), template: parsed, fields })
        };
        match text.trim() {
            "" | "table" => Ok(Format::Table),
            "json" => Ok(Format::Json),
            _ => match text.trim_start().strip_prefix("table") {
                Some(columns) if columns.starts_with([' ', '\t', '\\', '{']) => {
                    let columns = columns.trim_start();
                    let columns = columns.strip_prefix("\\t").unwrap_or(columns);
                    Ok(Format::Columns(listing(columns)?))
                }
                _ if text.contains("{{") => Ok(Format::Lines(listing(text)?)),
                _ => Err(CliError::input(format!("unknown --format `{text}`"))
                    .hint("write table, json, or a template such as '{{.ID}}' or 'table {{.ID}}'")),
            },
        }
    }

    /// As [`Format::parse`], for a command that has `pretty` as well.
    pub(super) fn parse_or_pretty(
        text: &str,
        fields: &'static [Field],
    ) -> Result<Format, CliError> {
        match text.trim() {
            "pretty" => Ok(Format::Pretty),
            _ => Format::parse(text, fields),
        }
    }

    /// Prints rows as the format says, if it says more than that they are a table or pretty: then it
    /// is for the command, which is told by `false`.
    pub(super) fn print(&self, rows: impl Iterator<Item = Row>) -> Result<bool, CliError> {
        match self {
            Format::Table | Format::Pretty => return Ok(false),
            Format::Json => rows.for_each(|row| say(row.value)),
            Format::Lines(listing) => {
                for row in rows {
                    say(listing.render(&row)?);
                }
            }
            Format::Columns(listing) => {
                let cells = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
                let head = listing.template.head(listing.fields);
                let rows = rows
                    .map(|row| Ok(cells(&listing.render(&row)?)))
                    .collect::<Result<Vec<_>, CliError>>()?;
                let head = cells(&head);
                table(&head.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
            }
        }
        Ok(true)
    }
}

impl Listing {
    fn render(&self, row: &Row) -> Result<String, CliError> {
        debug_assert!(
            self.fields.iter().all(|(name, _)| row.value.get(name).is_some()),
            "a row without all of {:?}: {}",
            self.fields,
            row.value
        );
        self.template.render(row).map_err(|error| mistake(&self.text, error))
    }
}

/// Prints documents: in full as one list, or by a template each, which is given what `complete`
/// makes of them.
pub(super) fn print_documents(
    format: Option<&str>,
    documents: Vec<Value>,
    complete: fn(Value) -> Value,
) -> Result<(), CliError> {
    match format.map(|text| (text.trim(), text)) {
        None | Some(("", _)) => say(format!("{:#}", Value::Array(documents))),
        Some(("json", _)) => say(Value::Array(documents)),
        Some((_, text)) if text.contains("{{") => {
            let template = Template::parse(text, &[]).map_err(|error| mistake(text, error))?;
            for document in documents {
                let line = template.render(&complete(document).into());
                say(line.map_err(|error| mistake(text, error))?);
            }
        }
        Some((_, text)) => {
            return Err(CliError::input(format!("unknown --format `{text}`"))
                .hint("write json, or a template such as '{{.Id}}'"));
        }
    }
    Ok(())
}

fn mistake(text: &str, error: TemplateError) -> CliError {
    let report = CliError::input(format!("--format `{text}`: {error}"));
    match error.hint {
        Some(hint) => report.hint(hint),
        None => report,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[("ID", "IMAGE ID"), ("Tag", "TAG")];

    #[test]
    fn formats_are_a_word_or_a_template() {
        let parse = |text: &str| Format::parse(text, FIELDS);
        assert!(matches!(parse("table").unwrap(), Format::Table));
        assert!(matches!(parse(" json ").unwrap(), Format::Json));
        assert!(matches!(parse("{{.ID}}").unwrap(), Format::Lines(_)));
        assert!(matches!(parse("tables {{.ID}}").unwrap(), Format::Lines(_)));
        for text in ["table {{.ID}}", r"table\t{{.ID}}", "table{{.ID}}"] {
            let Format::Columns(listing) = parse(text).unwrap() else { panic!("{text}") };
            assert_eq!(listing.template.head(FIELDS), "IMAGE ID", "{text}");
        }
        for (text, part) in [
            ("yaml", "unknown --format `yaml`"),
            ("pretty", "unknown --format `pretty`"),
            ("{{.Id}}", "unknown field `.Id`"),
            ("table {{.Tog}}", "did you mean `.Tag`?"),
        ] {
            let message = parse(text).unwrap_err().text();
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!(matches!(Format::parse_or_pretty("pretty", FIELDS).unwrap(), Format::Pretty));
    }
}
