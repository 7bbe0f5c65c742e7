//! The variables that are in scope at one instruction.

/// Names and values in the order in which they were first set; setting a name again keeps its
/// place. This is the order of `Env` in an image configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Variables(Vec<(String, String)>);

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
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.to_owned(),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect()
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
