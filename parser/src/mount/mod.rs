//! `RUN --mount`: comma-separated options, and what they mean once variables are expanded.

mod draft;

use crate::diagnostic::Diagnostic;
use crate::expand::ExpandError;
use crate::grammar;
use crate::span::{Span, Spanned};
use crate::suggest;

use draft::Draft;

const KEYS: [&str; 19] = [
    "destination",
    "dst",
    "env",
    "from",
    "gid",
    "id",
    "mode",
    "readonly",
    "readwrite",
    "required",
    "ro",
    "rw",
    "sharing",
    "size",
    "source",
    "src",
    "target",
    "type",
    "uid",
];

/// One `--mount` flag, unexpanded.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The options in order.
    pub options: Vec<MountOption>,
    /// The flag's value as written.
    pub text: String,
    /// Where the flag stands.
    pub span: Span,
}

impl PartialEq for Mount {
    fn eq(&self, other: &Self) -> bool {
        self.options == other.options
    }
}

impl Eq for Mount {}

/// `key[=value]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOption {
    /// The key in lower case.
    pub key: Spanned<String>,
    /// The value, unexpanded; `None` for a bare key.
    pub value: Option<Spanned<String>>,
}

/// A mount whose variables are expanded and whose values are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSpec {
    /// Files of the context, a stage, an image.
    Bind {
        /// Where; `None` and relative paths are below the working directory.
        target: Option<String>,
        /// Path within `from`; the whole by default.
        source: Option<String>,
        /// Stage, image or named context; the build context by default. Never a number of a stage.
        from: Option<String>,
        /// Writes are discarded when it is not.
        read_only: bool,
    },
    /// A directory that outlives the build.
    Cache {
        /// Where.
        target: Option<String>,
        /// Its name; the target by default.
        id: Option<String>,
        /// What it is filled from at first; empty by default.
        from: Option<String>,
        /// Path within `from`.
        source: Option<String>,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// Mode of the new directory, 0755 by default.
        mode: Option<u32>,
        /// Owner of the new directory.
        uid: Option<u32>,
        /// Group of the new directory.
        gid: Option<u32>,
        /// Whether it is read-only.
        read_only: bool,
    },
    /// A new tmpfs.
    Tmpfs {
        /// Where.
        target: Option<String>,
        /// Its limit in bytes.
        size: Option<u64>,
        /// Whether it is read-only.
        read_only: bool,
    },
    /// A secret as a file or a variable.
    Secret {
        /// Its name: `id`, `source`, or the last part of the target; never `None` out of
        /// [`Mount::resolve`].
        id: Option<String>,
        /// The file; `/run/secrets/<id>` if neither it nor `env` is given.
        target: Option<String>,
        /// The variable that holds it.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// Mode of the file, 0400 by default.
        mode: Option<u32>,
        /// Owner of the file.
        uid: Option<u32>,
        /// Group of the file.
        gid: Option<u32>,
    },
    /// A socket of the user's ssh agent.
    Ssh {
        /// Its name; `default` by default.
        id: Option<String>,
        /// The socket; `/run/buildkit/ssh_agent.N` by default.
        target: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// Mode of the socket, 0600 by default.
        mode: Option<u32>,
        /// Owner of the socket.
        uid: Option<u32>,
        /// Group of the socket.
        gid: Option<u32>,
    },
}

/// `sharing=` of a cache mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody at once.
    #[default]
    Shared,
    /// A copy of one's own when it is in use.
    Private,
    /// One after the other.
    Locked,
}

/// Why a `--mount` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// A variable in a value could not be expanded.
    #[error("cannot expand `{value}` of the mount")]
    Expand {
        /// The value as written.
        value: String,
        /// Why not.
        #[source]
        source: ExpandError,
    },
    /// An option is unknown, misplaced or malformed.
    #[error("{message}")]
    Invalid {
        /// In BuildKit's words.
        message: String,
        /// The option.
        span: Span,
        /// "did you mean …"
        hint: Option<String>,
    },
}

