//! The examples of `testdata/examples`, built, run, and compared with what buildah makes of them.
//!
//! What may differ from buildah stands in `testdata/examples/differences.json`, each with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;

use crate::oci::{Entry, Image, sha256};
use crate::sealed::{Identity, Sealed, base_image, has_ranges, repository, run};

/// How long a build that installs packages may take.
const INSTALLING: Duration = Duration::from_secs(900);

/// Copies an example to where the place's user can read it.
fn example(sealed: &Sealed, name: &str) -> String {
    let from = repository().join("testdata/examples").join(name);
    copy(&from, &sealed.path().join(name));
    sealed.path().join(name).display().to_string()
}

fn copy(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs_err::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn hello_builds_and_greets() {
    for &identity in Identity::all() {
        let sealed = Sealed::with_busybox(identity);
        let context = example(&sealed, "hello");
        sealed.strake(["build", "-t", "hello", &context]).success();
        assert_eq!(sealed.strake(["run", "--rm", "hello"]).success(), "HELLO, world!\n");
        let named = sealed.strake(["run", "--rm", "-e", "NAME=you", "hello"]);
        assert_eq!(named.success(), "HELLO, you!\n", "{identity:?}");
    }
}

#[test]
fn hello_is_what_buildah_builds() {
    if !has_ranges() {
        return;
    }
    let sealed = Sealed::with_busybox(Identity::Caller);
    compare_with_buildah(&sealed, "hello", "busybox", "docker.io/library/busybox:latest");
}

/// Needs the package registries: Debian's for the builder, PyPI for flask.
#[test]
fn flask_builds_and_answers() {
    if !has_ranges() {
        return;
    }
    let mut sealed = Sealed::new();
    sealed.pass_on_network();
    sealed.import("debian", "debian:bookworm");
    let context = example(&sealed, "flask");
    let build = ["build", "--progress=plain", "-t", "flask", &context];
    sealed.strake_within(INSTALLING, build).success();

    let server = Server::start(&sealed);
    let (head, body) = server.get("/");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(body.starts_with("hello from uid ") && !body.contains("uid 0"), "{body}");
    assert_eq!(server.get("/health").1, "ok\n");
    server.stop();

    compare_with_buildah(&sealed, "flask", "debian", "docker.io/library/debian:bookworm");
}

/// Needs Debian's package registry.
#[test]
fn rust_static_builds_and_counts() {
    if !has_ranges() {
        return;
    }
    let mut sealed = Sealed::new();
    sealed.pass_on_network();
    sealed.import("debian", "debian:bookworm");
    let context = example(&sealed, "rust-static");
    let build = ["build", "--progress=plain", "-t", "words", &context];
    sealed.strake_within(INSTALLING, build).success();
    let outcome = sealed.strake(["run", "--rm", "words", "b a b"]);
    assert_eq!(outcome.success(), "   2 b\n   1 a\n");
    assert!(sealed.strake(["run", "--rm", "words"]).success().starts_with("   3 the\n"));

    compare_with_buildah(&sealed, "rust-static", "debian", "docker.io/library/debian:bookworm");
}

/// A container of the flask example that listens on loopback.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(sealed: &Sealed) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let variable = format!("PORT={port}");
        let mut command =
            sealed.strake_command(["run", "--rm", "--network", "host", "-e", &variable, "flask"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = Server { child, address: format!("127.0.0.1:{port}") };
        let started = Instant::now();
        while TcpStream::connect(&server.address).is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "the server ended");
            assert!(started.elapsed() < Duration::from_secs(60), "the server does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// The head and the body of an answer.
    fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn stop(mut self) {
        // Python has a handler for this one; without a handler PID 1 would not notice a signal.
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let asked = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(asked.elapsed() < Duration::from_secs(20), "the server does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `differences.json`: what may differ from buildah, by example.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Differences {
    /// Paths; one `*` stands for anything.
    tree: Vec<Explained>,
    /// Fields of the config.
    config: Vec<Explained>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explained {
    what: String,
    /// Whether it differs only where an ordinary user builds.
    #[serde(default)]
    rootless: bool,
    #[allow(dead_code, reason = "for the reader of the data")]
    why: String,
}

impl Explained {
    fn covers(&self, name: &str) -> bool {
        if self.rootless && rustix::process::geteuid().is_root() {
            return false;
        }
        match self.what.split_once('*') {
            Some((prefix, suffix)) => name.starts_with(prefix) && name.ends_with(suffix),
            None => name == self.what,
        }
    }
}

/// Builds an example with buildah on the same base and compares file tree and config with ours.
fn compare_with_buildah(sealed: &Sealed, name: &str, base: &str, base_name: &str) {
    let context = example(sealed, name);
    let ours = sealed.path().join("ours.tar");
    let output = format!("type=oci,dest={}", ours.display());
    sealed.strake_within(INSTALLING, ["build", "-o", &output, &context]).success();
    let theirs = buildah(sealed, &context, &base_image(base), base_name);

    let data = repository().join("testdata/examples/differences.json");
    let data: BTreeMap<String, Differences> =
        serde_json::from_str(&fs_err::read_to_string(data).unwrap()).unwrap();
    let explained = &data[name];
    let (ours, theirs) = (Image::read_archive(&ours), Image::read_archive(&theirs));
    let mut unexplained = Vec::new();
    let mut judge = |list: &[Explained], name: &str, difference: String| {
        if !list.iter().any(|explained| explained.covers(name)) {
            unexplained.push(format!("{name}: {difference}"));
        }
    };

    let (our_tree, their_tree) = (flatten(&ours), flatten(&theirs));
    for path in our_tree.keys().chain(their_tree.keys()).collect::<BTreeSet<_>>() {
        let describe = |tree: &BTreeMap<String, Entry>| {
            tree.get(path).map_or_else(|| "absent".to_owned(), describe)
        };
        let (one, two) = (describe(&our_tree), describe(&their_tree));
        if one != two {
            judge(&explained.tree, path, format!("{one}, buildah: {two}"));
        }
    }
    let (our_config, their_config) = (config(&ours), config(&theirs));
    for field in our_config.keys().chain(their_config.keys()).collect::<BTreeSet<_>>() {
        let (one, two) = (our_config.get(field), their_config.get(field));
        if one != two {
            judge(&explained.config, field, format!("{one:?}, buildah: {two:?}"));
        }
    }
    assert!(unexplained.is_empty(), "{name} differs from buildah's:\n{}", unexplained.join("\n"));
}

/// Builds with buildah in storage of its own and gives the OCI archive.
fn buildah(sealed: &Sealed, context: &str, base: &Path, base_name: &str) -> PathBuf {
    let place = tempfile::Builder::new().prefix("buildah-").tempdir_in(sealed.path()).unwrap();
    let storage = |name: &str| place.path().join(name).display().to_string();
    let (root, runroot) = (storage("root"), storage("run"));
    // Debian's packages bring this file; tools that are only unpacked have none.
    let policy = repository().join("testdata/peers/policy.json").display().to_string();
    let buildah = |arguments: &[&str]| {
        let mut command = sealed.command("buildah");
        command.args(["--root", &root, "--runroot", &runroot, arguments[0]]);
        command.args(["--signature-policy", &policy]).args(&arguments[1..]);
        command.env("BUILDAH_ISOLATION", "chroot");
        run(command, INSTALLING).success().trim().to_owned()
    };
    let container = buildah(&["from", "scratch"]);
    buildah(&["add", &container, base.to_str().unwrap(), "/"]);
    buildah(&["commit", "-q", "--rm", &container, base_name]);
    let built = buildah(&[
        "bud",
        "-q",
        "--pull-never",
        "--network",
        "host",
        "--format",
        "oci",
        "-t",
        "built",
        context,
    ]);
    assert!(!built.is_empty());
    let archive = sealed.path().join("theirs.tar");
    buildah(&["push", "-q", "built", &format!("oci-archive:{}", archive.display())]);
    archive
}

/// The file tree that the layers give together.
fn flatten(image: &Image) -> BTreeMap<String, Entry> {
    let mut tree: BTreeMap<String, Entry> = BTreeMap::new();
    for layer in &image.layers {
        for name in layer.keys() {
            let name = clean(name);
            let (parent, last) = name.rsplit_once('/').unwrap_or(("", &name));
            let below = |path: &str| {
                if parent.is_empty() { path.to_owned() } else { format!("{parent}/{path}") }
            };
            match last.strip_prefix(".wh.") {
                Some(".wh..opq") => remove_below(&mut tree, parent),
                Some(hidden) => {
                    let hidden = below(hidden);
                    tree.remove(&hidden);
                    remove_below(&mut tree, &hidden);
                }
                None => {}
            }
        }
        for (name, entry) in layer {
            let name = clean(name);
            let last = name.rsplit('/').next().unwrap();
            if last.starts_with(".wh.") || name.is_empty() {
                continue;
            }
            if entry.kind != "dir" {
                remove_below(&mut tree, &name);
            }
            let mut entry = entry.clone();
            if entry.kind == "hardlink" {
                // Which of two names is the link depends on the walk; the file is the same.
                let target = clean(entry.target.as_deref().unwrap());
                entry = layer
                    .iter()
                    .find(|(name, _)| clean(name) == target)
                    .map(|(_, entry)| entry.clone())
                    .or_else(|| tree.get(&target).cloned())
                    .unwrap_or_else(|| panic!("{name} links to {target}, which is not there"));
            }
            tree.insert(name, entry);
        }
    }
    tree
}

fn clean(name: &str) -> String {
    let name = name.trim_start_matches("./").trim_matches('/');
    if name == "." { String::new() } else { name.to_owned() }
}

fn remove_below(tree: &mut BTreeMap<String, Entry>, directory: &str) {
    let prefix = format!("{directory}/");
    tree.retain(|name, _| !(directory.is_empty() || name.starts_with(&prefix)));
}

/// What of an entry has to be the same: everything but its time.
fn describe(entry: &Entry) -> String {
    let content = match entry.kind {
        "file" => format!(" {} bytes {}", entry.content.len(), &sha256(&entry.content)[..19]),
        _ => String::new(),
    };
    let mode = if entry.kind == "symlink" { 0o777 } else { entry.mode };
    format!(
        "{} {mode:04o} {}:{}{content} {:?} {:?} {:?}",
        entry.kind, entry.uid, entry.gid, entry.target, entry.device, entry.xattrs
    )
}

/// The fields of the config that are set, and of the image around it.
fn config(image: &Image) -> BTreeMap<String, Value> {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let configuration = &image.configuration;
    let outer = ["architecture", "os", "variant", "author"]
        .map(|name| (name.to_owned(), configuration[name].clone()));
    let inner = configuration["config"].as_object().cloned().unwrap_or_default();
    outer.into_iter().chain(inner).filter(|(_, value)| !empty(value)).collect()
}
