//! `RUN --mount`: comma-separated options, and what they mean once variables are expanded.

use crate::diagnostic::Diagnostic;
use crate::expand::{ExpandError, Expander};
use crate::grammar;
use crate::head::go_quoted;
use crate::run::go_bool;
use crate::span::{Span, Spanned};
use crate::suggest;
use crate::value::parse_size;

const TYPES: [&str; 5] = ["bind", "cache", "secret", "ssh", "tmpfs"];
const SHARING: [&str; 3] = ["locked", "private", "shared"];
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
    /// Reads a flag's value. Values without variables are checked here, the others once they are
    /// expanded; keys always.
    pub(crate) fn parse(text: Spanned<String>, escape: char) -> Result<Mount, Diagnostic> {
        let Spanned { value: text, span } = text;
        // Where quotes or joined lines moved the text, the flag is the best place to point at.
        let exact = span.end - span.start == text.len();
        let place = |start: usize, end: usize| match exact {
            true => Span::new(span.start + start, span.start + end),
            false => span,
        };
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
        mount.check(escape).map_err(|error| error.diagnostic(span))?;
        Ok(mount)
    }

    fn check(&self, escape: char) -> Result<(), MountError> {
        for option in &self.options {
            if !KEYS.contains(&option.key.as_str()) {
                return Err(option.unexpected());
            }
            if option.key.value == "from"
                && let Some(from) = &option.value
                && from.value.find('$').is_some_and(|at| at + 1 != from.value.len())
            {
                let message =
                    "'from' doesn't support variable expansion, define alias stage instead";
                return Err(option.invalid(message.to_owned()));
            }
        }
        if self.text.contains('$') {
            return Ok(());
        }
        let expander = Expander { escape };
        self.resolve(&mut |value| Ok(expander.expand(value, &|_| None)?.text)).map(|_| ())
    }

    /// Expands the values with `expand` and checks every option.
    pub fn resolve(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<MountSpec, MountError> {
        let mut draft = Draft::default();
        for option in &self.options {
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

/// A mount type by name.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Bind,
    Cache,
    Secret,
    Ssh,
    Tmpfs,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Bind => "bind",
            Kind::Cache => "cache",
            Kind::Secret => "secret",
            Kind::Ssh => "ssh",
            Kind::Tmpfs => "tmpfs",
        }
    }
}

