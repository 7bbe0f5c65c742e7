//! The ARGs in scope, as the history of each RUN lists them.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::dockerfile::variables::Variables;

/// ARGs in the order in which they were first declared, each with its last declaration.
///
/// Their text is kept from one RUN to the next: with thousands of both it would be most of the work.
#[derive(Debug, Clone, Default)]
pub(super) struct Args {
    declared: Vec<(String, Option<String>)>,
    places: HashMap<String, usize>,
    /// ` A=1 B=2`; absent after a change of something in it.
    text: Option<String>,
}

impl Args {
    /// Brings an ARG into scope. Its value, if it has one, is among `variables`.
    pub(super) fn declare(&mut self, name: &str, value: Option<String>, variables: &Variables) {
        if let Some(place) = self.places.get(name) {
            self.declared[*place].1 = value;
            self.text = None;
            return;
        }
        self.places.insert(name.to_owned(), self.declared.len());
        self.declared.push((name.to_owned(), value));
        if let (Some(text), Some((name, declared))) = (&mut self.text, self.declared.last()) {
            push(text, name, declared.as_deref(), variables);
        }
    }

    /// Notes that a variable has another value now.
    pub(super) fn changed(&mut self, name: &str) {
        if self.places.contains_key(name) {
            self.text = None;
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.declared.iter().map(|(name, _)| name.as_str())
    }

    /// How many there are, and ` A=1 B=2`: each with the value that it has now.
    pub(super) fn now(&mut self, variables: &Variables) -> (usize, &str) {
        let text = self.text.get_or_insert_with(|| {
            let mut text = String::new();
            for (name, declared) in &self.declared {
                push(&mut text, name, declared.as_deref(), variables);
            }
            text
        });
        (self.declared.len(), text)
    }
}

fn push(text: &mut String, name: &str, declared: Option<&str>, variables: &Variables) {
    let value = variables.value(name).or(declared).unwrap_or_default();
    let _ = write!(text, " {name}={value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_always_of_the_values_that_variables_have_now() {
        let (mut args, mut variables) = (Args::default(), Variables::default());
        variables.set("A", "1");
        args.declare("A", Some("1".into()), &variables);
        args.declare("B", None, &variables);
        assert_eq!(args.now(&variables), (2, " A=1 B="));
        variables.set("A", "2");
        args.changed("A");
        assert_eq!(args.now(&variables), (2, " A=2 B="));
        variables.set("C", "3");
        args.declare("C", Some("3".into()), &variables);
        variables.set("B", "4");
        args.declare("B", Some("4".into()), &variables);
        assert_eq!(args.now(&variables), (3, " A=2 B=4 C=3"));
    }
}
