//! The secrets that the user hands to a build.
//!
//! Values are read when a step asks for them, go into the step's memory-backed files or its
//! environment, and nowhere else: not into keys, logs or layers.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use crate::{ExecutorError, Redactions};

/// The most bytes a secret may have, as in BuildKit.
pub const MAX_SECRET: usize = 500 * 1000;

/// Secrets by id.
#[derive(Clone, Default)]
pub struct SecretStore {
    secrets: BTreeMap<String, Secret>,
}

#[derive(Clone)]
enum Secret {
    File(PathBuf),
    Value(Vec<u8>),
}

impl fmt::Debug for SecretStore {
    /// The ids alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.secrets.keys()).finish()
    }
}

impl SecretStore {
    /// No secrets.
    pub fn new() -> Self {
        Self::default()
    }

    /// The secret `id` is the content of a file, read when it is used.
    pub fn insert_file(&mut self, id: impl Into<String>, path: impl Into<PathBuf>) {
        self.secrets.insert(id.into(), Secret::File(path.into()));
    }

    /// The secret `id` is `value`.
    pub fn insert_value(&mut self, id: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.secrets.insert(id.into(), Secret::Value(value.into()));
    }

    /// What must not be seen in any log. A secret that cannot be read is for the step that asks for
    /// it to complain about.
    pub fn redactions(&self) -> Redactions {
        let values = self.secrets.keys().filter_map(|id| self.read(id).ok().flatten());
        Redactions::new(values)
    }

    /// The value of the secret `id`; `None` if there is none.
    pub(crate) fn read(&self, id: &str) -> Result<Option<Vec<u8>>, ExecutorError> {
        let value = match self.secrets.get(id) {
            None => return Ok(None),
            Some(Secret::Value(value)) => value.clone(),
            Some(Secret::File(path)) => {
                let mut value = Vec::new();
                fs_err::File::open(path)
                    .and_then(|file| file.take(MAX_SECRET as u64 + 1).read_to_end(&mut value))
                    .map_err(ExecutorError::file("read the secret file", path))?;
                value
            }
        };
        if value.len() > MAX_SECRET {
            return Err(ExecutorError::SecretTooBig { id: id.to_owned() });
        }
        Ok(Some(value))
    }

    /// The secret `id` as one line of text, for a header: what editors leave at its end is gone.
    pub(crate) fn line(&self, id: &str) -> Result<Option<String>, ExecutorError> {
        let Some(value) = self.read(id)? else { return Ok(None) };
        match String::from_utf8(value) {
            Ok(value) if !value.trim().contains(char::is_control) => {
                Ok(Some(value.trim().to_owned()))
            }
            _ => Err(ExecutorError::SecretNotLine { id: id.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let mut secrets = SecretStore::new();
        secrets.insert_value("token", "hunter2");
        assert_eq!(format!("{secrets:?}"), r#"{"token"}"#);
    }

    #[test]
    fn a_secret_that_is_too_big_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_SECRET as u64 + 1).unwrap();
        let mut secrets = SecretStore::new();
        secrets.insert_file("big", file.path());
        assert!(matches!(secrets.read("big"), Err(ExecutorError::SecretTooBig { .. })));
        assert!(matches!(secrets.read("other"), Ok(None)));
    }
}
