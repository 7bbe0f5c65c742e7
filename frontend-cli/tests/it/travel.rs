//! The build cache that travels: what one store built, another does not build again.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fs_err as fs;
use serde_json::Value;

use crate::images::Registry;
use crate::sealed::{Identity, Outcome, Sealed};

const DOCKERFILE: &str = "FROM busybox AS tools
RUN cat /proc/sys/kernel/random/uuid > /tools
FROM busybox AS size
COPY file /in
RUN wc -c < /in > /size
FROM busybox
COPY --from=size /size /size
RUN cat /proc/sys/kernel/random/uuid > /stamp
COPY --from=tools /tools /tools
";

/// A machine: a store, and a context with [`DOCKERFILE`].
pub(crate) struct Machine(pub(crate) Sealed);

impl Machine {
    pub(crate) fn new() -> Machine {
        let sealed = Sealed::with_busybox(Identity::Caller);
        sealed.write("context/Dockerfile", DOCKERFILE);
        sealed.write("context/file", "aaa");
        Machine(sealed)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Builds with further arguments; the files of the result go to `out`.
    #[track_caller]
    pub(crate) fn build(&self, arguments: &[&str]) -> Outcome {
        let out = format!("type=local,mode=delete,dest={}", self.path("out"));
        self.build_to(&out, arguments)
    }

    #[track_caller]
    pub(crate) fn build_to(&self, out: &str, arguments: &[&str]) -> Outcome {
        let context = self.path("context");
        let words = ["build", "--progress=plain", "-o", out, &context];
        let outcome = self.0.strake(words.into_iter().chain(arguments.iter().copied()));
        outcome.success();
        outcome
    }

    pub(crate) fn file(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join("out").join(name)).unwrap()
    }
}

/// The steps of a build that were executed, by what they do.
pub(crate) fn executed(outcome: &Outcome) -> Vec<String> {
    let mut names = BTreeMap::new();
    let mut cached = Vec::new();
    for line in outcome.stderr.lines() {
        let Some((number, rest)) = line.split_once(' ') else { continue };
        if rest == "CACHED" {
            cached.push(number);
        } else if rest.starts_with('[') && (rest.contains("] RUN ") || rest.contains("] COPY ")) {
            names.insert(number, rest.to_owned());
        }
    }
    names.retain(|number, _| !cached.contains(number));
    names.into_values().collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The blobs of a cache in a directory: the manifest, the document, the layers.
struct Blobs {
    manifest: PathBuf,
    document: PathBuf,
    layers: Vec<PathBuf>,
}

fn blobs(cache: &Path) -> Blobs {
    let path = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap().replace("sha256:", "");
        cache.join("blobs/sha256").join(digest)
    };
    let manifest = path(&json(&cache.join("index.json"))["manifests"][0]);
    let document = json(&manifest);
    Blobs {
        manifest,
        document: path(&document["config"]),
        layers: document["layers"].as_array().unwrap().iter().map(path).collect(),
    }
}

#[test]
fn what_one_store_built_another_does_not_build() {
    let (here, there) = (Machine::new(), Machine::new());
    let cache = here.path("cache");
    here.build(&["--cache-to", &format!("type=local,dest={cache},mode=max")]);
    let from = format!("type=local,src={cache}");
    let outcome = there.build(&["--cache-from", &from]);
    assert!(outcome.stderr.contains("importing cache manifest from local:"), "{outcome}");
    assert_eq!(executed(&outcome), [""; 0], "{outcome}");
    for name in ["stamp", "tools", "size"] {
        assert_eq!(here.file(name), there.file(name), "{outcome}");
    }
    // What was fetched is recorded: nobody is asked for it again.
    fs::remove_dir_all(&cache).unwrap();
    there.build(&[]);
    assert_eq!(here.file("stamp"), there.file("stamp"));
    // The same step on the same content is a hit, whatever led to it.
    there.0.write("context/file", "bbb");
    there.build(&[]);
    assert_eq!(here.file("stamp"), there.file("stamp"));
}

