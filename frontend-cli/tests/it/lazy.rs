//! A build that needs no file of its base fetches none; whoever needs it later gets it from where it
//! lies, or is told what is missing and where it should be.

use fs_err as fs;

use crate::images::{Registry, skopeo};
use crate::sealed::{Identity, Outcome, Sealed};

const BASE: &str = "FROM busybox
RUN mkdir /d && echo content > /d/f
CMD [\"cat\", \"/d/f\"]
";

/// Every instruction that changes the configuration alone.
const CONFIGURATION: &str = "ARG version=1
LABEL version=$version
ENV GREETING=hello
USER 7:8
WORKDIR /
VOLUME /data
EXPOSE 80/tcp
STOPSIGNAL SIGINT
HEALTHCHECK CMD true
SHELL [\"/bin/sh\", \"-ec\"]
ONBUILD LABEL built=on
CMD [\"sh\", \"-c\", \"echo $GREETING; cat /d/f\"]
";

/// A registry with a base image, which was built elsewhere.
struct Far {
    _elsewhere: Sealed,
    registry: Registry,
    base: String,
    layers: Vec<String>,
}

impl Far {
    fn new() -> Far {
        let elsewhere = Sealed::with_busybox(Identity::Caller);
        let registry = Registry::start(&elsewhere);
        let base = format!("{}/team/base:1", registry.address);
        elsewhere.write("context/Dockerfile", BASE);
        build(&elsewhere, &["--push", "-t", &base]).success();
        let layers = layers(&elsewhere, &base);
        assert_eq!(layers.len(), 2);
        Far { _elsewhere: elsewhere, registry, base, layers }
    }

    /// A machine that knows nothing yet, with a Dockerfile on this base.
    fn machine(&self, instructions: &str) -> Sealed {
        let sealed = Sealed::new();
        sealed.write("context/Dockerfile", format!("FROM {}\n{instructions}", self.base));
        sealed
    }

    /// How many layers of the base were fetched while something was done.
    fn fetched(&self, work: impl FnOnce()) -> usize {
        let before = self.registry.requests().len();
        work();
        let requests = &self.registry.requests()[before..];
        let is_layer = |line: &&String| {
            line.starts_with("GET ") && self.layers.iter().any(|layer| line.contains(layer))
        };
        requests.iter().filter(is_layer).count()
    }
}

fn build(sealed: &Sealed, arguments: &[&str]) -> Outcome {
    let context = sealed.path().join("context").display().to_string();
    sealed.strake(["build"].iter().chain(arguments).copied().chain([context.as_str()]))
}

/// The digests of the layers that a registry has of an image.
fn layers(sealed: &Sealed, name: &str) -> Vec<String> {
    let docker = format!("docker://{name}");
    let raw = skopeo(sealed, &["inspect", "--tls-verify=false", "--raw", &docker]);
    let manifest: serde_json::Value = serde_json::from_str(raw.success()).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

fn trees(sealed: &Sealed) -> usize {
    fs::read_dir(sealed.path().join("store/snapshots-v1")).map_or(0, Iterator::count)
}

#[test]
fn a_build_of_configuration_alone_fetches_no_layer() {
    let far = Far::new();
    let image = format!("{}/team/app:1", far.registry.address);
    for output in ["type=cacheonly", "type=image", "type=registry"] {
        let there = far.machine(CONFIGURATION);
        let built = || drop(build(&there, &["-o", output, "-t", &image]).success().to_owned());
        assert_eq!(far.fetched(built), 0, "{output}");
        assert_eq!(trees(&there), 0, "{output}");
        // The second one finds even the base's name here.
        assert_eq!(far.fetched(built), 0, "{output}");
        if output == "type=cacheonly" {
            continue;
        }
        let listed = there.strake(["images"]);
        assert!(listed.success().contains("team/app"), "{listed}");
        // Nothing is missing that could not be had, and nothing is in the way of a prune.
        there.strake(["fsck"]).success();
        there.strake(["prune", "-f"]).success();
        let run = || {
            let shown = there.strake(["run", "--rm", "-u", "0", &image]);
            assert_eq!(shown.success(), "hello\ncontent\n", "{output}");
        };
        assert_eq!(far.fetched(run), 2, "{output}");
        assert_eq!(far.fetched(run), 0, "{output}");
    }
    let pulled = Sealed::new();
    assert_eq!(far.fetched(|| drop(pulled.strake(["pull", &image]).success().to_owned())), 2);
    assert_eq!(layers(&pulled, &image), far.layers);
}

#[test]
fn outputs_that_are_files_fetch_what_they_hold() {
    let far = Far::new();
    for output in ["type=local", "type=tar", "type=oci", "type=docker"] {
        let there = far.machine("LABEL a=b\n");
        let dest = there.path().join("out").display().to_string();
        let built = || {
            drop(
                build(&there, &["-o", &format!("{output},dest={dest}"), "-t", "app"])
                    .success()
                    .to_owned(),
            )
        };
        assert_eq!(far.fetched(built), 2, "{output}");
        let unpacks = matches!(output, "type=local" | "type=tar");
        assert_eq!(trees(&there) > 0, unpacks, "{output}");
        if output == "type=local" {
            assert_eq!(fs::read_to_string(there.path().join("out/d/f")).unwrap(), "content\n");
        } else if !unpacks {
            let loaded = Sealed::new();
            loaded.strake(["load", "-i", &dest]).success();
            let run = loaded.strake(["run", "--rm", "app"]);
            assert_eq!(run.success(), "content\n", "{output}");
        }
    }
}

#[test]
fn whoever_needs_the_layers_later_gets_them() {
    let far = Far::new();
    let other_machine = Sealed::new();
    let other = Registry::start(&other_machine);
    let lazy = || {
        let there = far.machine("ENV A=b\n");
        build(&there, &["-t", "app"]).success();
        // Where the layers lie is known of the image itself.
        there.strake(["rmi", &far.base]).success();
        there
    };
    let there = lazy();
    let saved = there.path().join("saved.tar").display().to_string();
    assert_eq!(
        far.fetched(|| drop(there.strake(["save", "-o", &saved, "app"]).success().to_owned())),
        2
    );
    let loaded = Sealed::new();
    loaded.strake(["load", "-i", &saved]).success();
    assert_eq!(loaded.strake(["run", "--rm", "app"]).success(), "content\n");

    let there = lazy();
    there.write("context/Dockerfile", "FROM app AS app\nRUN cat /d/f > /copied\nCMD cat /copied\n");
    assert_eq!(far.fetched(|| drop(build(&there, &["-t", "second"]).success().to_owned())), 2);
    assert_eq!(there.strake(["run", "--rm", "second"]).success(), "content\n");

    let there = lazy();
    there.write("context/Dockerfile", "FROM app\nENV B=c\n");
    assert_eq!(far.fetched(|| drop(build(&there, &["-t", "second"]).success().to_owned())), 0);
    there.strake(["rmi", "app"]).success();
    assert_eq!(
        far.fetched(|| drop(there.strake(["run", "--rm", "second"]).success().to_owned())),
        2
    );

    for (registry, layers) in [(&far.registry, 0), (&other, 2)] {
        let there = lazy();
        let name = format!("{}/pushed/app:1", registry.address);
        there.strake(["tag", "app", &name]).success();
        assert_eq!(
            far.fetched(|| drop(there.strake(["push", &name]).success().to_owned())),
            layers
        );
        let reader = Sealed::new();
        assert_eq!(reader.strake(["run", "--rm", &name]).success(), "content\n");
    }
    // A build pushes elsewhere in the same way.
    let there = far.machine("ENV A=b\n");
    let name = format!("{}/built/app:1", other.address);
    assert_eq!(
        far.fetched(|| drop(build(&there, &["--push", "-t", &name]).success().to_owned())),
        2
    );
    assert_eq!(Sealed::new().strake(["run", "--rm", &name]).success(), "content\n");
}

#[test]
fn layers_that_cannot_be_had_are_named_with_their_place() {
    let far = Far::new();
    let there = far.machine("ENV A=b\n");
    build(&there, &["-t", "app"]).success();
    let place = format!("{}/team/base", far.registry.address);
    let fails = |words: &[&str], code: i32, parts: &[&str]| {
        let outcome = there.strake(words.iter().copied());
        for part in parts {
            assert!(outcome.failure(code).contains(part), "{part} is not in {outcome}");
        }
    };
    let what = "is not on this machine and cannot be fetched from";
    let hint = "leave out --offline";
    fails(&["run", "--rm", "--offline", "app"], 125, &["2 layers of app", what, &place, hint]);
    fails(&["run", "--rm", "--pull", "never", "app"], 125, &["2 layers of app", "--pull never"]);
    // What needs no file works without a network.
    build(&there, &["--offline", "-t", "again"]).success();
    there.write("context/Dockerfile", "FROM app\nRUN true\n");
    let outcome = build(&there, &["--offline"]);
    for part in [what, &place, hint, "Dockerfile:1"] {
        assert!(outcome.failure(1).contains(part), "{part} is not in {outcome}");
    }
    drop(far.registry);
    let reach = "make 127.0.0.1:";
    let saved = there.path().join("saved.tar").display().to_string();
    fails(&["save", "-o", &saved, "app"], 1, &[what, &place, reach]);
    assert!(!there.path().join("saved.tar").exists());
    fails(&["run", "--rm", "app"], 125, &["2 layers of app", what, &place, reach]);
}

#[test]
fn an_image_is_the_same_whether_its_base_is_here_or_far() {
    let far = Far::new();
    let digests = |there: &Sealed| {
        let metadata = there.path().join("metadata.json").display().to_string();
        build(there, &["--metadata-file", &metadata, "-t", "app"]).success();
        let metadata: serde_json::Value =
            serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
        metadata["containerimage.digest"].clone()
    };
    let (lazy, whole) = (far.machine(CONFIGURATION), far.machine(CONFIGURATION));
    whole.strake(["run", "--rm", &far.base]).success();
    assert_eq!(digests(&lazy), digests(&whole));
    // And its base's files are found by it.
    whole.strake(["rmi", &far.base]).success();
    assert_eq!(far.fetched(|| drop(whole.strake(["run", "--rm", "app"]).success().to_owned())), 0);
}

#[test]
fn the_base_of_cached_steps_stays_where_it_is() {
    let far = Far::new();
    let cache = format!("{}/team/cache:1", far.registry.address);
    let step = "RUN cat /d/f > /copied\nCMD cat /copied\n";
    let here = far.machine(step);
    build(&here, &["--cache-to", &format!("type=registry,ref={cache},mode=max")]).success();
    let image = format!("{}/team/app:1", far.registry.address);
    for (output, own) in [("type=cacheonly", 0), ("type=registry", 0), ("type=image", 1)] {
        let there = far.machine(step);
        let before = far.registry.requests().len();
        let built = || {
            let outcome = build(&there, &["-o", output, "-t", &image, "--cache-from", &cache]);
            assert!(outcome.success().is_empty() && outcome.stderr.contains("CACHED"), "{outcome}");
        };
        assert_eq!(far.fetched(built), 0, "{output}");
        assert_eq!(trees(&there), 0, "{output}");
        let requests = &far.registry.requests()[before..];
        let blobs = |line: &&String| line.starts_with("GET ") && line.contains("team/cache/blobs/");
        // One is the document of the cache.
        assert_eq!(requests.iter().filter(blobs).count(), 1 + own, "{output}: {requests:#?}");
        if own > 0 {
            let run = || {
                assert_eq!(there.strake(["run", "--rm", &image]).success(), "content\n");
            };
            assert_eq!(far.fetched(run), 2);
        }
    }
}

/// Whether the first RUN of a build was found, by the progress of it.
fn is_cached(outcome: &Outcome) -> bool {
    outcome.success();
    let step = outcome.stderr.lines().find_map(|line| line.split_once(" [2/"));
    let number = step.unwrap_or_else(|| panic!("{outcome}")).0;
    outcome.stderr.lines().any(|line| line == format!("{number} CACHED"))
}

#[test]
fn steps_of_a_cache_are_found_again_without_it() {
    let far = Far::new();
    let cache = format!("{}/team/cache:1", far.registry.address);
    let step = "RUN cat /d/f /proc/sys/kernel/random/uuid > /made\nCMD cat /made\n";
    let here = far.machine(step);
    build(&here, &["--cache-to", &format!("type=registry,ref={cache},mode=max"), "-t", "app"])
        .success();
    let made = here.strake(["run", "--rm", "app"]).success().to_owned();
    let directory = here.path().join("cache").display().to_string();
    build(&here, &["--cache-to", &format!("type=local,dest={directory},mode=max")]).success();
    let image = format!("{}/team/app:1", far.registry.address);
    let sources = [
        ("type=cacheonly", cache.clone()),
        ("type=registry", cache.clone()),
        ("type=image", cache.clone()),
        ("type=image", format!("type=local,src={directory}")),
    ];
    for (output, from) in sources {
        let there = far.machine(step);
        let flags = ["--progress=plain", "-o", output, "-t", &image];
        let first = build(&there, &[&flags[..], &["--cache-from", &from]].concat());
        assert!(is_cached(&first), "{first}");
        there.strake(["fsck"]).success();
        there.strake(["prune", "-f"]).success();
        let again = || {
            let again = build(&there, &flags);
            assert!(is_cached(&again), "{output} {from}: {again}");
        };
        assert_eq!((far.fetched(again), trees(&there)), (0, 0), "{output} {from}");
        // What stands on it gets its files.
        there.write(
            "context/Dockerfile",
            format!("FROM {}\n{step}RUN cp /made /copied\n", far.base),
        );
        let more = || {
            assert!(
                is_cached(&build(&there, &["--progress=plain", "-t", "more"])),
                "{output} {from}"
            );
            assert_eq!(there.strake(["run", "--rm", "more", "cat", "/copied"]).success(), made);
        };
        assert_eq!(far.fetched(more), 2, "{output} {from}");
        there.write("context/Dockerfile", format!("FROM {}\n{step}", far.base));
        assert_eq!(far.fetched(again), 0, "{output} {from}");
        there.strake(["fsck"]).success();
    }
}

#[test]
fn what_is_remembered_of_a_cache_is_a_miss_when_it_is_gone() {
    let far = Far::new();
    let cache_machine = Sealed::new();
    let caches = Registry::start(&cache_machine);
    let cache = format!("{}/team/cache:1", caches.address);
    let step = "RUN cat /d/f /proc/sys/kernel/random/uuid > /made\nCMD cat /made\n";
    let here = far.machine(step);
    build(&here, &["--cache-to", &format!("type=registry,ref={cache},mode=max")]).success();
    let there = far.machine(step);
    let hit = |flags: &[&str]| {
        is_cached(&build(&there, &[&["--progress=plain", "-o", "type=cacheonly"], flags].concat()))
    };
    assert!(hit(&["--cache-from", &cache]));
    // Whoever empties the cache empties it of this as well.
    there.strake(["prune", "-f", "-a"]).success();
    assert!(hit(&["--cache-from", &cache]));
    drop(caches);
    // No file is needed, so nobody is asked.
    assert!(hit(&[]));
    let outcome = build(&there, &["--progress=plain", "-t", "app"]);
    outcome.success();
    assert!(outcome.stderr.contains("team/cache:latest is not used"), "{outcome}");
    // What was said to be found is done again.
    let mut steps = outcome.stderr.lines().filter_map(|line| line.split_once(" [2/2] RUN"));
    let last = steps.next_back().unwrap().0;
    assert!(outcome.stderr.contains(&format!("\n{last} DONE")), "{outcome}");
    assert!(there.strake(["run", "--rm", "app"]).success().starts_with("content\n"));
    // The result of its own is what the next build finds.
    let outcome = build(&there, &["--progress=plain", "-t", "app"]);
    assert!(is_cached(&outcome) && !outcome.stderr.contains("is not used"), "{outcome}");
}
