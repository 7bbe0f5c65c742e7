//! `testdata/build`: each folder is a build, and what BuildKit made of it is what we have to make.
//!
//! All cases share one store and run side by side, so the cache is warm and busy as in real life.
//! `STRAKE_CASE=text` runs only those whose name holds the text.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fs_err as fs;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use serde::Deserialize;
use serde_json::Value;

use crate::oci::{Entry, Image, Layer, hex, read_layer, sha256};
use crate::sealed::{Identity, Sealed, base_image, repository};

/// The modification time of everything in a case, in seconds since 1970.
const SOURCE_TIME: i64 = 1_577_836_800;

/// `case.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    about: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    prepare: Vec<Prepare>,
    /// It makes what nobody but the machine's root can: devices, files of any owner.
    #[serde(default)]
    root: bool,
}

/// What git cannot keep, made in the context before the build.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prepare {
    path: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    content: Option<String>,
    target: Option<String>,
    size: Option<u64>,
    mode: Option<String>,
    owner: Option<(u32, u32)>,
    #[serde(default)]
    xattrs: BTreeMap<String, String>,
}

/// `expected.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    base: String,
    config: Value,
    #[serde(default)]
    author: Value,
    architecture: Value,
    os: Value,
    #[serde(default)]
    variant: Value,
    history: Vec<Value>,
    layers: Vec<Vec<ExpectedEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedEntry {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    mode: Option<String>,
    #[serde(default)]
    uid: u64,
    #[serde(default)]
    gid: u64,
    mtime: Option<u64>,
    target: Option<String>,
    dev: Option<(u32, u32)>,
    content: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
    #[serde(default)]
    xattrs: BTreeMap<String, String>,
}

