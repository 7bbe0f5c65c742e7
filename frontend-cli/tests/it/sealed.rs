//! A place where `strake` runs on its own: store, home and environment belong to one test.
//!
//! Nothing of the caller's environment gets in but the path of programs and, where a test asks for
//! it, what reaching the package registries takes. Run by root, a test can also be an ordinary user,
//! with subordinate ids or without: that user exists only inside a private mount namespace, where
//! other `passwd` and `subuid` files lie over the machine's.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use fs_err as fs;
use tempfile::TempDir;

/// The id of the ordinary user that exists only for the tests.
const ORDINARY_ID: u32 = 54321;

/// How long one command may take unless the test says otherwise.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who runs `strake`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Whoever runs the tests.
    Caller,
    /// An ordinary user with a range of subordinate ids.
    Ranges,
    /// An ordinary user who can map nobody but himself.
    Single,
}

impl Identity {
    /// Everybody that the tests can be: root can also be two kinds of ordinary users, an ordinary
    /// user only himself.
    pub(crate) fn all() -> &'static [Identity] {
        if rustix::process::geteuid().is_root() {
            &[Identity::Caller, Identity::Ranges, Identity::Single]
        } else {
            &[Identity::Caller]
        }
    }
}

/// What a command left: its exit code and what it wrote.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) command: String,
    /// The exit code; 128 + signal where a signal ended it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) elapsed: Duration,
}

impl Outcome {
    /// Fails the test unless the command exited 0; gives standard output.
    #[track_caller]
    pub(crate) fn success(&self) -> &str {
        assert_eq!(self.code, 0, "{self}");
        &self.stdout
    }