/// Options collected in order: a later one wins, and `type` decides about those behind it.
#[derive(Default)]
struct Draft {
    kind: Kind,
    target: Option<String>,
    source: Option<String>,
    from: Option<String>,
    id: Option<String>,
    env: Option<String>,
    read_only: Option<bool>,
    required: bool,
    sharing: Option<Sharing>,
    size: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Draft {
    fn set(&mut self, option: &MountOption, value: Option<String>) -> Result<(), MountError> {
        let key = option.key.as_str();
        let Some(value) = value else {
            match key {
                "readonly" | "ro" => self.read_only = Some(true),
                "readwrite" | "rw" => self.read_only = Some(false),
                "required" => self.set_required(option, true)?,
                _ => {
                    let message = format!("invalid field '{key}' must be a key=value pair");
                    return Err(option.invalid(message));
                }
            }
            return Ok(());
        };
        let bad = || option.invalid(format!("invalid value for {key}: {value}"));
        let number = |radix| {
            u32::from_str_radix(&value, radix)
                .ok()
                .filter(|_| !value.starts_with('+'))
                .ok_or_else(|| option.invalid(format!("invalid value {value} for {key}")))
        };
        match key {
            "type" => self.kind = kind(option, &value)?,
            "from" => self.from = given(value),
            "source" | "src" => self.source = given(value),
            "target" | "dst" | "destination" => self.target = given(value),
            "readonly" | "ro" => self.read_only = Some(go_bool(&value).ok_or_else(bad)?),
            "readwrite" | "rw" => self.read_only = Some(!go_bool(&value).ok_or_else(bad)?),
            "required" => self.set_required(option, go_bool(&value).ok_or_else(bad)?)?,
            "size" if self.kind != Kind::Tmpfs => return Err(self.misplaced(option)),
            "size" => self.size = Some(parse_size(&value).map_err(|_| bad())?),
            "id" => self.id = given(value),
            "sharing" => self.sharing = Some(sharing(option, &value)?),
            "mode" => self.mode = Some(number(8)?),
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            "env" => self.env = Some(value),
            _ => return Err(option.unexpected()),
        }
        Ok(())
    }

    fn set_required(&mut self, option: &MountOption, required: bool) -> Result<(), MountError> {
        if !matches!(self.kind, Kind::Secret | Kind::Ssh) {
            return Err(self.misplaced(option));
        }
        self.required = required;
        Ok(())
    }

    fn misplaced(&self, option: &MountOption) -> MountError {
        let (key, kind) = (&option.key.value, self.kind.name());
        option.invalid(format!("unexpected key '{key}' for mount type '{kind}'"))
    }

    fn finish(self, span: Span) -> Result<MountSpec, MountError> {
        let kind = self.kind.name();
        let error = |message: String| MountError::Invalid { message, span, hint: None };
        if matches!(self.kind, Kind::Bind | Kind::Tmpfs) {
            let owned = [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)];
            if let Some((key, _)) = owned.iter().find(|(_, value)| value.is_some()) {
                let kind = go_quoted(kind);
                return Err(error(format!("{key} not allowed for {kind} type mounts")));
            }
        }
        if self.kind == Kind::Secret {
            let message = if self.from.is_some() {
                Some("secret mount should not have a from")
            } else if self.sharing.is_some() {
                Some("secret mount should not define sharing")
            } else if self.source.is_none() && self.target.is_none() && self.id.is_none() {
                Some("invalid secret mount. one of source, target required")
            } else if self.source.is_some() && self.id.is_some() {
                Some("both source and id can't be set")
            } else {
                None
            };
            if let Some(message) = message {
                return Err(error(message.to_owned()));
            }
        }
        if self.sharing.is_some() && self.kind != Kind::Cache {
            return Err(error(format!("invalid cache sharing set for {kind} mount")));
        }
        if self.kind == Kind::Tmpfs && self.read_only == Some(true) {
            return Err(error("tmpfs mount can not be read-only".to_owned()));
        }
        if self.kind == Kind::Ssh && self.source.is_some() {
            return Err(error("ssh does not support source".to_owned()));
        }
        Ok(self.into_spec())
    }

    fn into_spec(self) -> MountSpec {
        let Draft { target, source, from, id, required, mode, uid, gid, .. } = self;
        match self.kind {
            Kind::Bind => {
                MountSpec::Bind { target, source, from, read_only: self.read_only.unwrap_or(true) }
            }
            Kind::Cache => MountSpec::Cache {
                target,
                id,
                from,
                source,
                sharing: self.sharing.unwrap_or_default(),
                mode,
                uid,
                gid,
                read_only: self.read_only.unwrap_or(false),
            },
            Kind::Tmpfs => MountSpec::Tmpfs { target, size: self.size },
            Kind::Secret => {
                let id = source.or(id).or_else(|| target.as_deref().map(base_name));
                // `env=` without a name means the secret's own.
                let name = id.clone().unwrap_or_default();
                let env = self.env.map(|env| if env.is_empty() { name } else { env });
                MountSpec::Secret { id, target, env, required, mode, uid, gid }
            }
            Kind::Ssh => MountSpec::Ssh { id, target, required, mode, uid, gid },
        }
    }
}

/// Empty is the same as not given.
fn given(value: String) -> Option<String> {
    (!value.is_empty()).then_some(value)
}

/// The last part of a path.
fn base_name(path: &str) -> String {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

fn kind(option: &MountOption, value: &str) -> Result<Kind, MountError> {
    Ok(match value.to_lowercase().as_str() {
        "bind" => Kind::Bind,
        "cache" => Kind::Cache,
        "secret" => Kind::Secret,
        "ssh" => Kind::Ssh,
        "tmpfs" => Kind::Tmpfs,
        _ => {
            let message = format!("unsupported mount type {}", go_quoted(value));
            return Err(option.hinted(message, value, &TYPES));
        }
    })
}

fn sharing(option: &MountOption, value: &str) -> Result<Sharing, MountError> {
    Ok(match value.to_lowercase().as_str() {
        "shared" => Sharing::Shared,
        "private" => Sharing::Private,
        "locked" => Sharing::Locked,
        _ => {
            let message = format!("unsupported sharing value {}", go_quoted(value));
            return Err(option.hinted(message, value, &SHARING));
        }
    })
}
