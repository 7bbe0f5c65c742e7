//! What a build's command line means.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cache::oci::{ImageName, Platform};
use executor::cdi::Devices;
use executor::{Limits, SecretStore, SshAgents};

use super::cache_spec::{self, CacheFrom, CacheTo};
use super::output::Output;
use crate::args::{BuildArgs, ProgressMode};
use crate::commands::limits::limits;
use crate::commands::space::CacheLimits;
use crate::config::Config;
use crate::dockerfile::NamedContext;
use crate::report::CliError;

/// See the module.
pub(super) struct BuildOptions {
    pub(super) tags: Vec<ImageName>,
    pub(super) file: Option<String>,
    pub(super) context: String,
    pub(super) build_args: BTreeMap<String, String>,
    pub(super) contexts: BTreeMap<String, ContextValue>,
    pub(super) target: Option<String>,
    pub(super) platforms: Vec<Platform>,
    pub(super) no_cache: bool,
    pub(super) no_cache_stages: BTreeSet<String>,
    pub(super) pull: bool,
    pub(super) offline: bool,
    pub(super) quiet: bool,
    pub(super) progress: ProgressMode,
    pub(super) outputs: Vec<Output>,
    pub(super) labels: Vec<(String, String)>,
    pub(super) secrets: SecretStore,
    pub(super) ssh: SshAgents,
    pub(super) extra_hosts: Vec<(String, String)>,
    pub(super) network: parser::Network,
    pub(super) allow: Vec<String>,
    pub(super) devices: Devices,
    pub(super) shm_size: Option<u64>,
    pub(super) ulimits: Vec<(String, i64, i64)>,
    pub(super) limits: Limits,
    pub(super) iidfile: Option<PathBuf>,
    pub(super) metadata_file: Option<PathBuf>,
    pub(super) max_parallelism: Option<std::num::NonZeroUsize>,
    pub(super) cache_from: Vec<CacheFrom>,
    pub(super) cache_to: Vec<CacheTo>,
    /// Whether to say why steps were cached or executed.
    pub(super) explain: bool,
    /// What the build cache is held to after the build.
    pub(super) cap: CacheLimits,
}

/// A `--build-context` before anything is looked up.
#[derive(Debug, Clone)]
pub(super) enum ContextValue {
    Directory(PathBuf),
    OciLayout { path: PathBuf },
    Other(NamedContext),
}

impl BuildOptions {
    /// What was typed, and where that says nothing, what is configured.
    pub(super) fn new(args: BuildArgs, configured: &Config) -> Result<Self, CliError> {
        let outputs = outputs(&args)?;
        let cdi_spec_dirs = match &args.cdi_spec_dirs[..] {
            [] => configured.cdi_spec_dirs.clone().unwrap_or_default(),
            typed => typed.to_vec(),
        };
        let (allow, devices) = entitlements(&args.allow, cdi_spec_dirs)?;
        let cap = CacheLimits::of(&args.space)?.or(configured.cache);
        let max_parallelism = match args.max_parallelism.map(std::num::NonZeroUsize::new) {
            None => configured.max_parallelism,
            Some(None) => return Err(CliError::input("--max-parallelism must be at least 1")),
            Some(count) => count,
        };
        Ok(BuildOptions {
            tags: args.tags.iter().map(|tag| tag_name(tag)).collect::<Result<_, _>>()?,
            build_args: build_args(&args.build_args)?,
            contexts: build_contexts(&args.build_contexts)?,
            platforms: platforms(&args.platform)?,
            no_cache_stages: args
                .no_cache_filter
                .iter()
                .map(|stage| stage.to_lowercase())
                .collect(),
            progress: if args.quiet { ProgressMode::Quiet } else { args.progress },
            outputs,
            labels: labels(&args.labels)?,
            secrets: secrets(&args.secrets)?,
            ssh: super::ssh::agents(&args.ssh)?,
            extra_hosts: args
                .add_hosts
                .iter()
                .map(|host| extra_host(host))
                .collect::<Result<_, _>>()?,
            network: network(&args.network)?,
            allow,
            devices,
            shm_size: args.shm_size.as_deref().map(size).transpose()?,
            ulimits: args.ulimits.iter().map(|limit| ulimit(limit)).collect::<Result<_, _>>()?,
            limits: limits(&args.limits)?,
            file: args.file,
            context: args.context,
            target: args.target,
            no_cache: args.no_cache,
            pull: args.pull,
            offline: args.offline,
            quiet: args.quiet,
            iidfile: args.iidfile,
            metadata_file: args.metadata_file,
            max_parallelism,
            cache_from: cache_spec::cache_from(&args.cache_from)?,
            cache_to: cache_spec::cache_to(&args.cache_to)?,
            explain: args.explain,
            cap,
        })
    }
}

