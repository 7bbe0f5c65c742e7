//! A store, small images in it, and the tools beside us.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cache::Store;
use cache::image::Image;
use cache::oci::{ContainerConfig, HistoryEntry, ImageConfiguration, ImageName, Platform};
use cache::snapshot::{CommitInfo, Snapshot};
use exporter::{AssembleOptions, assemble};

pub(crate) const FIRST: &str = "2024-01-01T00:00:01Z";
pub(crate) const SECOND: &str = "2024-01-01T00:00:02Z";

pub(crate) struct World {
    directory: tempfile::TempDir,
    pub(crate) store: Store,
}

impl World {
    pub(crate) fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        World { directory, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A snapshot whose changes are what `write` writes.
    pub(crate) fn snapshot(
        &self,
        parent: Option<&Snapshot>,
        created: &str,
        write: impl FnOnce(&Path),
    ) -> Snapshot {
        let active = self.store.snapshots().prepare(parent.map(Snapshot::id)).unwrap();
        write(active.upper());
        let created = created.to_owned();
        active.commit(CommitInfo { created, ..CommitInfo::default() }).unwrap()
    }

    /// Two layers: `/etc/motd`, `/bin/tool` (4755), a link and a hard link to it; then a new motd
    /// and no link.
    pub(crate) fn tree(&self) -> Snapshot {
        let base = self.snapshot(None, FIRST, |root| {
            fs_err::create_dir(root.join("etc")).unwrap();
            fs_err::create_dir(root.join("bin")).unwrap();
            fs_err::write(root.join("etc/motd"), "old").unwrap();
            fs_err::write(root.join("bin/tool"), "#!/bin/sh\n").unwrap();
            fs_err::set_permissions(root.join("bin/tool"), PermissionsExt::from_mode(0o4755))
                .unwrap();
            fs_err::hard_link(root.join("bin/tool"), root.join("bin/tool2")).unwrap();
            std::os::unix::fs::symlink("../bin/tool", root.join("etc/link")).unwrap();
            std::os::unix::fs::symlink("gone", root.join("etc/stale")).unwrap();
        });
        self.snapshot(Some(&base), SECOND, |root| {
            fs_err::create_dir(root.join("etc")).unwrap();
            fs_err::write(root.join("etc/motd"), "new").unwrap();
            let etc = cache::tree::open_root(&root.join("etc")).unwrap();
            cache::tree::make_whiteout(&etc, c"stale").unwrap();
        })
    }

    /// An image of [`World::tree`].
    pub(crate) fn image(&self) -> Image {
        let tree = self.tree();
        assemble(&self.store, Some(&tree), None, configuration(), &AssembleOptions::default())
            .unwrap()
    }
}

pub(crate) fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

/// The configuration of a build with two layers and one instruction without.
pub(crate) fn configuration() -> ImageConfiguration {
    let step = |by: &str, empty: bool| HistoryEntry {
        created_by: Some(by.to_owned()),
        empty_layer: empty.then_some(true),
        ..HistoryEntry::default()
    };
    let host = Platform::host();
    ImageConfiguration {
        os: host.os,
        architecture: host.architecture,
        variant: host.variant,
        config: ContainerConfig {
            cmd: Some(vec!["/bin/tool".to_owned()]),
            env: Some(vec!["PATH=/bin".to_owned()]),
            on_build: Some(vec!["RUN true".to_owned()]),
            ..ContainerConfig::default()
        },
        history: vec![
            step("COPY a / # buildkit", false),
            step("CMD [\"/bin/tool\"]", true),
            step("RUN b # buildkit", false),
        ],
        ..ImageConfiguration::default()
    }
}

/// Runs a tool of the test set-up to its end and answers with its output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("`{program}` is needed (`make test` installs it): {error}"));
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{stderr}", output.status);
    stdout.into_owned()
}

/// As [`run`], for podman, with a storage of its own.
pub(crate) fn podman(world: &World, arguments: &[&str]) -> String {
    let (root, runroot) = (world.path("podman"), world.path("podman-run"));
    let mut all = vec![
        "--root",
        root.to_str().unwrap(),
        "--runroot",
        runroot.to_str().unwrap(),
        "--storage-driver",
        "vfs",
        "--events-backend",
        "none",
    ];
    all.extend(arguments);
    run("podman", &all)
}

/// Every file below a directory, as `path type mode target/content`, sorted.
pub(crate) fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs_err::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs_err::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let mode = metadata.permissions().mode() & 0o7777;
            if metadata.is_symlink() {
                let target = fs_err::read_link(&path).unwrap();
                lines.push(format!("{name} -> {}", target.display()));
            } else if metadata.is_dir() {
                lines.push(format!("{name}/ {mode:o}"));
                waiting.push(path);
            } else {
                let content = fs_err::read_to_string(&path).unwrap();
                lines.push(format!("{name} {mode:o} {}", content.trim_end()));
            }
        }
    }
    lines.sort();
    lines
}

/// What [`World::tree`] is, from outside.
pub(crate) const TREE: [&str; 6] = [
    "bin/ 755",
    "bin/tool 4755 #!/bin/sh",
    "bin/tool2 4755 #!/bin/sh",
    "etc/ 755",
    "etc/link -> ../bin/tool",
    "etc/motd 644 new",
];