#[test]
fn only_what_a_step_needs_is_fetched() {
    let (here, there) = (Machine::new(), Machine::new());
    let cache = here.path("cache");
    here.build(&["--cache-to", &format!("type=local,dest={cache},mode=max")]);
    let all = blobs(here.0.path().join("cache").as_path());
    for layer in &all.layers {
        fs::rename(layer, layer.with_extension("away")).unwrap();
    }
    let from = ["--cache-from", &format!("type=local,src={cache}")];
    let outcome = there.build_to("type=cacheonly", &from);
    assert_eq!(executed(&outcome), [""; 0], "{outcome}");
    assert!(!outcome.stderr.contains("is not used"), "{outcome}");
    // Another file of the same size: what stands on the size needs no layer of the stage `tools`.
    for layer in &all.layers {
        fs::rename(layer.with_extension("away"), layer).unwrap();
    }
    there.0.write("context/file", "bbb");
    let outcome = there.build(&from);
    let steps = executed(&outcome);
    assert_eq!(steps.len(), 2, "{steps:?} {outcome}");
    assert_eq!(here.file("stamp"), there.file("stamp"));
}

#[test]
fn mode_min_carries_what_the_result_is_made_of_and_max_everything() {
    let here = Machine::new();
    let cache = |mode: &str| {
        let dest = here.path(mode);
        here.build(&["--cache-to", &format!("type=local,dest={dest},mode={mode}")]);
        format!("type=local,src={dest}")
    };
    for (mode, same) in [("min", false), ("max", true)] {
        let there = Machine::new();
        let from = cache(mode);
        let full = there.build_to("type=cacheonly", &["--cache-from", &from]);
        assert_eq!(executed(&full), [""; 0], "{full}");
        let target = ["--cache-from", &from, "--target", "tools"];
        there.build(&target);
        let tools = there.file("tools");
        here.build(&["--target", "tools"]);
        assert_eq!(here.file("tools") == tools, same, "{mode}");
    }
}

#[test]
fn a_broken_cache_costs_a_warning_and_nothing_else() {
    let here = Machine::new();
    let cache = here.0.path().join("cache");
    let to = format!("type=local,dest={},mode=max", cache.display());
    let from = format!("type=local,src={}", cache.display());
    let spoil = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(path, bytes).unwrap();
    };
    type Break<'a> = Box<dyn Fn(&Blobs) + 'a>;
    let cases: [(&str, Break<'_>); 5] = [
        ("the index is no JSON", Box::new(|_| fs::write(cache.join("index.json"), "{").unwrap())),
        ("the manifest is another", Box::new(|all| spoil(&all.manifest))),
        ("the document is another", Box::new(|all| spoil(&all.document))),
        (
            "layers are missing",
            Box::new(|all| all.layers.iter().for_each(|l| fs::remove_file(l).unwrap())),
        ),
        ("layers are others", Box::new(|all| all.layers.iter().for_each(|l| spoil(l)))),
    ];
    let there = Machine::new();
    for (case, damage) in cases {
        let _ = fs::remove_dir_all(&cache);
        here.build(&["--no-cache", "--cache-to", &to]);
        damage(&blobs(&cache));
        // Nothing of the last round may be found.
        let salted = format!("{DOCKERFILE}# {case}\nENV CASE=\"{case}\"\nRUN true\n");
        here.0.write("context/Dockerfile", &salted);
        let outcome = there.0.strake(["prune", "-af"]);
        outcome.success();
        let outcome = there.build(&["--cache-from", &from]);
        assert!(outcome.stderr.contains("is not used"), "{case}: {outcome}");
        assert_eq!(there.file("size").trim(), "3", "{case}");
        assert_ne!(here.file("stamp"), there.file("stamp"), "{case}");
    }
    let nowhere = format!("type=local,src={}", here.path("nowhere"));
    let outcome = there.build(&["--cache-from", &nowhere]);
    assert!(outcome.stderr.contains("there is no build cache at"), "{outcome}");
    // A registry that is not there, and one that is none.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let outcome = there.build(&["--cache-from", &format!("127.0.0.1:{port}/x")]);
    assert!(outcome.stderr.contains("is not used"), "{outcome}");
    let to = format!("127.0.0.1:{port}/x");
    let outcome = there.build(&["--cache-to", &to]);
    assert!(outcome.stderr.contains("the cache was not written to"), "{outcome}");
    let strict = format!("type=registry,ref={to},ignore-error=false");
    let context = there.path("context");
    there.0.strake(["build", "--cache-to", &strict, &context]).failure(1);
}