impl Mount {
    /// Reads a flag's value. Keys and values are checked when the mount is resolved: BuildKit
    /// leaves them alone in stages that it does not build.
    pub(crate) fn parse(text: Spanned<String>) -> Result<Mount, Diagnostic> {
        let Spanned { value: text, span } = text;
        // Where quotes or joined lines moved the text, the flag is the best place to point at.
        let exact = span.end - span.start == text.len();
        let place = |start: usize, end: usize| match exact {
            true => Span::new(span.start + start, span.start + end),
            false => span,
        };
        if text.is_empty() {
            return Err(Diagnostic::error("failed to parse csv mounts: EOF", span));
        }
        let fields = grammar::csv(&text).map_err(|at| {
            let message = format!(
                "failed to parse csv mounts: parse error on line 1, column {}: bare \" in \
                 non-quoted-field",
                at + 1
            );
            Diagnostic::error(message, span)
        })?;
        let mut options = Vec::with_capacity(fields.len());
        for (field, range) in fields {
            let exact = field.len() == range.len();
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (field.as_ref(), None),
            };
            let whole = place(range.start, range.end);
            let value = value.map(|value| {
                let span = if exact { place(range.end - value.len(), range.end) } else { whole };
                Spanned::new(value.to_owned(), span)
            });
            options.push(MountOption { key: Spanned::new(key.to_lowercase(), whole), value });
        }
        let mount = Mount { options, text, span };
        mount.check().map_err(|error| error.diagnostic(span))?;
        Ok(mount)
    }

    fn check(&self) -> Result<(), MountError> {
        for option in &self.options {
            if option.key.value == "from"
                && let Some(from) = &option.value
                && from.value.find('$').is_some_and(|at| at + 1 != from.value.len())
            {
                let message =
                    "'from' doesn't support variable expansion, define alias stage instead";
                return Err(option.invalid(message.to_owned()));
            }
        }
        Ok(())
    }

    /// Expands the values with `expand` and checks every option.
    pub fn resolve(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<MountSpec, MountError> {
        let mut draft = Draft::default();
        for option in &self.options {
            if !KEYS.contains(&option.key.as_str()) {
                return Err(option.unexpected());
            }
            let value =
                match &option.value {
                    Some(value) => Some(expand(&value.value).map_err(|source| {
                        MountError::Expand { value: value.value.clone(), source }
                    })?),
                    None => None,
                };
            draft.set(option, value)?;
        }
        draft.finish(self.span)
    }
}

impl MountOption {
    fn written(&self) -> String {
        match &self.value {
            Some(value) => format!("{}={}", self.key.value, value.value),
            None => self.key.value.clone(),
        }
    }

    fn invalid(&self, message: String) -> MountError {
        let value = self.value.as_ref().map_or(self.key.span, |value| self.key.span.to(value.span));
        MountError::Invalid { message, span: value, hint: None }
    }

    fn unexpected(&self) -> MountError {
        let key = &self.key.value;
        let message = match self.value {
            Some(_) => format!("unexpected key '{key}' in '{}'", self.written()),
            None => format!("invalid field '{key}' must be a key=value pair"),
        };
        self.hinted(message, key, &KEYS)
    }

    fn hinted(&self, message: String, word: &str, options: &[&str]) -> MountError {
        let hint = suggest::nearest(word, options).map(|near| format!("did you mean {near}?"));
        match self.invalid(message) {
            MountError::Invalid { message, span, .. } => {
                MountError::Invalid { message, span, hint }
            }
            error => error,
        }
    }
}

impl MountError {
    /// The error as a finding; `span` is the place of the flag.
    pub fn diagnostic(self, span: Span) -> Diagnostic {
        match self {
            MountError::Expand { source, .. } => Diagnostic::error(source.to_string(), span),
            MountError::Invalid { message, span, hint } => {
                let error = Diagnostic::error(message, span);
                Diagnostic { hint, ..error }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expand::Expander;

    fn resolve(text: &str) -> Result<MountSpec, MountError> {
        let span = Span::new(0, text.len());
        let mount = Mount::parse(Spanned::new(text.to_owned(), span)).expect(text);
        let lookup = |name: &str| match name {
            "KIND" => Some("cache".to_owned()),
            "MODE" => Some("0700".to_owned()),
            "BAD" => Some("perhaps".to_owned()),
            _ => None,
        };
        let expander = Expander { escape: '\\' };
        mount.resolve(&mut |word| Ok(expander.expand(word, &lookup)?.text))
    }

    #[test]
    fn values_are_checked_once_they_are_expanded() {
        let spec = resolve("type=$KIND,target=/c,mode=$MODE,sharing=${S:-locked}").unwrap();
        let MountSpec::Cache { target, mode, sharing, .. } = spec else { panic!("{spec:?}") };
        assert_eq!((target.as_deref(), mode, sharing), (Some("/c"), Some(0o700), Sharing::Locked));
        for (text, expected) in [
            ("type=$BAD,target=/x", "unsupported mount type \"perhaps\""),
            ("target=$X,ro=$BAD", "invalid value for ro: perhaps"),
            ("type=cache,target=$X,mode=$BAD", "invalid value perhaps for mode"),
            ("type=secret,id=$X,from=a", "secret mount should not have a from"),
            ("target=${X:?no target}", "cannot expand `${X:?no target}` of the mount"),
        ] {
            assert_eq!(resolve(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn an_option_in_doubt_says_what_it_was() {
        let MountError::Invalid { span, hint, .. } =
            resolve("type=${X:-cach},target=/x").unwrap_err()
        else {
            panic!("an option is wrong")
        };
        assert_eq!(span, Span::new(0, 15));
        assert_eq!(hint.as_deref(), Some("did you mean cache?"));
    }
}