#[test]
fn builds_give_what_buildkit_gives() {
    let root = repository().join("testdata/build");
    let filter = std::env::var("STRAKE_CASE").unwrap_or_default();
    let mut folders: Vec<PathBuf> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("case.json").exists())
        .filter(|path| path.file_name().unwrap().to_string_lossy().contains(&filter))
        .filter(|path| rustix::process::geteuid().is_root() || !read_case(path).root)
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "no case of {} matches `{filter}`", root.display());

    let sealed = Sealed::with_busybox(Identity::Caller);
    let program = busybox_program();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(BTreeMap::new());
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get() + 1);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(folder) = folders.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
                    let differences = std::panic::catch_unwind(|| check(&sealed, folder, &program))
                        .unwrap_or_else(|panic| vec![panic_message(&*panic)]);
                    if !differences.is_empty() {
                        failures.lock().unwrap().insert(name, differences);
                    }
                }
            });
        }
    });

    let failures = failures.into_inner().unwrap();
    for (name, differences) in &failures {
        println!("{name}: {}", about(&root.join(name)));
        for difference in differences {
            println!("    {}", difference.replace('\n', "\n    "));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases differ", failures.len(), folders.len());
}

fn about(folder: &Path) -> String {
    read_case(folder).about
}

fn read_case(folder: &Path) -> Case {
    let path = folder.join("case.json");
    serde_json::from_str(&fs::read_to_string(&path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panicked".to_owned())
}

/// Builds one case and gives what is not as expected, one difference a line.
fn check(sealed: &Sealed, folder: &Path, program: &str) -> Vec<String> {
    let case = read_case(folder);
    let place = tempfile::Builder::new().prefix("case-").tempdir_in(sealed.path()).unwrap();
    let copy = place.path();
    materialise(folder, copy, &case.prepare);

    let output = copy.join("image.tar");
    let mut arguments = vec!["build".to_owned(), "--progress=plain".to_owned()];
    if copy.join("Dockerfile").exists() {
        arguments.extend(["-f".to_owned(), copy.join("Dockerfile").display().to_string()]);
    }
    arguments.extend(["-o".to_owned(), format!("type=oci,dest={}", output.display())]);
    let here = copy.display().to_string();
    arguments.extend(case.args.iter().map(|argument| argument.replace("{case}", &here)));
    arguments.push(copy.join("context").display().to_string());
    let outcome = sealed.strake(&arguments);

    let expected_error = folder.join("expected-error.txt");
    if expected_error.exists() {
        if outcome.code != 1 {
            return vec![format!("exit code {} where an error (1) was expected", outcome.code)];
        }
        return fs::read_to_string(expected_error)
            .unwrap()
            .lines()
            .filter(|line| !line.starts_with('#') && !outcome.stderr.contains(line))
            .map(|line| {
                format!("the message does not say `{line}`:\n{}", outcome.stderr.trim_end())
            })
            .collect();
    }
    if outcome.code != 0 {
        return vec![format!("exit code {}:\n{}", outcome.code, outcome.stderr.trim_end())];
    }
    let expected: Expected =
        serde_json::from_str(&fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
    compare(&Image::read_archive(&output), &expected, program)
}

/// Copies a case to where it is built, and makes modes, times and special files what they should be.
fn materialise(folder: &Path, copy: &Path, prepare: &[Prepare]) {
    copy_tree(folder, copy);
    let context = copy.join("context");
    fs::create_dir_all(&context).unwrap();
    for step in prepare {
        let path = context.join(&step.path);
        let target = || context.join(step.target.as_ref().unwrap());
        let kind = step.kind.as_deref().or(step.content.as_ref().map(|_| "file"));
        match kind {
            None => {}
            Some("dir") => fs::create_dir_all(&path).unwrap(),
            Some("file") => fs::write(&path, step.content.as_deref().unwrap_or_default()).unwrap(),
            Some("sparse") => fs::File::create(&path).unwrap().set_len(step.size.unwrap()).unwrap(),
            Some("fifo") => {
                rustix::fs::mkfifoat(CWD, &path, rustix::fs::Mode::RWXU).unwrap();
            }
            Some("socket") => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
            Some("symlink") => {
                std::os::unix::fs::symlink(step.target.as_ref().unwrap(), &path).unwrap();
            }
            Some("hardlink") => fs::hard_link(target(), &path).unwrap(),
            Some(other) => panic!("`prepare` of the unknown type {other}"),
        }
        if let Some((uid, gid)) = step.owner {
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).unwrap();
        }
        let usual = match kind {
            Some("file" | "sparse") => Some(0o644),
            Some("dir") => Some(0o755),
            _ => None,
        };
        let mode = step.mode.as_ref().map(|mode| u32::from_str_radix(mode, 8).unwrap());
        if let Some(mode) = mode.or(usual) {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
        for (name, value) in &step.xattrs {
            rustix::fs::setxattr(&path, name, value.as_bytes(), XattrFlags::empty()).unwrap();
        }
    }
    set_times(copy);
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            let link = fs::read_link(entry.path()).unwrap();
            std::os::unix::fs::symlink(link, &target).unwrap();
            continue;
        }
        let mode = if kind.is_dir() {
            fs::create_dir(&target).unwrap();
            copy_tree(&entry.path(), &target);
            0o755
        } else {
            fs::copy(entry.path(), &target).unwrap();
            0o644
        };
        fs::set_permissions(&target, PermissionsExt::from_mode(mode)).unwrap();
    }
}

fn set_times(path: &Path) {
    let meta = path.symlink_metadata().unwrap();
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            set_times(&entry.unwrap().path());
        }
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: SOURCE_TIME, tv_nsec: 0 },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The digest of the program that the busybox image holds.
fn busybox_program() -> String {
    let layer = read_layer(&fs::read(base_image("busybox")).unwrap());
    sha256(&layer["./bin/busybox"].content)
}

fn compare(image: &Image, expected: &Expected, program: &str) -> Vec<String> {
    let mut differences = Vec::new();
    let configuration = &image.configuration;
    for (name, theirs) in [
        ("author", &expected.author),
        ("architecture", &expected.architecture),
        ("os", &expected.os),
        ("variant", &expected.variant),
    ] {
        differ(&mut differences, name, &configuration[name], theirs);
    }
    let ours = without_empty(&configuration["config"]);
    let theirs = without_empty(&expected.config);
    let mut names: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let field = |of: &serde_json::Map<String, Value>| of.get(name).cloned().unwrap_or_default();
        let what = format!("config.{name}");
        differ(&mut differences, &what, &field(&ours), &field(&theirs));
    }

    let below = usize::from(expected.base == "busybox");
    let history: Vec<Value> = configuration["history"]
        .as_array()
        .into_iter()
        .flatten()
        .skip(below)
        .map(|entry| {
            let mut kept = serde_json::Map::new();
            kept.insert("created_by".into(), entry["created_by"].clone());
            if entry["empty_layer"] == true {
                kept.insert("empty_layer".into(), true.into());
            }
            Value::Object(kept)
        })
        .collect();
    for index in 0..history.len().max(expected.history.len()) {
        let entry = |of: &[Value]| of.get(index).cloned().unwrap_or_default();
        let what = format!("history[{index}]");
        differ(&mut differences, &what, &entry(&history), &entry(&expected.history));
    }

    let layers = &image.layers[below.min(image.layers.len())..];
    if layers.len() != expected.layers.len() {
        differences.push(format!("{} layers, expected {}", layers.len(), expected.layers.len()));
    }
    for (index, (ours, theirs)) in layers.iter().zip(&expected.layers).enumerate() {
        compare_layer(index, ours, theirs, program, &mut differences);
    }
    differences
}