#[test]
fn a_registry_carries_a_cache_and_an_image_its_own() {
    let (here, there) = (Machine::new(), Machine::new());
    let registry = Registry::start(&here.0);
    let reference = format!("{}/team/cache:1", registry.address);
    let to = format!("type=registry,ref={reference},mode=max,compression=zstd");
    here.build(&["--cache-to", &to]);
    let outcome = there.build(&["--cache-from", &reference]);
    assert_eq!(executed(&outcome), [""; 0], "{outcome}");
    assert_eq!(here.file("stamp"), there.file("stamp"));

    let image = format!("{}/team/image:1", registry.address);
    let out = format!("type=image,name={image},push=true");
    here.build_to(&out, &["--cache-to", "type=inline"]);
    let third = Machine::new();
    let outcome = third.build(&["--cache-from", &format!("type=registry,ref={image}")]);
    assert_eq!(executed(&outcome), [""; 0], "{outcome}");
    assert_eq!(here.file("stamp"), third.file("stamp"));
}

/// Every file of a directory with its inode, which a file that is written anew does not keep.
fn inodes(directory: &Path) -> BTreeMap<PathBuf, u64> {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(directory.join("blobs/sha256")).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::metadata(path).unwrap().ino()))
        .collect()
}

const MOUNTED: &str = "FROM busybox
RUN --mount=type=cache,id=a,target=/a date +%s%N >> /a/log && cp /a/log /log
RUN --mount=type=cache,id=b,target=/b,mode=0700 [ -e /b/x ] || echo b > /b/x
";

#[test]
fn a_whole_store_travels_with_its_cache_mounts() {
    for &identity in Identity::all() {
        let (here, there) = (Sealed::with_busybox(identity), Sealed::with_busybox(identity));
        for sealed in [&here, &there] {
            sealed.write("context/Dockerfile", MOUNTED);
        }
        let context = |sealed: &Sealed| sealed.path().join("context").display().to_string();
        here.strake(["build", "-t", "x", &context(&here)]).success();
        let cache = here.path().join("tmp/cache");
        let bundle = cache.display().to_string();
        let exported = here.strake(["cache", "export", &bundle]);
        assert!(exported.success().starts_with("sha256:"), "{exported}");
        assert!(exported.stderr.contains("2 cache mounts"), "{exported}");
        // Nothing has changed, and nothing is sent.
        let before = inodes(&cache);
        let again = here.strake(["cache", "export", &bundle]);
        assert_eq!(again.success(), exported.stdout);
        assert_eq!(inodes(&cache).len(), before.len());
        assert!(again.stderr.contains(" 0 blobs were sent"), "{again}");

        let moved = there.path().join("tmp/cache");
        copy(&cache, &moved);
        let imported = there.strake(["cache", "import", &moved.display().to_string()]);
        imported.success();
        assert!(imported.stderr.contains("2 cache mounts"), "{imported}");
        fs::remove_dir_all(&moved).unwrap();
        let outcome = there.strake(["build", "--progress=plain", "-t", "x", &context(&there)]);
        outcome.success();
        assert_eq!(executed(&outcome), [""; 0], "{identity:?}: {outcome}");
        // A step that runs again finds what the other store's step left.
        let outcome = there.strake([
            "build",
            "-t",
            "y",
            "--build-arg",
            "A=1",
            "-f",
            &there
                .write(
                    "context/again",
                    format!(
                        "{MOUNTED}RUN --mount=type=cache,id=a,target=/a wc -l < /a/log > /lines\n"
                    ),
                )
                .display()
                .to_string(),
            &context(&there),
        ]);
        outcome.success();
        let lines = there.strake(["run", "--rm", "y", "cat", "/lines"]);
        assert_eq!(lines.success().trim(), "1", "{identity:?}");
    }
}