    /// Fails the test unless the command exited with `code`; gives standard error.
    #[track_caller]
    pub(crate) fn failure(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{self}");
        &self.stderr
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` exited with {} after {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.command, self.code, self.elapsed, self.stdout, self.stderr
        )
    }
}

/// A store, a home and an environment for one test.
pub(crate) struct Sealed {
    directory: TempDir,
    identity: Identity,
    environment: Vec<(OsString, OsString)>,
}

impl Sealed {
    /// A fresh place for whoever runs the tests.
    pub(crate) fn new() -> Sealed {
        Sealed::of(Identity::Caller)
    }

    /// A fresh place for `identity`, who owns everything in it.
    pub(crate) fn of(identity: Identity) -> Sealed {
        let directory = tempfile::Builder::new().prefix("strake-").tempdir().unwrap();
        let path = directory.path();
        for name in ["home", "run", "tmp"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        fs::set_permissions(path.join("run"), PermissionsExt::from_mode(0o700)).unwrap();
        if identity != Identity::Caller {
            let ranges = match identity {
                Identity::Ranges => format!("{ORDINARY_ID}:600100000:65536\n"),
                _ => String::new(),
            };
            let accounts = path.join("accounts");
            fs::create_dir(&accounts).unwrap();
            for (name, line) in [
                ("passwd", format!("ordinary:x:{ORDINARY_ID}:{ORDINARY_ID}::/nowhere:/bin/sh\n")),
                ("group", format!("ordinary:x:{ORDINARY_ID}:\n")),
            ] {
                let machine = fs::read_to_string(Path::new("/etc").join(name)).unwrap();
                fs::write(accounts.join(name), machine + &line).unwrap();
            }
            for name in ["subuid", "subgid"] {
                fs::write(accounts.join(name), &ranges).unwrap();
            }
            fs::write(path.join("strake"), "").unwrap();
            fs::create_dir(path.join("images")).unwrap();
            for name in ["", "home", "run", "tmp"] {
                let id = Some(ORDINARY_ID);
                std::os::unix::fs::chown(path.join(name), id, id).unwrap();
            }
        }
        let mut sealed = Sealed { directory, identity, environment: Vec::new() };
        for name in ["PATH", "LD_LIBRARY_PATH", "PERL5LIB"] {
            sealed.pass_on(name);
        }
        let path = sealed.path().to_path_buf();
        for (name, below) in [
            ("HOME", "home"),
            ("XDG_RUNTIME_DIR", "run"),
            ("TMPDIR", "tmp"),
            ("STRAKE_ROOT", "store"),
        ] {
            sealed.set(name, path.join(below));
        }
        sealed.set("LANG", "C.UTF-8");
        sealed
    }

    /// As [`Sealed::of`], with the busybox base image in the store.
    pub(crate) fn with_busybox(identity: Identity) -> Sealed {
        let sealed = Sealed::of(identity);
        sealed.import("busybox", "busybox");
        sealed
    }

    /// Makes the image `name` of a base image's archive.
    pub(crate) fn import(&self, base: &str, name: &str) {
        let archive = base_image(base);
        let archive = match self.identity {
            Identity::Caller => archive,
            _ => self.path().join("images").join(archive.file_name().unwrap()),
        };
        self.strake(["import".as_ref(), archive.as_os_str(), name.as_ref()]).success();
    }

    /// Where this place's user finds the `strake` binary.
    pub(crate) fn program(&self) -> PathBuf {
        match self.identity {
            Identity::Caller => built().to_path_buf(),
            _ => self.path().join("strake"),
        }
    }

    /// The directory that everything of this place lies in.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Sets a variable for all later commands.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.into()));
    }

    /// Gives later commands a variable of the tests' own environment, if it is set.
    pub(crate) fn pass_on(&mut self, name: &str) {
        if let Some(value) = std::env::var_os(name) {
            self.set(name, value);
        }
    }

    /// Gives later commands what reaching package registries takes on this machine.
    pub(crate) fn pass_on_network(&mut self) {
        for name in
            ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"]
        {
            self.pass_on(name);
        }
    }

    /// Writes a file below this place, readable for everybody, and gives its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// A command of this place's user and environment, its input empty.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self.identity {
            Identity::Caller => Command::new(program),
            Identity::Ranges | Identity::Single => {
                let mut command = Command::new("unshare");
                command.args([
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-ec",
                    BECOME,
                    "become",
                ]);
                command.arg(self.path()).arg(built()).arg(images());
                command.arg(ORDINARY_ID.to_string()).arg(program);
                command
            }
        };
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// A `strake` command that can still be changed.
    pub(crate) fn strake_command<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = self.command(self.program());
        command.args(arguments);
        command
    }

    /// Runs `strake` and waits for it.
    pub(crate) fn strake<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Outcome {
        run(self.strake_command(arguments), PATIENCE)
    }

    /// As [`Sealed::strake`], for what takes longer than a test should.
    pub(crate) fn strake_within<S: AsRef<OsStr>>(
        &self,
        patience: Duration,
        arguments: impl IntoIterator<Item = S>,
    ) -> Outcome {
        run(self.strake_command(arguments), patience)
    }
}

/// Inside a private mount namespace: lays the account files, the program `$2` and the base images
/// `$3` where user `$4` of the place `$1` sees them, and runs the rest as that user.
const BECOME: &str = r#"
place=$1 program=$2 images=$3 id=$4; shift 4
for file in passwd group subuid subgid; do
    [ -e /etc/$file ] || : > /etc/$file
    mount --bind "$place/accounts/$file" /etc/$file
done
mount --bind "$program" "$place/strake"
mount --bind "$images" "$place/images"
exec setpriv --reuid "$id" --regid "$id" --clear-groups --inh-caps=-all "$@"
"#;

/// Runs a command to its end, or kills it when patience does.
pub(crate) fn run(mut command: Command, patience: Duration) -> Outcome {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let name = words.join(" ");
    let started = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("`{name}` does not start: {error}"));
    let stdout = drain(child.stdout.take().unwrap());
    let stderr = drain(child.stderr.take().unwrap());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > patience {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!(
                "`{name}` was still running after {patience:?}\n{}\n{}",
                stdout.join().unwrap(),
                stderr.join().unwrap()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap();
    let elapsed = started.elapsed();
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    Outcome { command: name, code, stdout, stderr, elapsed }
}

fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The binary as cargo built it.
fn built() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_strake"))
}

/// The root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Whether the caller can map more than himself: root, or somebody with subordinate ids and
/// newuidmap. What needs that (Debian's package manager, buildah) is said to be left out otherwise.
pub(crate) fn has_ranges() -> bool {
    let script = ". \"$1\"/scripts/lib.bash; [ \"$(id -u)\" = 0 ] || has_ranges";
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash"]).arg(repository());
    let has = run(command, PATIENCE).code == 0;
    if !has {
        eprintln!(
            "left out: needs root or subordinate ids (package uidmap, a line in /etc/subuid)"
        );
    }
    has
}

/// Where the archives of the base images lie: `target/images`, unless the environment names a place.
pub(crate) fn images() -> &'static Path {
    static IMAGES: OnceLock<PathBuf> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let beside = || built().ancestors().nth(2).unwrap().join("images");
        let directory = std::env::var_os("STRAKE_TEST_IMAGES").map_or_else(beside, PathBuf::from);
        fs::create_dir_all(&directory).unwrap();
        directory
    })
}

/// The root file system archive of a base image, `busybox` or `debian`; its recipe makes it if it
/// is not there yet.
pub(crate) fn base_image(name: &str) -> PathBuf {
    static RECIPES: Mutex<()> = Mutex::new(());
    let _one_at_a_time = RECIPES.lock().unwrap_or_else(PoisonError::into_inner);
    let archive = images().join(format!("{name}.tar"));
    let mut command = Command::new(repository().join("testdata/images").join(name));
    command.arg(&archive).stdin(Stdio::null());
    run(command, Duration::from_secs(600)).success();
    archive
}
