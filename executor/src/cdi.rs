//! `RUN --device`: what the Container Device Interface says of this machine's devices.
//!
//! Specifications are files (`*.json`, `*.yaml`) in [`DIRECTORIES`]; a later directory counts more.
//! A device is named `vendor/class=name`; a request may also be `vendor/class` (its first device),
//! `vendor/class=*` (all of them) or a class that annotations give, as in BuildKit. What a device
//! asks for becomes mounts, variables and groups of the step. What a step cannot have refuses the
//! device with the reason: hooks (programs that would run as us on this machine), interfaces of
//! this machine's network, classes of Intel RDT, a node that may only be read, groups where ids are
//! not this machine's. A file of a version or with a field that we do not know counts as broken, as
//! it does to CDI's own library: it may ask for what we would leave out.
//!
//! Files: <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use solver::llb::DeviceRequest;
use yaml_rust2::{Yaml, YamlLoader};

use runtime::Identity;

use crate::{ExecutorError, MountSource, ProcessMount};

/// Where specifications lie unless the user says otherwise; the last is BuildKit's.
pub const DIRECTORIES: [&str; 3] = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"];

/// The versions of the format.
const VERSIONS: [&str; 10] =
    ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

const CLASS: &str = "org.mobyproject.buildkit.device.class";
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// A specification of all GPUs of a big machine has some 100 kB.
const MAX_FILE: u64 = 4 << 20;
const MAX_FILES: usize = 1000;
/// A specification needs six.
const MAX_DEPTH: u32 = 32;

/// Where devices are described, and which of them a build may have.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    /// The directories of specifications, least important first; empty means [`DIRECTORIES`].
    pub directories: Vec<PathBuf>,
    /// Every device is allowed.
    pub all: bool,
    /// Devices that are allowed, as a request names them.
    pub granted: Vec<String>,
    /// Devices that are allowed under another name: what the Dockerfile says, and what is meant.
    pub aliases: BTreeMap<String, String>,
}

/// What devices ask for.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    pub(crate) env: Vec<(String, String)>,
    pub(crate) mounts: Vec<ProcessMount>,
    /// Groups that the process is in as well.
    pub(crate) gids: Vec<u32>,
    /// Optional devices that this machine does not have.
    pub(crate) missing: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Specification {
    #[serde(rename = "cdiVersion")]
    version: String,
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default, rename = "containerEdits")]
    edits: ContainerEdits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default, rename = "containerEdits")]
    edits: ContainerEdits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct ContainerEdits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    mounts: Vec<Mount>,
    hooks: Vec<IgnoredAny>,
    net_devices: Vec<IgnoredAny>,
    intel_rdt: Option<IgnoredAny>,
    additional_gids: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeviceNode {
    path: String,
    host_path: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<u32>,
    minor: Option<u32>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// A device with what holds for its whole specification.
struct Known<'s> {
    specification: &'s Specification,
    device: &'s Device,
}

impl Known<'_> {
    fn annotation(&self, key: &str) -> Option<&str> {
        let own = self.device.annotations.get(key);
        own.or_else(|| self.specification.annotations.get(key)).map(String::as_str)
    }
}

/// The devices of this machine by their full name.
type Registry<'s> = BTreeMap<String, Known<'s>>;