#[test]
fn why_knows_imported_records_and_a_prune_costs_a_fetch_and_no_step() {
    let (here, there) = (Machine::new(), Machine::new());
    let cache = here.path("cache");
    here.build(&["--cache-to", &format!("type=local,dest={cache},mode=max")]);
    let from = ["--cache-from", &format!("type=local,src={cache}"), "--explain"];
    let why = |step: &str| there.0.strake(["why", step]).success().to_owned();
    there.build_to("type=cacheonly", &from);
    assert!(why("COPY file").contains("cached"), "{}", why("COPY file"));
    // What others made is what a miss is compared with.
    there.0.write("context/file", "bbbb");
    there.build(&from);
    assert!(why("COPY file").contains("/file"), "{}", why("COPY file"));
    assert_ne!(here.file("size"), there.file("size"));
    // Prunes beside builds that read a cache, and after them.
    there.0.write("context/file", "aaa");
    let mut prunes = Vec::new();
    for _ in 0..3 {
        let mut prune = there.0.strake_command(["prune", "-af"]);
        prunes.push(prune.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let outcome = there.build(&from);
        assert_eq!(executed(&outcome), [""; 0], "{outcome}");
        assert!(!outcome.stderr.contains("is not used"), "{outcome}");
        assert_eq!(here.file("stamp"), there.file("stamp"));
    }
    for mut prune in prunes {
        assert!(prune.wait().unwrap().success());
    }
}

#[test]
fn of_a_cache_mount_that_changed_only_the_changed_pieces_are_sent() {
    let (here, there) =
        (Sealed::with_busybox(Identity::Caller), Sealed::with_busybox(Identity::Caller));
    let run = |sealed: &Sealed, command: &str| {
        let mount = "--mount=type=cache,id=many,target=/c";
        sealed.write("work/Dockerfile", format!("FROM busybox\nRUN {mount} {command}\n"));
        let work = sealed.path().join("work").display().to_string();
        sealed
            .strake(["build", "-o", &sealed.path().join("out").display().to_string(), &work])
            .success();
    };
    let sum = |sealed: &Sealed| {
        run(sealed, "cat /c/* | sha256sum > /sum");
        fs::read_to_string(sealed.path().join("out/sum")).unwrap()
    };
    run(&here, "touch /c/first");
    let mount = fs::read_dir(here.path().join("store/cache-mounts")).unwrap().next().unwrap();
    let mount = mount.unwrap().path().join("data");
    // Nothing that can be compressed.
    let mut state = 1_u64;
    for number in 0..3_000 {
        let words = (0..1_000).flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        fs::write(mount.join(format!("file-{number}")), words.collect::<Vec<u8>>()).unwrap();
    }
    let cache = here.path().join("tmp/cache");
    let bundle = cache.display().to_string();
    here.strake(["cache", "export", &bundle]).success();
    let first = inodes(&cache);
    let size = |blobs: &BTreeMap<PathBuf, u64>| -> u64 {
        blobs.keys().map(|path| fs::metadata(path).unwrap().len()).sum()
    };
    assert!(size(&first) > 22 << 20);
    // Another content and another length: everything behind it in the archive is elsewhere.
    run(&here, "echo more >> /c/file-77 && echo new > /c/file-77-b");
    here.strake(["cache", "export", &bundle]).success();
    let mut second = inodes(&cache);
    second.retain(|path, inode| first.get(path) != Some(inode));
    // At most two pieces, of the 2 MiB that they have on average, the document and the manifest.
    assert!(size(&second) < 12 << 20, "{} of {} bytes", size(&second), size(&first));
    let imported = there.strake(["cache", "import", &bundle]);
    imported.success();
    assert!(imported.stderr.contains("1 cache mounts"), "{imported}");
    assert_eq!(sum(&there), sum(&here));
}

fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    assert!(command.status().unwrap().success());
    let mut open = Command::new("chmod");
    open.args(["-R", "a+rwX"]).arg(to);
    assert!(open.status().unwrap().success());
}
