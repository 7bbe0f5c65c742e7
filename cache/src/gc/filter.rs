//! Filters of `du` and `prune`: `until=24h`, `type=regular`, `id!=…`, `description~=…`.

use std::str::FromStr;

use thiserror::Error;

use super::survey::{Entry, NANOSECONDS};

/// A condition on an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Not used since this time, seconds since 1970.
    Until(i64),
    /// A field compared with a value.
    Field {
        /// Which.
        field: Field,
        /// How.
        comparison: Comparison,
        /// With what.
        value: String,
    },
}

/// What of an entry is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The id, whole or its start.
    Id,
    /// `regular`, `exec.cachemount`, `source.local`.
    Type,
    /// The step's name.
    Description,
    /// Ids of what it stands on.
    Parents,
    /// Whether a container needs it.
    InUse,
    /// Whether an image needs it.
    Shared,
    /// Whether no image needs it.
    Private,
    /// Whether it still changes.
    Mutable,
    /// Whether it does not change any more.
    Immutable,
}

/// How a field is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=` or `==`
    Equal,
    /// `!=`
    Different,
    /// `~=`: contains the text.
    Contains,
}

/// A filter that says nothing.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FilterError {
    /// The field is not one.
    #[error(
        "unknown filter `{field}`; known are until, id, type, description, parents, inuse, shared, private, mutable, immutable"
    )]
    UnknownField {
        /// What was written.
        field: String,
    },
    /// `until` needs a duration or a time.
    #[error("`{value}` is neither a duration such as 24h nor a time such as 2026-01-31T00:00:00Z")]
    BadTime {
        /// What was written.
        value: String,
    },
}

impl Filter {
    /// Whether the entry fits.
    pub fn fits(&self, entry: &Entry) -> bool {
        match self {
            Filter::Until(time) => entry.last_used / NANOSECONDS <= *time,
            Filter::Field { field, comparison, value } => {
                let equal = match (field, comparison) {
                    (Field::Description, Comparison::Contains) => {
                        entry.description.contains(value.as_str())
                    }
                    (Field::Id, Comparison::Contains) => entry.object.id().contains(value.as_str()),
                    (Field::Id, _) => entry.object.id().starts_with(value.as_str()),
                    (Field::Type, Comparison::Contains) => {
                        entry.record_type.word().contains(value.as_str())
                    }
                    (Field::Type, _) => entry.record_type.word() == value,
                    (Field::Description, _) => entry.description == *value,
                    (Field::Parents, _) => {
                        entry.parent.is_some_and(|id| id.to_string().starts_with(value.as_str()))
                    }
                    (flag, _) => flag_of(entry, *flag) == (value != "false" && value != "0"),
                };
                equal != (*comparison == Comparison::Different)
            }
        }
    }
}

fn flag_of(entry: &Entry, field: Field) -> bool {
    match field {
        Field::InUse => entry.in_use,
        Field::Shared => entry.shared,
        Field::Private => !entry.shared,
        Field::Mutable => entry.is_mutable(),
        Field::Immutable => !entry.is_mutable(),
        Field::Id | Field::Type | Field::Description | Field::Parents => false,
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        let end = text.find(['=', '!', '~']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let (comparison, value) = if let Some(value) = rest.strip_prefix("!=") {
            (Comparison::Different, value)
        } else if let Some(value) = rest.strip_prefix("~=") {
            (Comparison::Contains, value)
        } else {
            let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='));
            (Comparison::Equal, value.unwrap_or("true"))
        };
        let field = match name {
            "until" | "unused-for" => {
                return until(value)
                    .map(Filter::Until)
                    .ok_or_else(|| FilterError::BadTime { value: value.to_owned() });
            }
            "id" => Field::Id,
            "type" => Field::Type,
            "description" => Field::Description,
            "parents" => Field::Parents,
            "inuse" => Field::InUse,
            "shared" => Field::Shared,
            "private" => Field::Private,
            "mutable" => Field::Mutable,
            "immutable" => Field::Immutable,
            _ => return Err(FilterError::UnknownField { field: name.to_owned() }),
        };
        Ok(Filter::Field { field, comparison, value: value.to_owned() })
    }
}

/// A time, or now less a duration of Go's form (`24h`, `1h30m`).
fn until(text: &str) -> Option<i64> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_second());
    }
    let mut seconds: i64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let factor = match &rest[..unit] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        seconds = seconds.checked_add(count.checked_mul(factor)?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then(|| jiff::Timestamp::now().as_second().saturating_sub(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_buildkit_writes_them() {
        let field = |field, comparison, value: &str| Filter::Field {
            field,
            comparison,
            value: value.to_owned(),
        };
        for (text, filter) in [
            ("type=regular", field(Field::Type, Comparison::Equal, "regular")),
            ("type==regular", field(Field::Type, Comparison::Equal, "regular")),
            ("id!=abc", field(Field::Id, Comparison::Different, "abc")),
            ("description~=make", field(Field::Description, Comparison::Contains, "make")),
            ("private", field(Field::Private, Comparison::Equal, "true")),
            ("until=1970-01-01T00:01:00Z", Filter::Until(60)),
        ] {
            assert_eq!(text.parse(), Ok(filter), "{text}");
        }
        assert!(matches!("colour=red".parse::<Filter>(), Err(FilterError::UnknownField { .. })));
        assert!(matches!("until=soon".parse::<Filter>(), Err(FilterError::BadTime { .. })));
    }

    #[test]
    fn durations_count_back_from_now() {
        let now = jiff::Timestamp::now().as_second();
        let ago = now - until("1h30m").unwrap();
        assert!((5399..=5401).contains(&ago), "{ago}");
    }
}