impl Devices {
    /// What the devices that a step wants ask for. `identity` is who runs the step.
    pub(crate) fn edits(
        &self,
        wanted: &[DeviceRequest],
        identity: &Identity,
    ) -> Result<Edits, ExecutorError> {
        let mut edits = Edits::default();
        if wanted.is_empty() {
            return Ok(edits);
        }
        let (specifications, broken) = self.read()?;
        let registry = registry(&specifications);
        let granted: Vec<String> =
            self.granted.iter().flat_map(|name| resolve(&registry, name)).collect();
        let mut taken: Vec<String> = Vec::new();
        for request in wanted {
            let alias = self.aliases.get(&request.name);
            let names = resolve(&registry, alias.unwrap_or(&request.name));
            if names.is_empty() && request.required {
                return Err(not_registered(&request.name, &registry, broken.first()));
            }
            if names.is_empty() {
                edits.missing.push(request.name.clone());
            }
            for name in names {
                let is_auto = registry[&name].annotation(AUTO_ALLOW).is_some_and(is_true);
                if !(self.all || alias.is_some() || is_auto || granted.contains(&name)) {
                    let reason = format!(
                        "device {name} is requested by the build but not allowed: allow it with `--allow device={name}`"
                    );
                    return Err(ExecutorError::Device { reason });
                }
                if !taken.contains(&name) {
                    taken.push(name);
                }
            }
        }
        for name in taken {
            let known = &registry[&name];
            for part in [&known.specification.edits, &known.device.edits] {
                add(&mut edits, &name, part, identity)?;
            }
        }
        Ok(edits)
    }

    /// All specifications, the most important last, and what is wrong with the others.
    fn read(&self) -> Result<(Vec<Specification>, Vec<String>), ExecutorError> {
        let usual = DIRECTORIES.map(PathBuf::from);
        let directories = match self.directories.is_empty() {
            true => &usual[..],
            false => &self.directories,
        };
        let (mut found, mut broken) = (Vec::new(), Vec::new());
        for directory in directories {
            let entries = match fs_err::read_dir(directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(ExecutorError::file("list", directory)(error)),
            };
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.retain(|path| {
                path.extension()
                    .is_some_and(|kind| ["json", "yaml", "yml"].iter().any(|k| kind == *k))
            });
            paths.sort();
            for path in paths.into_iter().take(MAX_FILES) {
                match parse(&path) {
                    Ok(specification) => found.push(specification),
                    Err(reason) => broken.push(format!("{}: {reason}", path.display())),
                }
            }
        }
        Ok((found, broken))
    }
}

/// JSON is YAML as well, but not to every reader.
fn parse(path: &Path) -> Result<Specification, String> {
    let size = fs_err::metadata(path).map_err(|error| error.to_string())?.len();
    if size > MAX_FILE {
        return Err(format!("it has more than {MAX_FILE} bytes"));
    }
    let text = fs_err::read_to_string(path).map_err(|error| error.to_string())?;
    let value = match path.extension() {
        Some(kind) if kind == "json" => {
            serde_json::from_str(&text).map_err(|error| error.to_string())?
        }
        _ => {
            let documents = YamlLoader::load_from_str(&text).map_err(|error| error.to_string())?;
            match &documents[..] {
                [document] => json(document, 0).ok_or("it is nested too deeply")?,
                _ => return Err("it has not one document".to_owned()),
            }
        }
    };
    let parsed: Specification = serde_json::from_value(value).map_err(|error| error.to_string())?;
    // CDI's library takes a version with and without a `v`.
    if !VERSIONS.contains(&parsed.version.trim_start_matches('v')) {
        return Err(format!("its cdiVersion `{}` is not known", parsed.version));
    }
    match parsed.kind.split_once('/') {
        Some((vendor, class)) if !vendor.is_empty() && !class.is_empty() => Ok(parsed),
        _ => Err(format!("`{}` is no kind: it is written VENDOR/CLASS", parsed.kind)),
    }
}

/// The document with JSON's kinds of values. A key that is no text cannot be one of a specification
/// and is left out.
fn json(yaml: &Yaml, depth: u32) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    Some(match yaml {
        Yaml::String(text) | Yaml::Real(text) => Value::from(text.as_str()),
        Yaml::Integer(number) => Value::from(*number),
        Yaml::Boolean(value) => Value::from(*value),
        Yaml::Array(values) => {
            Value::Array(values.iter().map(|value| json(value, depth + 1)).collect::<Option<_>>()?)
        }
        Yaml::Hash(entries) => {
            let mut object = serde_json::Map::new();
            for (key, value) in entries {
                if let Yaml::String(key) = key {
                    object.insert(key.clone(), json(value, depth + 1)?);
                }
            }
            Value::Object(object)
        }
        Yaml::Alias(_) | Yaml::Null | Yaml::BadValue => Value::Null,
    })
}

