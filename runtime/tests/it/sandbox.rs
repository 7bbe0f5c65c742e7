//! A busybox root filesystem and a spawner to run it with.

use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};
use runtime::{
    Container, ContainerIo, ContainerRequest, ExitStatus, Isolation, NetworkMode, RuntimeError,
    Spawner, Stdin,
};

/// The applets that the cases use.
const APPLETS: &[&str] = &[
    "sh", "true", "false", "cat", "echo", "ls", "id", "sleep", "stat", "mount", "touch", "mkdir",
    "readlink", "grep", "test", "hostname", "env", "tty", "stty", "kill", "ps", "chmod", "dd",
    "wc", "head", "umask", "pwd", "rm", "df", "ln", "mknod", "ip", "chown", "mv", "tail", "yes",
    "nc",
];

/// A machine of its own.
pub(crate) struct Sandbox {
    pub(crate) isolation: Isolation,
    pub(crate) spawner: Spawner,
    pub(crate) directory: tempfile::TempDir,
}

/// What a container said and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Sandbox {
    pub(crate) fn new() -> Sandbox {
        let isolation = runtime::isolate().unwrap();
        let spawner = Spawner::start().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let sandbox = Sandbox { isolation, spawner, directory };
        for name in ["lower/bin", "lower/tmp", "lower/etc", "upper", "work"] {
            fs_err::create_dir_all(sandbox.path(name)).unwrap();
        }
        fs_err::copy("/usr/bin/busybox", sandbox.path("lower/bin/busybox")).unwrap_or_else(|_| {
            fs_err::copy("/bin/busybox", sandbox.path("lower/bin/busybox"))
                .expect("busybox-static must be installed")
        });
        for applet in APPLETS {
            fs_err::os::unix::fs::symlink("busybox", sandbox.path("lower/bin").join(applet))
                .unwrap();
        }
        sandbox
    }

    /// A path below the sandbox's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A fresh writable layer over the root filesystem.
    pub(crate) fn rootfs(&self) -> Mount {
        let (lower, upper, work) = (self.path("lower"), self.path("upper"), self.path("work"));
        for path in [&upper, &work] {
            remove_tree(path);
            fs_err::create_dir_all(path).unwrap();
        }
        mount(
            "/",
            "overlay",
            None,
            &[
                &format!("lowerdir={}", lower.display()),
                &format!("upperdir={}", upper.display()),
                &format!("workdir={}", work.display()),
            ],
        )
    }

    /// A request for `arguments` on that root filesystem.
    pub(crate) fn request(&self, arguments: &[&str]) -> ContainerRequest {
        let mut spec = runtime::default_spec();
        let process = spec.process_mut().as_mut().unwrap();
        process.set_args(Some(arguments.iter().map(|word| word.to_string()).collect()));
        process.set_env(Some(vec!["PATH=/bin".to_owned()]));
        ContainerRequest {
            spec,
            rootfs: vec![self.rootfs()],
            network: NetworkMode::None,
            files: Vec::new(),
        }
    }

    pub(crate) fn spawn(&self, request: &ContainerRequest) -> Result<Container, RuntimeError> {
        self.spawner.spawn(request, ContainerIo::Pipes { stdin: Stdin::Null })
    }

    /// Runs `request` to its end.
    pub(crate) fn run(&self, request: &ContainerRequest) -> Output {
        let mut container = self.spawn(request).unwrap();
        let stdout = read(container.take_stdout().unwrap());
        let stderr = read(container.take_stderr().unwrap());
        Output { status: container.wait().unwrap(), stdout, stderr }
    }

    /// Runs a shell script with the defaults; it must succeed.
    pub(crate) fn shell(&self, script: &str) -> String {
        let output = self.run(&self.request(&["sh", "-c", script]));
        assert_eq!(output.status.code, Some(0), "{script}\n{output:?}");
        output.stdout
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        remove_tree(self.directory.path());
    }
}

/// Removes a tree, also if an overlay has left directories without any mode in it.
fn remove_tree(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if !path.is_dir() || path.is_symlink() {
        return;
    }
    let _ = fs_err::set_permissions(path, PermissionsExt::from_mode(0o755));
    for entry in fs_err::read_dir(path).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => remove_tree(&entry.path()),
            _ => drop(fs_err::remove_file(entry.path())),
        }
    }
    let _ = fs_err::remove_dir(path);
}

pub(crate) fn read(fd: std::os::fd::OwnedFd) -> String {
    let mut text = String::new();
    std::fs::File::from(fd).read_to_string(&mut text).unwrap();
    text
}

pub(crate) fn mount(target: &str, kind: &str, source: Option<&Path>, options: &[&str]) -> Mount {
    let mut builder = MountBuilder::default()
        .destination(target)
        .typ(kind)
        .options(options.iter().map(|option| option.to_string()).collect::<Vec<_>>());
    if let Some(source) = source {
        builder = builder.source(source);
    }
    builder.build().unwrap()
}