impl BuildOptions {
    /// Whether the image is to carry its own cache.
    pub(super) fn inline_cache(&self) -> bool {
        self.cache_to.iter().any(|to| to.place.is_none())
            || super::source::is_on(self.build_args.get("BUILDKIT_INLINE_CACHE"))
    }
}

fn tag_name(text: &str) -> Result<ImageName, CliError> {
    let name: ImageName = text
        .parse()
        .map_err(|error| CliError::input(format!("invalid tag \"{text}\": {error}")))?;
    if name.digest().is_some() {
        return Err(CliError::input(format!("invalid tag \"{text}\": a tag cannot have a digest")));
    }
    Ok(name)
}

fn outputs(args: &BuildArgs) -> Result<Vec<Output>, CliError> {
    let mut outputs =
        args.outputs.iter().map(|spec| Output::parse(spec)).collect::<Result<Vec<_>, _>>()?;
    if args.push {
        outputs.push(Output::registry());
    }
    if outputs.is_empty() || args.load {
        outputs.push(Output::image());
    }
    Ok(outputs)
}

fn build_args(args: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let mut values = BTreeMap::new();
    for arg in args {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), std::env::var(arg).ok()),
        };
        if name.is_empty() {
            return Err(CliError::input(format!("invalid --build-arg `{arg}`: it has no name")));
        }
        if let Some(value) = value {
            values.insert(name.to_owned(), value);
        }
    }
    // What makes a build reproducible is taken from the environment without being asked for.
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        values.entry("SOURCE_DATE_EPOCH".into()).or_insert(epoch);
    }
    Ok(values)
}

fn build_contexts(specs: &[String]) -> Result<BTreeMap<String, ContextValue>, CliError> {
    let mut contexts = BTreeMap::new();
    for spec in specs {
        let (name, value) = spec
            .split_once('=')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .ok_or_else(|| {
                CliError::input(format!("invalid --build-context `{spec}`: expected NAME=VALUE"))
            })?;
        let value = if let Some(image) = value.strip_prefix("docker-image://") {
            if image == "scratch" {
                ContextValue::Other(NamedContext::Scratch)
            } else {
                let image = image.parse().map_err(|error| {
                    CliError::input(format!("invalid --build-context `{spec}`: {error}"))
                })?;
                ContextValue::Other(NamedContext::Image(image))
            }
        } else if let Some(path) = value.strip_prefix("oci-layout://") {
            ContextValue::OciLayout { path: path.into() }
        } else if super::source::git_address(value).is_some() {
            ContextValue::Other(NamedContext::Git(
                super::source::git_address(value).unwrap_or_default(),
            ))
        } else if value.starts_with("http://") || value.starts_with("https://") {
            ContextValue::Other(NamedContext::Http(value.to_owned()))
        } else {
            ContextValue::Directory(value.into())
        };
        let name = match name.split_once("::") {
            None => name.to_lowercase(),
            Some((name, platform)) => {
                let platform: Platform = platform.parse().map_err(|error| {
                    CliError::input(format!("invalid --build-context `{spec}`: {error}"))
                })?;
                format!("{}::{platform}", name.to_lowercase())
            }
        };
        contexts.insert(name, value);
    }
    Ok(contexts)
}