fn registry(specifications: &[Specification]) -> Registry<'_> {
    let mut registry = Registry::new();
    for specification in specifications {
        for device in &specification.devices {
            let name = format!("{}={}", specification.kind, device.name);
            registry.insert(name, Known { specification, device });
        }
    }
    registry
}

/// The full names that a request means.
fn resolve(registry: &Registry<'_>, wanted: &str) -> Vec<String> {
    let of_kind = |kind: &str| {
        let prefix = format!("{kind}=");
        registry.keys().filter(move |name| name.starts_with(&prefix)).cloned()
    };
    let found: Vec<String> = match wanted.split_once('=') {
        _ if !wanted.contains('/') => Vec::new(),
        None | Some((_, "")) => of_kind(wanted.trim_end_matches('=')).take(1).collect(),
        Some((kind, "*")) => of_kind(kind).collect(),
        Some(_) => {
            registry.get_key_value(wanted).map(|(name, _)| name.clone()).into_iter().collect()
        }
    };
    if !found.is_empty() {
        return found;
    }
    let of_class = |known: &Known<'_>| known.annotation(CLASS) == Some(wanted);
    registry.iter().filter(|(_, known)| of_class(known)).map(|(name, _)| name.clone()).collect()
}

fn not_registered(name: &str, registry: &Registry<'_>, broken: Option<&String>) -> ExecutorError {
    let mut reason = format!("required device \"{name}\" is not registered");
    if let Some(near) = crate::error::near(name, registry.keys().map(String::as_str)).first() {
        reason.push_str(&format!(": did you mean `{near}`?"));
    } else if let Some(broken) = broken {
        reason.push_str(&format!("; a specification cannot be read: {broken}"));
    } else if registry.is_empty() {
        reason.push_str(&format!(": no device is described in {}", DIRECTORIES.join(", ")));
    }
    ExecutorError::Device { reason }
}

fn add(
    edits: &mut Edits,
    name: &str,
    wanted: &ContainerEdits,
    identity: &Identity,
) -> Result<(), ExecutorError> {
    let refuse = |what: &str| {
        let reason = format!("device {name} wants {what}, which builds here cannot give");
        Err(ExecutorError::Device { reason })
    };
    if !wanted.hooks.is_empty() {
        return refuse("hooks (programs that run outside the container)");
    }
    if !wanted.net_devices.is_empty() {
        return refuse("network devices of this machine");
    }
    if wanted.intel_rdt.is_some() {
        return refuse("a class of Intel RDT");
    }
    // 0 says nothing, as in CDI's library.
    for &gid in wanted.additional_gids.iter().filter(|gid| **gid != 0) {
        // In a user namespace the number would be another group than the one that owns the device.
        if *identity != Identity::Root {
            return refuse(&format!(
                "the group {gid} of this machine, which only root's builds have: run as root, so it"
            ));
        }
        if !edits.gids.contains(&gid) {
            edits.gids.push(gid);
        }
    }
    for entry in &wanted.env {
        let Some((key, value)) = entry.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return refuse(&format!("the variable `{entry}`"));
        };
        edits.env.push((key.to_owned(), value.to_owned()));
    }
    for node in &wanted.device_nodes {
        let source = node_of_this_machine(name, node)?;
        let (target, readonly) = (node.path.clone(), false);
        let source = MountSource::Bind(source, vec!["dev"]);
        edits.mounts.push(ProcessMount { target, source, readonly });
    }
    for mount in &wanted.mounts {
        let (mut readonly, mut further) = (false, Vec::new());
        for option in &mount.options {
            match option.as_str() {
                "ro" => readonly = true,
                "nosuid" => further.push("nosuid"),
                "nodev" => further.push("nodev"),
                "noexec" => further.push("noexec"),
                // How such mounts are made here; the device says no more than that.
                "rw" | "bind" | "rbind" | "private" | "rprivate" => {}
                other => return refuse(&format!("a mount with the option `{other}`")),
            }
        }
        let source = match mount.kind.as_deref() {
            Some("tmpfs") => MountSource::Tmpfs { size: None, mode: 0o1777 },
            None | Some("" | "bind" | "none") => {
                let path = PathBuf::from(&mount.host_path);
                if !path.exists() {
                    return refuse(&format!("`{}`, which is not there", mount.host_path));
                }
                MountSource::Bind(path, further)
            }
            Some(kind) => return refuse(&format!("a mount of type {kind}")),
        };
        let target = mount.container_path.clone();
        edits.mounts.push(ProcessMount { target, source, readonly });
    }
    Ok(())
}

