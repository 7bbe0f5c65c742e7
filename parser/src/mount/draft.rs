//! Options in order → one checked mount.

use super::{MountError, MountOption, MountSpec, Sharing};
use crate::head::go_quoted;
use crate::run::go_bool;
use crate::span::Span;
use crate::value::parse_size;

const TYPES: [&str; 5] = ["bind", "cache", "secret", "ssh", "tmpfs"];
const SHARING: [&str; 3] = ["locked", "private", "shared"];

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
pub(super) struct Draft {
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
    pub(super) fn set(
        &mut self,
        option: &MountOption,
        value: Option<String>,
    ) -> Result<(), MountError> {
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

    pub(super) fn finish(self, span: Span) -> Result<MountSpec, MountError> {
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
            Kind::Tmpfs => {
                let read_only = self.read_only.unwrap_or(false);
                MountSpec::Tmpfs { target, size: self.size, read_only }
            }
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
