//! The variables that are in scope at one instruction.

use std::collections::HashMap;

use solver::llb::Environment;

/// Names and values in the order in which they were first set; setting a name again keeps its
/// place. This is the order of `Env` in an image configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Variables {
    pairs: Environment,
    /// Where each name is: every word of a Dockerfile asks.
    places: HashMap<String, usize>,
}

impl Variables {
    /// Reads `NAME=value` entries as an image configuration has them. An entry without `=` has no
    /// value and never gets the host's (threat 14).
    pub(crate) fn from_entries<'a>(entries: impl IntoIterator<Item = &'a String>) -> Self {
        let mut variables = Variables::default();
        for entry in entries {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            if !name.is_empty() {
                variables.set(name, value);
            }
        }
        variables
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        match self.places.get(name) {
            Some(place) => self.pairs.set(*place, value),
            None => {
                self.places.insert(name.to_owned(), self.places.len());
                self.pairs.push(name, value);
            }
        }
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.pairs.get(*self.places.get(name)?).map(|(_, value)| value)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|(name, _)| name)
    }

    pub(crate) fn pairs(&self) -> &Environment {
        &self.pairs
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        self.pairs.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Variables;

    #[test]
    fn setting_a_name_again_keeps_its_place() {
        let mut variables = Variables::from_entries(&["A=1".into(), "B=2".into(), "PATH".into()]);
        variables.set("A", "3");
        assert_eq!(variables.entries(), ["A=3", "B=2", "PATH="]);
    }
}