/// The node is shown as it is on this machine, since an ordinary user can make none: what the
/// specification says of it has to be true.
fn node_of_this_machine(name: &str, node: &DeviceNode) -> Result<PathBuf, ExecutorError> {
    let path = PathBuf::from(node.host_path.as_ref().unwrap_or(&node.path));
    let failed = |reason: String| ExecutorError::Device {
        reason: format!("device {name} has the node `{}`, {reason}", path.display()),
    };
    // All that a step can do with a device stands in its node's mode; nothing here would keep it
    // from more. Whether it may make further nodes (`m`) follows from its capabilities.
    let permissions = node.permissions.as_deref().unwrap_or("");
    if let Some(other) = permissions.chars().find(|right| !"rwm".contains(*right)) {
        return Err(failed(format!("with the right `{other}`, which is none of r, w and m")));
    }
    let all = permissions.contains('r') && permissions.contains('w');
    if !permissions.is_empty() && !all {
        return Err(failed(format!(
            "which a step may use for `{permissions}` only, and builds here cannot keep it from more"
        )));
    }
    let meta = std::fs::metadata(&path).map_err(|error| failed(format!("but: {error}")))?;
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        kind if kind.is_fifo() => "p",
        _ => return Err(failed("which is no device on this machine".to_owned())),
    };
    let kind_wanted = node.kind.as_deref().map(|kind| if kind == "u" { "c" } else { kind });
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let differs = kind_wanted.is_some_and(|wanted| !wanted.is_empty() && wanted != kind)
        || node.major.is_some_and(|wanted| wanted != major)
        || node.minor.is_some_and(|wanted| wanted != minor);
    if differs {
        return Err(failed(format!("which is {kind} {major}:{minor} on this machine")));
    }
    let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
    let rights_differ = node.file_mode.is_some_and(|wanted| wanted & 0o7777 != mode)
        || node.uid.is_some_and(|wanted| wanted != uid)
        || node.gid.is_some_and(|wanted| wanted != gid);
    if rights_differ {
        return Err(failed(format!(
            "which has mode {mode:04o} and owner {uid}:{gid} here, and no other can be given to it"
        )));
    }
    Ok(path)
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "cdiVersion: \"0.6.0\"\nkind: \"example.com/card\"\nannotations:\n  \
        org.mobyproject.buildkit.device.class: graphics\ncontainerEdits:\n  env: [ALL=1]\ndevices:\n\
        - name: one\n  containerEdits:\n    env:\n    - CARD=one\n    deviceNodes:\n    - path: /dev/card\n      \
        hostPath: /dev/null\n- name: two\n  annotations:\n    \
        org.mobyproject.buildkit.device.autoallow: \"true\"\n  containerEdits:\n    env: [CARD=two]\n";
    const JSON: &str = r#"{"cdiVersion": "0.5.0", "kind": "other.org/thing", "devices": [
        {"name": "a", "containerEdits": {"hooks": [{"hookName": "poststop", "path": "/bin/x"}]}},
        {"name": "b", "containerEdits": {"deviceNodes": [{"path": "/dev/null", "major": 9}]}},
        {"name": "c", "containerEdits": {"mounts": [
            {"hostPath": "/etc", "containerPath": "/there", "options": ["ro", "rbind"]}]}}]}"#;

    fn devices() -> (tempfile::TempDir, Devices) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in
            [("card.yaml", YAML), ("other.json", JSON), ("broken.yaml", "kind: ["), ("x.txt", "")]
        {
            fs_err::write(dir.path().join(name), text).unwrap();
        }
        let directories = vec![dir.path().to_owned()];
        (dir, Devices { directories, all: true, ..Devices::default() })
    }

    fn want(name: &str, required: bool) -> Vec<DeviceRequest> {
        vec![DeviceRequest { name: name.to_owned(), required }]
    }

    #[test]
    fn a_request_names_a_device_a_kind_or_a_class() {
        let (_dir, devices) = devices();
        for (wanted, cards) in [
            ("example.com/card=one", "ALL=1 CARD=one"),
            ("example.com/card", "ALL=1 CARD=one"),
            ("example.com/card=*", "ALL=1 CARD=one ALL=1 CARD=two"),
            ("graphics", "ALL=1 CARD=one ALL=1 CARD=two"),
            ("example.com/card=three", ""),
            ("nothing", ""),
        ] {
            let edits = devices.edits(&want(wanted, false), &Identity::Root).unwrap();
            let env: Vec<String> =
                edits.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
            assert_eq!(env.join(" "), cards, "{wanted}");
            assert_eq!(edits.missing.is_empty(), !cards.is_empty(), "{wanted}");
        }
    }

    #[test]
    fn nodes_and_mounts_are_mounts_of_the_step() {
        let (_dir, devices) = devices();
        let edits = devices.edits(&want("example.com/card=one", true), &Identity::Root).unwrap();
        let [node] = &edits.mounts[..] else { panic!("{edits:?}") };
        assert_eq!((node.target.as_str(), node.readonly), ("/dev/card", false));
        let MountSource::Bind(path, options) = &node.source else { panic!("{node:?}") };
        assert_eq!((path.as_path(), &options[..]), (Path::new("/dev/null"), &["dev"][..]));
        let edits = devices.edits(&want("other.org/thing=c", true), &Identity::Root).unwrap();
        assert!(edits.mounts[0].readonly);
    }

    #[test]
    fn what_cannot_be_given_is_refused_by_name() {
        let (_dir, mut devices) = devices();
        let mut refused = |name: &str, all: bool, part: &str| {
            devices.all = all;
            let error = devices.edits(&want(name, true), &Identity::Root).unwrap_err().to_string();
            assert!(error.contains(part), "{name}: {error}");
        };
        refused("other.org/thing=a", true, "wants hooks");
        refused("other.org/thing=b", true, "is c 1:3 on this machine");
        refused("example.com/card=onf", true, "did you mean `example.com/card=one`?");
        refused("nowhere", true, "broken.yaml");
        refused("example.com/card=one", false, "--allow device=example.com/card=one");
    }

    #[test]
    fn a_device_is_allowed_by_name_alias_or_annotation() {
        let (_dir, mut devices) = devices();
        devices.all = false;
        devices.edits(&want("example.com/card=two", true), &Identity::Root).unwrap();
        devices.granted = vec!["example.com/card=one".to_owned()];
        devices.edits(&want("example.com/card", true), &Identity::Root).unwrap();
        devices.granted.clear();
        devices.aliases.insert("mine".to_owned(), "example.com/card=one".to_owned());
        assert_eq!(devices.edits(&want("mine", true), &Identity::Root).unwrap().mounts.len(), 1);
    }

    /// A device with these edits.
    fn edited(edits: &str, identity: &Identity) -> Result<Edits, ExecutorError> {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            r#"{{"cdiVersion": "1.1.0", "kind": "a.org/b",
                "devices": [{{"name": "c", "containerEdits": {edits}}}]}}"#
        );
        fs_err::write(dir.path().join("a.json"), text).unwrap();
        let directories = vec![dir.path().to_owned()];
        let devices = Devices { directories, all: true, ..Devices::default() };
        devices.edits(&want("a.org/b=c", true), identity)
    }

    #[test]
    fn rights_that_cannot_be_kept_refuse_the_device() {
        let node = |permissions: &str| {
            let edits = format!(
                r#"{{"deviceNodes": [{{"path": "/dev/null", "permissions": "{permissions}"}}]}}"#
            );
            edited(&edits, &Identity::Root).map(|edits| edits.mounts.len())
        };
        for all in ["", "rw", "rwm", "mwr"] {
            assert_eq!(node(all).unwrap(), 1, "{all}");
        }
        for (less, part) in [("r", "for `r` only"), ("wm", "for `wm` only"), ("rwx", "right `x`")] {
            let error = node(less).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn groups_are_given_where_they_are_those_of_this_machine() {
        let edits = r#"{"additionalGids": [44, 0, 44, 109]}"#;
        assert_eq!(edited(edits, &Identity::Root).unwrap().gids, [44, 109]);
        let ranges = Identity::Ranges { uids: Vec::new(), gids: Vec::new() };
        let error = edited(edits, &ranges).unwrap_err().to_string();
        assert!(error.contains("the group 44 of this machine"), "{error}");
        assert!(edited(r#"{"additionalGids": [0]}"#, &ranges).unwrap().gids.is_empty());
    }

    #[test]
    fn options_of_mounts_are_kept_or_refuse_the_device() {
        let mount = |options: &str| {
            let edits = format!(
                r#"{{"mounts": [{{"hostPath": "/etc", "containerPath": "/x", "options": [{options}]}}]}}"#
            );
            edited(&edits, &Identity::Root)
        };
        let edits = mount(r#""ro", "nosuid", "nodev", "rbind", "rprivate""#).unwrap();
        assert!(edits.mounts[0].readonly);
        let MountSource::Bind(_, further) = &edits.mounts[0].source else { panic!("{edits:?}") };
        assert_eq!(further[..], ["nosuid", "nodev"]);
        let error = mount(r#""rshared""#).unwrap_err().to_string();
        assert!(error.contains("a mount with the option `rshared`"), "{error}");
    }

    #[test]
    fn what_is_beside_the_container_is_refused() {
        for (edits, part) in [
            (r#"{"netDevices": [{"hostInterfaceName": "eth0", "name": "eth0"}]}"#, "network"),
            (r#"{"intelRdt": {"closID": "x"}}"#, "Intel RDT"),
            (r#"{"hooks": [{"hookName": "poststop", "path": "/x"}]}"#, "hooks"),
            (r#"{"future": 1}"#, "unknown field `future`"),
            (r#"{"deviceNodes": [{"path": "/dev/null", "future": 1}]}"#, "unknown field `future`"),
        ] {
            let error = edited(edits, &Identity::Root).unwrap_err().to_string();
            assert!(error.contains(part), "{edits}: {error}");
        }
    }

    #[test]
    fn a_specification_of_an_unknown_version_counts_as_broken() {
        let dir = tempfile::tempdir().unwrap();
        let parsed = |text: &str| {
            let path = dir.path().join("a.json");
            fs_err::write(&path, text).unwrap();
            parse(&path).map(|_| ())
        };
        assert_eq!(parsed(r#"{"cdiVersion": "v0.7.0", "kind": "a/b"}"#), Ok(()));
        let error = parsed(r#"{"cdiVersion": "9.0.0", "kind": "a/b"}"#).unwrap_err();
        assert_eq!(error, "its cdiVersion `9.0.0` is not known");
        let error = parsed(r#"{"kind": "a/b"}"#).unwrap_err();
        assert!(error.contains("cdiVersion"), "{error}");
    }
}
