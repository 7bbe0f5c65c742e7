//! Keys: what makes two results interchangeable.
//!
//! | ingredient | fast key | slow key |
//! |---|---|---|
//! | exec: args, env (in order), cwd, user, host name, network, security, platform, ulimits, shm size, names of extra hosts | ✓ | ✓ |
//! | exec: mount targets and kinds; of cache mounts all but id and sharing; the source path of a writable bind | ✓ | ✓ |
//! | file: destinations, owner, mode, flags, patterns, fixed times | ✓ | ✓ |
//! | file: sources: their last name, nothing of a pattern, all of it with `parents` | ✓ | ✓ |
//! | image: its diff ids | ✓ | – |
//! | HTTP: checksum (or what the server says), file name, mode, owner | ✓ | – |
//! | git: commit, subdirectory, flags; the reference where `.git` is kept | ✓ | – |
//! | inline files: paths, modes, bytes | ✓ | – |
//! | number and roles of the inputs | ✓ | ✓ |
//! | input that is a context: content of the selected paths | ✓ | ✓ |
//! | any other input: its fast key, output, selector | ✓ | – |
//! | any other input: content of its layers, or of the selected paths | – | ✓ |
//! | image name, tag, manifest and config digest, layer compression; URL | – | – |
//! | step name, span, stage, progress group, `no_cache` | – | – |
//! | proxy variables, addresses of extra hosts, secrets, content of cache mounts, tmpfs sizes | – | – |
//! | ignore file, walk order, inode, mtime | – | – |
//!
//! The fast key is known before anything is executed; the slow key when the inputs are there. Both
//! are made of named parts by the same functions that list the [`Ingredient`]s, so nothing can be
//! in a key without a name that a later build can compare. `golden_values` holds the format fixed:
//! changing it means a new version in the domains below and a cold cache for everybody.
//!
//! There is no vertex digest besides: two vertices that are equal have equal fast keys, and the
//! scheduler runs each key once.

use std::fmt::{self, Write};

use cache::hash::{Fingerprint, FingerprintBuilder};
use cache::index::{CacheKey, Ingredient};
use serde::Serialize;

use crate::llb::{
    ChmodSpec, CopyAction, ExecMount, ExecOp, FileAction, FileOp, GitSource, HttpSource, InputRole,
    MkdirAction, MountKind, NetworkMode, Op, SecurityMode, Selector, SourceOp, Unpack, Vertex,
};
use crate::worker::Content;

/// What the key of a vertex takes from one of its inputs.
#[derive(Debug, Clone, Copy)]
pub enum InputKey<'a> {
    /// The input's own fast key.
    Chained {
        /// The fast key of the vertex.
        key: CacheKey,
        /// Which of its outputs.
        output: usize,
        /// The part that is read, where not everything is.
        selector: Option<&'a Selector>,
    },
    /// The content of the selected paths, for inputs that have no history.
    Content(&'a Content),
}

/// The digest of an op and of how it reads its inputs, whatever those are:
/// [`cache::index::Record::op`].
pub fn op_digest(vertex: &Vertex) -> Fingerprint {
    let mut builder = FingerprintBuilder::new("strake op v1");
    op_parts(vertex, &mut |part, value| builder.add(part, value.as_bytes()));
    builder.finish()
}