fn platforms(texts: &[String]) -> Result<Vec<Platform>, CliError> {
    let mut platforms = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let platform = if text == "local" {
            Platform::host()
        } else {
            text.parse()
                .map_err(|error| CliError::input(format!("invalid platform `{text}`: {error}")))?
        };
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

fn labels(texts: &[String]) -> Result<Vec<(String, String)>, CliError> {
    texts
        .iter()
        .map(|text| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            if key.is_empty() {
                return Err(CliError::input(format!("invalid --label `{text}`: it has no key")));
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// `id=ID[,src=FILE|env=NAME][,type=file|env]`; alone, an id names a variable or else a file.
fn secrets(specs: &[String]) -> Result<SecretStore, CliError> {
    let mut store = SecretStore::new();
    for spec in specs {
        let mut id = None;
        let (mut source, mut variable, mut kind) = (None, None, None);
        for field in spec.split(',') {
            match field.split_once('=') {
                Some(("id", value)) => id = Some(value),
                Some(("src" | "source", value)) => source = Some(value),
                Some(("env", value)) => variable = Some(value),
                Some(("type", value @ ("file" | "env"))) => kind = Some(value),
                _ => {
                    return Err(CliError::input(format!(
                        "invalid --secret `{spec}`: unexpected `{field}`"
                    ))
                    .hint("write id=ID[,src=FILE] or id=ID,env=NAME"));
                }
            }
        }
        let id = id
            .or(source)
            .or(variable)
            .ok_or_else(|| CliError::input(format!("invalid --secret `{spec}`: it has no id")))?;
        if kind == Some("env") {
            variable = variable.or(source.take());
        }
        match (source, variable) {
            (Some(path), _) => {
                if !std::path::Path::new(path).is_file() {
                    return Err(CliError::input(format!("the secret `{id}` has no file `{path}`")));
                }
                store.insert_file(id, path);
            }
            (None, Some(name)) => {
                let value = std::env::var(name).map_err(|_| {
                    CliError::input(format!(
                        "the secret `{id}` has no value: the variable {name} is not set"
                    ))
                })?;
                store.insert_value(id, value);
            }
            (None, None) => {
                match std::env::var(id) {
                    Ok(value) if kind != Some("file") => store.insert_value(id, value),
                    _ if std::path::Path::new(id).is_file() => store.insert_file(id, id),
                    _ => {
                        return Err(CliError::input(format!("the secret `{id}` has no value"))
                        .hint(format!("give it one: --secret id={id},src=FILE or --secret id={id},env=NAME")));
                    }
                }
            }
        }
    }
    Ok(store)
}

/// `HOST:IP` or `HOST=IP`, the address possibly in brackets;
/// `host-gateway` in its place is the address of this machine.
pub(crate) fn extra_host(text: &str) -> Result<(String, String), CliError> {
    let invalid = || CliError::input(format!("invalid --add-host `{text}`: expected HOST:IP"));
    let (host, address) =
        text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(invalid)?;
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if host.is_empty()
        || (address != "host-gateway" && address.parse::<std::net::IpAddr>().is_err())
    {
        return Err(invalid());
    }
    Ok((host.to_owned(), address.to_owned()))
}

fn network(text: &str) -> Result<parser::Network, CliError> {
    match text {
        "" | "default" => Ok(parser::Network::Default),
        "none" => Ok(parser::Network::None),
        "host" => Ok(parser::Network::Host),
        _ => Err(CliError::input(format!("invalid network mode \"{text}\""))
            .hint("use default, none or host")),
    }
}

/// `network.host`, `security.insecure`, `device`, `device=NAME` and `device=NAME,alias=NAME`, split at
/// commas: an alias belongs to the device before it.
fn entitlements(
    texts: &[String],
    directories: Vec<PathBuf>,
) -> Result<(Vec<String>, Devices), CliError> {
    let (mut allow, mut devices) = (Vec::new(), Devices { directories, ..Devices::default() });
    for text in texts {
        match text.split_once('=') {
            None if matches!(text.as_str(), "network.host" | "security.insecure") => {
                allow.push(text.clone());
            }
            None if text == "device" => devices.all = true,
            Some(("device", "")) => devices.all = true,
            Some(("device", name)) => devices.granted.push(name.to_owned()),
            Some(("alias", alias)) if !devices.granted.is_empty() => {
                let name = devices.granted.pop().unwrap_or_default();
                devices.aliases.insert(alias.to_owned(), name);
            }
            _ => {
                return Err(CliError::input(format!("invalid entitlement: {text}"))
                    .hint("use network.host, security.insecure, device or device=NAME"));
            }
        }
    }
    Ok((allow, devices))
}

/// A size with a unit: `64m`, `1g`, `1048576`.
pub(crate) fn size(text: &str) -> Result<u64, CliError> {
    let invalid = || {
        CliError::input(format!("invalid size `{text}`"))
            .hint("write a number with b, k, m, g or t")
    };
    let lower = text.to_lowercase();
    let lower = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, shift) = match lower.chars().last() {
        Some('k') => (&lower[..lower.len() - 1], 10),
        Some('m') => (&lower[..lower.len() - 1], 20),
        Some('g') => (&lower[..lower.len() - 1], 30),
        Some('t') => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    let number: u64 = number.parse().map_err(|_| invalid())?;
    number.checked_mul(1 << shift).ok_or_else(invalid)
}

/// `NAME=SOFT[:HARD]`
fn ulimit(text: &str) -> Result<(String, i64, i64), CliError> {
    let invalid =
        || CliError::input(format!("invalid --ulimit `{text}`: expected NAME=SOFT[:HARD]"));
    let (name, limits) = text.split_once('=').ok_or_else(invalid)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| text.parse::<i64>().ok().filter(|n| *n >= -1).ok_or_else(invalid);
    Ok((name.to_owned(), number(soft)?, number(hard)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("64m", Some(64 << 20)),
            ("1g", Some(1 << 30)),
            ("7", Some(7)),
            ("2KiB", Some(2048)),
            ("x", None),
            ("", None),
            ("99999999999g", None),
        ] {
            assert_eq!(size(text).ok(), bytes, "{text}");
        }
    }

    #[test]
    fn hosts_are_a_name_and_an_address() {
        assert_eq!(extra_host("db:10.0.0.1").unwrap(), ("db".into(), "10.0.0.1".into()));
        assert_eq!(extra_host("db=[::1]").unwrap(), ("db".into(), "::1".into()));
        let gateway = extra_host("host.docker.internal:host-gateway").unwrap();
        assert_eq!(gateway, ("host.docker.internal".into(), "host-gateway".into()));
        assert!(extra_host("db:nowhere").is_err());
    }
}
