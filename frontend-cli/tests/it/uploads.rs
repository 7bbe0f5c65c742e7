//! Layers travel while the build that makes them still runs.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::images::Registry;
use crate::sealed::{Identity, Sealed};

/// How long something may take that needs no more than a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// The last step ends when it is told to. What is `FROM busybox AS other` is no part of the result.
const GATED: &str = "FROM busybox AS other
RUN echo other > /other
FROM busybox
RUN echo early > /early
RUN --mount=from=other,target=/o --mount=type=cache,target=/gate \\
    while [ ! -e /gate/go ]; do sleep 0.02; done && echo late > /late
";

struct Place {
    sealed: Sealed,
    registry: Registry,
}

impl Place {
    fn new() -> Place {
        let sealed = Sealed::with_busybox(Identity::Caller);
        sealed.write("work/Dockerfile", GATED);
        let registry = Registry::start(&sealed);
        Place { sealed, registry }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sealed.path().join(name)
    }

    /// A build that writes everything to a registry and its result's layers to a directory.
    fn start(&self) -> Child {
        let registry = format!("type=registry,ref={}/team/cache:1,mode=max", self.registry.address);
        let directory = format!("type=local,dest={},mode=min", self.path("min").display());
        let context = self.path("work").display().to_string();
        let words = ["build", "--progress=plain", "-t", "x", "--cache-to", &registry];
        let words = words.into_iter().chain(["--cache-to", &directory, &context]);
        let mut command = self.sealed.strake_command(words);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Layers in the registry.
    fn in_registry(&self) -> usize {
        let repository = "registry/docker/registry/v2/repositories/team/cache/_layers/sha256";
        count(&self.path(repository))
    }

    /// Whether something in the registry has a name.
    fn is_named(&self) -> bool {
        let repository = "registry/docker/registry/v2/repositories/team/cache/_manifests";
        self.path(repository).exists()
    }

    fn in_directory(&self) -> usize {
        count(&self.path("min/blobs/sha256"))
    }

    /// Until the layers of both bases and all steps but the last are where they go.
    fn until_layers_arrived(&self) {
        let started = Instant::now();
        while self.in_registry() < 3 || self.in_directory() < 2 {
            let (registry, directory) = (self.in_registry(), self.in_directory());
            assert!(started.elapsed() < PATIENCE, "only {registry} and {directory} arrived");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The whole files of a directory: those on their way have names with a dot in front.
fn count(directory: &Path) -> usize {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries.flatten().filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count()
}

#[test]
fn layers_arrive_before_the_last_step_has_ended() {
    let place = Place::new();
    let build = place.start();
    place.until_layers_arrived();
    assert!(!place.is_named(), "a cache has a name before its build has ended");
    assert!(!place.path("min/index.json").exists());
    let mounts = fs::read_dir(place.path("store/cache-mounts")).unwrap();
    let mut mounts = mounts.map(|mount| mount.unwrap().path().join("data"));
    fs::write(mounts.next().unwrap().join("go"), "").unwrap();
    let output = build.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(!stderr.contains("was not written"), "{stderr}");
    // The last layer, the document and, in the directory, the manifest: nothing went in vain.
    assert_eq!((place.in_registry(), place.in_directory()), (5, 5), "{stderr}");
    let other = Sealed::with_busybox(Identity::Caller);
    let context = place.path("work").display().to_string();
    let caches = [
        format!("{}/team/cache:1", place.registry.address),
        format!("type=local,src={}", place.path("min").display()),
    ];
    for cache in caches {
        let out = ["build", "--progress=plain", "-o", "type=cacheonly"];
        let outcome = other.strake(out.into_iter().chain(["--cache-from", &cache, &context]));
        outcome.success();
        assert!(!outcome.stderr.contains("is not used"), "{outcome}");
        // With `mode=min` nothing is known of the other stage, which nobody needs then.
        let cached = outcome.stderr.matches(" CACHED").count();
        assert!(cached >= 3, "{outcome}");
    }
}

#[test]
fn an_interrupted_build_leaves_blobs_and_nothing_that_names_them() {
    let place = Place::new();
    let mut build = place.start();
    place.until_layers_arrived();
    let started = Instant::now();
    let process = rustix::process::Pid::from_child(&build);
    rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    let status = build.wait().unwrap();
    assert!(!status.success());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(!place.is_named());
    assert!(!place.path("min/index.json").exists());
    assert_eq!((place.in_registry(), place.in_directory()), (3, 2));
}