fn differ(differences: &mut Vec<String>, what: &str, ours: &Value, theirs: &Value) {
    if ours != theirs {
        differences.push(format!("{what}: {ours}, expected {theirs}"));
    }
}

fn without_empty(config: &Value) -> serde_json::Map<String, Value> {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let fields = config.as_object().cloned().unwrap_or_default();
    fields.into_iter().filter(|(_, value)| !empty(value)).collect()
}

fn compare_layer(
    index: usize,
    ours: &Layer,
    theirs: &[ExpectedEntry],
    program: &str,
    differences: &mut Vec<String>,
) {
    for name in ours.keys().filter(|name| !theirs.iter().any(|entry| entry.path == **name)) {
        differences.push(format!("layer {index}: {name:?} is there and should not be"));
    }
    for expected in theirs {
        let name = &expected.path;
        let Some(entry) = ours.get(name) else {
            differences.push(format!("layer {index}: {name:?} is not there"));
            continue;
        };
        for difference in entry_differences(entry, expected, program) {
            differences.push(format!("layer {index}: {name:?} {difference}"));
        }
    }
}

fn entry_differences(entry: &Entry, expected: &ExpectedEntry, program: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            found.push(format!("has {what} {ours}, expected {theirs}"));
        }
    };
    if expected.kind == "whiteout" {
        differ("type", entry.kind.to_owned(), "file".to_owned());
        differ("size", entry.content.len().to_string(), "0".to_owned());
        return found;
    }
    differ("type", entry.kind.to_owned(), expected.kind.clone());
    differ("target", format!("{:?}", entry.target), format!("{:?}", expected.target));
    differ("device", format!("{:?}", entry.device), format!("{:?}", expected.dev));
    if let Some(mode) = &expected.mode {
        differ("mode", format!("{:04o}", entry.mode), mode.clone());
    }
    if expected.kind != "hardlink" {
        let owner = |uid: u64, gid: u64| format!("{uid}:{gid}");
        differ("owner", owner(entry.uid, entry.gid), owner(expected.uid, expected.gid));
    }
    if let Some(mtime) = expected.mtime {
        differ("mtime", entry.mtime.to_string(), mtime.to_string());
    }
    match &expected.content {
        Some(content) if content == "(busybox)" => {
            differ("digest", sha256(&entry.content), program.to_owned());
        }
        Some(content) => {
            let ours = String::from_utf8_lossy(&entry.content);
            differ("content", format!("{ours:?}"), format!("{content:?}"));
        }
        None => {}
    }
    if let Some(size) = expected.size {
        differ("size", entry.content.len().to_string(), size.to_string());
    }
    if let Some(digest) = &expected.sha256 {
        differ("digest", sha256(&entry.content), format!("sha256:{digest}"));
    }
    let xattrs = entry.xattrs.iter().map(|(name, value)| (name.clone(), hex(value))).collect();
    let theirs: &BTreeMap<String, String> = &expected.xattrs;
    let ours: BTreeMap<String, String> = xattrs;
    differ("attributes", format!("{ours:?}"), format!("{theirs:?}"));
    found
}