/// The fast key of an op over `inputs`. `identity` is what an unpinned source is at present.
pub fn fast(op: Fingerprint, identity: Option<&Content>, inputs: &[InputKey<'_>]) -> CacheKey {
    let mut builder = FingerprintBuilder::new("strake fast key v1");
    builder.add("op", op.as_bytes());
    input_parts(identity, inputs, &mut |part, value| builder.add(part, value.as_bytes()));
    CacheKey(builder.finish())
}

/// The slow key of an op over the contents of its inputs, in their order.
pub fn slow(op: Fingerprint, contents: &[Fingerprint]) -> CacheKey {
    let mut builder = FingerprintBuilder::new("strake slow key v1");
    builder.add("op", op.as_bytes());
    for content in contents {
        builder.add("content", content.as_bytes());
    }
    CacheKey(builder.finish())
}

/// The key under which the newest record of an op stands, whatever its inputs were.
pub(crate) fn latest(op: Fingerprint) -> CacheKey {
    CacheKey(FingerprintBuilder::new("strake latest of op v1").field("op", op.as_bytes()).finish())
}

/// The content of the empty tree.
pub(crate) fn empty_tree() -> Fingerprint {
    FingerprintBuilder::new("strake empty tree v1").finish()
}

/// The content of a part of inline files, whose bytes are in their key.
pub(crate) fn inline_content(key: CacheKey, selector: Option<&Selector>) -> Fingerprint {
    FingerprintBuilder::new("strake inline content v1")
        .field("files", key.0.as_bytes())
        .field("selector", json(&selector).as_bytes())
        .finish()
}

/// What a source is asked for with, tag and URL included: equal ones are asked once a solve.
pub(crate) fn source_digest(source: &SourceOp) -> Fingerprint {
    let builder = FingerprintBuilder::new("strake source v1");
    match source {
        SourceOp::Context(context) => builder
            .field("context", context.name.as_bytes())
            .field("excludes", json(&context.excludes).as_bytes()),
        SourceOp::Http(http) => builder
            .field("http", http.url.as_bytes())
            .field("file", json(&(&http.filename, http.mode, http.uid, http.gid)).as_bytes()),
        SourceOp::Git(git) => builder
            .field("git", git.url.as_bytes())
            .field("reference", json(&(&git.reference, &git.checksum)).as_bytes())
            .field("subdir", json(&git.subdir).as_bytes())
            .field("flags", json(&(git.keep_git_dir, git.submodules, git.commit_time)).as_bytes()),
        SourceOp::Image(_) | SourceOp::Inline { .. } | SourceOp::Scratch => builder,
    }
    .finish()
}

/// Whether a source must be asked what it is at present before it has a key.
pub(crate) fn needs_identity(op: &Op) -> bool {
    match op {
        Op::Source(SourceOp::Http(http)) => http.checksum.is_none(),
        Op::Source(SourceOp::Git(git)) => pinned_commit(git).is_none(),
        _ => false,
    }
}

/// All parts of the fast key of a vertex, in the order in which they enter it.
pub fn ingredients(
    vertex: &Vertex,
    identity: Option<&Content>,
    inputs: &[InputKey<'_>],
) -> Vec<Ingredient> {
    let mut parts = Vec::new();
    let mut push = |part: &str, value: &str| {
        parts.push(Ingredient { part: part.to_owned(), value: value.to_owned() });
    };
    op_parts(vertex, &mut push);
    input_parts(identity, inputs, &mut push);
    parts
}

/// [`ingredients`], and [`content_ingredients`] behind them.
pub(crate) fn all_ingredients(
    vertex: &Vertex,
    identity: Option<&Content>,
    inputs: &[InputKey<'_>],
) -> Vec<Ingredient> {
    let mut parts = ingredients(vertex, identity, inputs);
    parts.extend(content_ingredients(identity, inputs));
    parts
}

/// The most parts of one content that a record keeps: enough to name the changed file in any tree
/// that a person would look through, small enough for a row.
const CONTENT_PARTS: usize = 4096;

/// The parts of contents that entered the key only as one fingerprint, by the input they are of.
pub fn content_ingredients(identity: Option<&Content>, inputs: &[InputKey<'_>]) -> Vec<Ingredient> {
    let mut parts = Vec::new();
    let mut list = |prefix: String, content: &Content| {
        let kept = content.ingredients.iter().take(CONTENT_PARTS);
        parts.extend(kept.map(|ingredient| Ingredient {
            part: format!("{prefix}.{}", ingredient.part),
            value: ingredient.value.clone(),
        }));
        if let Some(omitted @ 1..) = content.ingredients.len().checked_sub(CONTENT_PARTS) {
            let value = omitted.to_string();
            parts.push(Ingredient { part: format!("{prefix}.omitted"), value });
        }
    };
    if let Some(content) = identity {
        list("identity".to_owned(), content);
    }
    for (index, input) in inputs.iter().enumerate() {
        if let InputKey::Content(content) = input {
            list(format!("input.{index}"), content);
        }
    }
    parts
}

/// The part of a record that names the tree an input was. In no key.
pub(crate) fn tree_part(input: usize) -> String {
    format!("{TREE}{input}")
}

/// The part of a record that holds the content of an input, where it was known. Not in the fast
/// key.
pub(crate) fn content_part(input: usize) -> String {
    format!("{CONTENT}{input}")
}

/// The part of a record that names what of the tree was read, where that is not all. In no key.
pub(crate) fn read_part(input: usize) -> String {
    format!("{READ}{input}")
}

/// Whether a part of a record is only there to find or compare trees, and says nothing about why a
/// key differs.
pub(crate) fn is_bookkeeping(part: &str) -> bool {
    [TREE, CONTENT, READ].iter().any(|prefix| part.starts_with(prefix))
}

/// The input whose tree a part names.
pub(crate) fn tree_of(part: &str) -> Option<usize> {
    part.strip_prefix(TREE)?.parse().ok()
}

/// Whether a part holds the content of an input.
pub(crate) fn is_content(part: &str) -> bool {
    part.starts_with(CONTENT)
}

const TREE: &str = "tree.";
const CONTENT: &str = "content.";
const READ: &str = "read.";

/// Takes a named part. The name is what `why` shows.
type Sink<'a> = &'a mut dyn FnMut(&str, &str);

/// Names parts without an allocation for each.
struct Parts<'a> {
    name: String,
    prefix: usize,
    sink: Sink<'a>,
}

impl<'a> Parts<'a> {
    fn new(sink: Sink<'a>) -> Parts<'a> {
        Parts { name: String::with_capacity(32), prefix: 0, sink }
    }

    /// The same, for parts whose names begin with `prefix`.
    fn below(&mut self, prefix: fmt::Arguments<'_>) -> &mut Self {
        self.name.clear();
        // Writing to a string never fails.
        let _ = self.name.write_fmt(prefix);
        self.prefix = self.name.len();
        self
    }

    fn add(&mut self, part: &str, value: &str) {
        self.name.truncate(self.prefix);
        self.name.push_str(part);
        (self.sink)(&self.name, value);
    }

    fn add_json(&mut self, part: &str, value: &impl Serialize) {
        self.add(part, &json(value));
    }

    /// Adds a part only where it says something: absent means `false`.
    fn add_if(&mut self, part: &str, present: bool) {
        if present {
            self.add(part, "true");
        }
    }
}

fn op_parts(vertex: &Vertex, sink: Sink<'_>) {
    match &vertex.op {
        Op::Source(source) => source_parts(source, sink),
        Op::Exec(exec) => exec_parts(exec, sink),
        Op::File(file) => file_parts(file, sink),
        Op::Merge(_) => sink("op", "merge"),
    }
    if !vertex.inputs.is_empty() {
        let mut roles = String::new();
        for input in &vertex.inputs {
            roles.push_str(if roles.is_empty() { "" } else { " " });
            roles.push_str(match input.role {
                InputRole::Rootfs => "rootfs",
                InputRole::Content(_) => "content",
                InputRole::Whole => "whole",
            });
        }
        sink("inputs", &roles);
    }
}

fn input_parts(identity: Option<&Content>, inputs: &[InputKey<'_>], sink: Sink<'_>) {
    if let Some(content) = identity {
        sink("identity", &content.fingerprint.to_string());
    }
    let (mut name, mut value) = (String::with_capacity(32), String::with_capacity(80));
    for (index, input) in inputs.iter().enumerate() {
        name.clear();
        let _ = write!(name, "input.{index}");
        match input {
            InputKey::Content(content) => sink(&name, &content.fingerprint.to_string()),
            InputKey::Chained { key, output, selector } => {
                value.clear();
                let _ = write!(value, "{}#{output}", key.0);
                sink(&name, &value);
                if let Some(selector) = selector {
                    name.push_str(".selector");
                    sink(&name, &json(selector));
                }
            }
        }
    }
}

fn source_parts(source: &SourceOp, sink: Sink<'_>) {
    match source {
        SourceOp::Image(image) => {
            sink("op", "image");
            sink("layers", &json(&image.diff_ids));
        }
        // A context has no key of its own: only selected parts of it have.
        SourceOp::Context(context) => {
            sink("op", "context");
            sink("name", &context.name);
        }
        SourceOp::Http(http) => http_parts(http, sink),
        SourceOp::Git(git) => git_parts(git, sink),
        SourceOp::Inline { files } => {
            sink("op", "inline");
            for file in files {
                let content = Fingerprint::of(&file.content);
                sink(&format!("file:/{}", file.path), &format!("{:04o} {content}", file.mode));
            }
        }
        SourceOp::Scratch => sink("op", "scratch"),
    }
}

fn http_parts(http: &HttpSource, sink: Sink<'_>) {
    sink("op", "http");
    if let Some(checksum) = &http.checksum {
        sink("checksum", &checksum.to_string());
    }
    sink("filename", &http.filename);
    sink("mode", &format!("{:04o}", http.mode));
    sink("owner", &format!("{}:{}", http.uid, http.gid));
}

fn git_parts(git: &GitSource, sink: Sink<'_>) {
    sink("op", "git");
    if let Some(commit) = pinned_commit(git) {
        sink("commit", commit);
    }
    let mut parts = Parts::new(sink);
    if let Some(subdir) = &git.subdir {
        parts.add("subdir", subdir);
    }
    if git.keep_git_dir {
        parts.add_json("keep_git_dir", &git.reference);
    }
    parts.add_if("submodules", git.submodules);
    parts.add_if("commit_time", git.commit_time);
}

/// The commit, where the reference is one in full and so cannot move.
fn pinned_commit(git: &GitSource) -> Option<&str> {
    let commit = git.reference.as_deref()?;
    let full = commit.len() == 40 && commit.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let agrees = git.checksum.as_deref().is_none_or(|checksum| commit.starts_with(checksum));
    (full && agrees).then_some(commit)
}

fn exec_parts(exec: &ExecOp, sink: Sink<'_>) {
    let mut parts = Parts::new(sink);
    parts.add("op", "exec");
    parts.add_json("args", &exec.args);
    let env = parts.below(format_args!("env."));
    for (name, value) in exec.env.iter() {
        env.add(name, value);
    }
    for secret in &exec.secret_env {
        env.add(&secret.name, &format!("secret {} required={}", json(&secret.id), secret.required));
    }
    let whole = parts.below(format_args!(""));
    whole.add("cwd", &exec.cwd);
    whole.add("user", &exec.user);
    whole.add("platform", &exec.platform.to_string());
    if let Some(version) = &exec.platform.os_version {
        whole.add("platform.os_version", version);
    }
    if let Some(hostname) = &exec.hostname {
        whole.add("hostname", hostname);
    }
    if exec.network != NetworkMode::Default {
        whole.add_json("network", &exec.network);
    }
    if exec.security != SecurityMode::Sandbox {
        whole.add_json("security", &exec.security);
    }
    if let Some(size) = exec.shm_size {
        whole.add("shm_size", &size.to_string());
    }
    let ulimits = parts.below(format_args!("ulimit."));
    for limit in &exec.ulimits {
        ulimits.add(&limit.name, &format!("{}:{}", limit.soft, limit.hard));
    }
    let devices = parts.below(format_args!("device."));
    for device in &exec.devices {
        devices.add(&device.name, &format!("required={}", device.required));
    }
    let hosts = parts.below(format_args!("host."));
    for host in &exec.extra_hosts {
        hosts.add(&host.name, "");
    }
    let mounts = parts.below(format_args!("mount."));
    for mount in &exec.mounts {
        mounts.add(&mount.target, &mount_value(mount));
    }
}

fn mount_value(mount: &ExecMount) -> String {
    match &mount.kind {
        MountKind::Bind { input, writable: false, .. } => format!("bind input={input}"),
        MountKind::Bind { input, source, writable: true } => {
            format!("bind input={input} writable source={}", json(source))
        }
        MountKind::Cache { id: _, sharing: _, input, mode, uid, gid, readonly } => {
            let start = json(input);
            format!("cache mode={mode:04o} owner={uid}:{gid} readonly={readonly} start={start}")
        }
        MountKind::Tmpfs { size: _, readonly: false } => "tmpfs".to_owned(),
        MountKind::Tmpfs { size: _, readonly: true } => "tmpfs readonly".to_owned(),
        MountKind::Secret { id, required, mode, uid, gid, env, file } => format!(
            "secret id={} required={required} mode={mode:04o} owner={uid}:{gid} env={} file={file}",
            json(id),
            json(env)
        ),
        MountKind::Ssh { id, required, mode, uid, gid } => {
            format!("ssh id={} required={required} mode={mode:04o} owner={uid}:{gid}", json(id))
        }
    }
}

fn file_parts(file: &FileOp, sink: Sink<'_>) {
    let mut parts = Parts::new(sink);
    parts.add("op", "file");
    for (index, action) in file.actions.iter().enumerate() {
        match action {
            FileAction::Copy(copy) => {
                copy_parts(copy, parts.below(format_args!("copy.{index}.")));
            }
            FileAction::Mkdir(mkdir) => {
                mkdir_parts(mkdir, parts.below(format_args!("mkdir.{index}.")));
            }
        }
    }
}

fn copy_parts(copy: &CopyAction, parts: &mut Parts<'_>) {
    parts.add("input", &copy.input.to_string());
    parts.add_json("sources", &source_names(copy));
    parts.add("dest", &copy.dest);
    if let Some(owner) = &copy.owner {
        parts.add_json("owner", owner);
    }
    match &copy.mode {
        None => {}
        Some(ChmodSpec::Octal(mode)) => parts.add("mode", &format!("{mode:04o}")),
        Some(ChmodSpec::Symbolic(mode)) => parts.add("mode", mode),
    }
    if copy.unpack != Unpack::No {
        parts.add_json("unpack", &copy.unpack);
    }
    if !copy.exclude.is_empty() {
        parts.add_json("exclude", &copy.exclude);
    }
    parts.add_if("wildcard", copy.wildcard);
    parts.add_if("parents", copy.parents);
    parts.add_if("from_context", copy.from_context);
    parts.add_if("optional", !copy.required);
    parts.add_if("link", copy.link);
    if let Some(created) = copy.created {
        parts.add("created", &created.to_string());
    }
}

/// What of the source paths can show in the result: content fingerprints hold the rest.
fn source_names(copy: &CopyAction) -> Vec<&str> {
    let pattern = |source: &str| copy.wildcard && source.contains(['*', '?', '[', '\\']);
    let shown = copy.sources.iter().map(|source| {
        let path = source.trim_end_matches('/');
        match path.rfind('/') {
            _ if copy.parents => source.as_str(),
            _ if pattern(source) => "",
            Some(slash) => &path[slash + 1..],
            None => path,
        }
    });
    shown.collect()
}

fn mkdir_parts(mkdir: &MkdirAction, parts: &mut Parts<'_>) {
    parts.add("path", &mkdir.path);
    parts.add("mode", &format!("{:04o}", mkdir.mode));
    if let Some(owner) = &mkdir.owner {
        parts.add_json("owner", owner);
    }
    parts.add_if("parents", mkdir.parents);
    if let Some(created) = mkdir.created {
        parts.add("created", &created.to_string());
    }
}

/// JSON as an unambiguous spelling. Only lists, tuples, strings, numbers and structs with a fixed
/// field order come here: no maps, whose order would depend on the build of `serde_json`.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| unreachable!("plain data: {error}"))
}

#[cfg(test)]
mod tests;
