//! `--ssh`: agents and keys, as the tools of OpenSSH see them from inside a step.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::sealed::{Identity, Outcome, Sealed, run};

/// The kinds of keys that ssh-keygen makes, and what an agent calls them.
const KEYS: [(&str, &[&str]); 11] = [
    ("ed25519", &["-t", "ed25519"]),
    ("ecdsa256", &["-t", "ecdsa", "-b", "256"]),
    ("ecdsa384", &["-t", "ecdsa", "-b", "384"]),
    ("rsa", &["-t", "rsa", "-b", "2048"]),
    ("ecdsa521", &["-t", "ecdsa", "-b", "521"]),
    ("pem", &["-t", "rsa", "-b", "2048", "-m", "PEM"]),
    ("sec1", &["-t", "ecdsa", "-b", "256", "-m", "PEM"]),
    ("sec1-521", &["-t", "ecdsa", "-b", "521", "-m", "PEM"]),
    ("pkcs8", &["-t", "ecdsa", "-b", "384", "-m", "PKCS8"]),
    ("pkcs8-521", &["-t", "ecdsa", "-b", "521", "-m", "PKCS8"]),
    ("pkcs8-rsa", &["-t", "rsa", "-b", "2048", "-m", "PKCS8"]),
];

fn tool(program: &str, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
    run(command, Duration::from_secs(60))
}

fn make_key(path: &Path, kind: &[&str], passphrase: &str) {
    let file = path.to_str().unwrap();
    let arguments = [&["-q", "-N", passphrase, "-C", "", "-f", file], kind].concat();
    tool("ssh-keygen", &arguments).success();
}

/// Puts this machine's `ssh-add`, and the libraries it needs, below `root` of the context.
fn bring_ssh_add(sealed: &Sealed) {
    let which = tool("sh", &["-c", "command -v ssh-add"]).success().trim().to_owned();
    let copy = |from: &str, to: &str| {
        let to = sealed.path().join("context/root").join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    copy(&which, "/usr/bin/ssh-add");
    let needed = tool("ldd", &[&which]);
    let libraries = needed.success().split_whitespace().filter(|word| word.starts_with('/'));
    // All in one place, by the name the loader looks for; the loader itself where it has to be.
    for library in libraries {
        let name = Path::new(library).file_name().unwrap().to_str().unwrap();
        copy(library, &format!("/lib/x86_64-linux-gnu/{name}"));
        copy(library, library);
    }
}

fn build(sealed: &Sealed, arguments: &[&str], dockerfile: &str) -> Outcome {
    sealed.write("context/Dockerfile", dockerfile);
    let context = sealed.path().join("context");
    let words = ["build", "--progress=plain", "--no-cache"];
    let words = words.iter().chain(arguments).map(AsRef::as_ref);
    sealed.strake(words.chain([context.as_os_str()]))
}

/// Fails the test if a file below `directory` has these bytes anywhere.
#[track_caller]
pub(crate) fn assert_nowhere(directory: &Path, needle: &[u8]) {
    assert!(needle.len() >= 8);
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            assert_nowhere(&entry.path(), needle);
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap();
            // Unoptimised, comparing each place to the whole needle takes seconds.
            let mut places = (0..bytes.len()).filter(|at| bytes[*at] == needle[0]);
            let found = places.any(|at| bytes[at..].starts_with(needle));
            assert!(!found, "{} has what must be nowhere", entry.path().display());
        }
    }
}

#[test]
fn key_files_sign_inside_a_step_and_stay_outside() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    bring_ssh_add(&sealed);
    let mut files = Vec::new();
    for (name, kind) in KEYS {
        let path = sealed.path().join(name);
        make_key(&path, kind, "");
        fs::copy(path.with_extension("pub"), sealed.path().join("context").join(name)).unwrap();
        files.push(path);
    }
    let listed: Vec<String> = files.iter().map(|path| fingerprint(path)).collect();
    let paths: Vec<&str> = files.iter().map(|path| path.to_str().unwrap()).collect();
    let keys = format!("--ssh=keys={}", paths.join(","));
    let tests: Vec<String> =
        KEYS.iter().map(|(name, _)| format!("ssh-add -T /keys/{name}")).collect();
    let dockerfile = format!(
        "FROM busybox\nCOPY root /\nCOPY {} /keys/\n\
         RUN --mount=type=ssh,id=keys,required ssh-add -l && {} && ! ssh-add -D && ssh-add -l\n",
        KEYS.map(|(name, _)| name).join(" "),
        tests.join(" && ")
    );
    let outcome = build(&sealed, &[&keys, "-t", "signed"], &dockerfile);
    outcome.success();
    for fingerprint in listed {
        let times = outcome.stderr.matches(&fingerprint).count();
        assert!(times >= 2, "{fingerprint} is listed {times} times: {outcome}");
    }
    let archive = sealed.path().join("context/signed.tar").display().to_string();
    sealed.strake(["save", "-o", &archive, "signed"]).success();
    fs::remove_dir_all(sealed.path().join("context/root")).unwrap();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        // A line with bytes of the private half: the last of all, but for Ed25519, where the public
        // half follows again, and for the curves of SEC 1 and PKCS #8, where it follows as well.
        let lines: Vec<&str> = text.lines().collect();
        let line = match path.file_name().unwrap().to_str().unwrap() {
            "sec1" => lines[1],
            "sec1-521" | "pkcs8" | "pkcs8-521" => lines[2],
            "ed25519" | "ecdsa521" | "pkcs8-rsa" => lines[lines.len() - 3],
            _ => lines[lines.len() - 2],
        };
        assert!(!outcome.stderr.contains(line));
        for place in ["store", "context"] {
            assert_nowhere(&sealed.path().join(place), line.as_bytes());
        }
    }
}

/// As `ssh-add -l` and `ssh-keygen -l` show it.
fn fingerprint(key: &Path) -> String {
    let shown = tool("ssh-keygen", &["-lf", key.to_str().unwrap()]);
    shown.success().split_whitespace().nth(1).unwrap().to_owned()
}

/// An agent of OpenSSH as long as the test runs.
struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn new(sealed: &Sealed) -> Agent {
        let socket = sealed.path().join("agent");
        let mut command = Command::new("ssh-agent");
        command.arg("-D").arg("-a").arg(&socket).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let started = Instant::now();
        // The socket is there before anybody listens.
        while UnixStream::connect(&socket).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "the agent does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Agent { child, socket }
    }

    fn add(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new("ssh-add");
        command.args(arguments).env("SSH_AUTH_SOCK", &self.socket).stdin(Stdio::null());
        run(command, Duration::from_secs(60))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_step_uses_the_agent_and_cannot_change_it() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    bring_ssh_add(&sealed);
    let key = sealed.path().join("key");
    make_key(&key, &["-t", "ed25519"], "");
    fs::copy(key.with_extension("pub"), sealed.path().join("context/key.pub")).unwrap();
    let agent = Agent::new(&sealed);
    agent.add(&["-q", key.to_str().unwrap()]).success();
    let dockerfile = "FROM busybox\nCOPY root /\nCOPY key.pub /\n\
        RUN --mount=type=ssh,uid=7,mode=0600 stat -c %u:%a $SSH_AUTH_SOCK && \
            ssh-add -l && ssh-add -T /key.pub && ! ssh-add -D\n";
    let socket = format!("--ssh=default={}", agent.socket.display());
    let outcome = build(&sealed, &[&socket], dockerfile);
    outcome.success();
    assert!(outcome.stderr.contains("7:600"), "{outcome}");
    assert!(outcome.stderr.contains(&fingerprint(&key)), "{outcome}");
    agent.add(&["-l"]).success();
}

#[test]
fn what_is_neither_agent_nor_key_is_refused_with_a_way_out() {
    let sealed = Sealed::new();
    let secret = sealed.path().join("locked");
    make_key(&secret, &["-t", "ed25519"], "a passphrase");
    let old = sealed.path().join("old");
    make_key(&old, &["-t", "ed25519"], "");
    let [pem, pkcs8] = ["PEM", "PKCS8"].map(|format| {
        let path = sealed.path().join(format);
        make_key(&path, &["-t", "ecdsa", "-m", format], "a passphrase");
        path
    });
    let weak = sealed.path().join("weak");
    make_key(&weak, &["-t", "rsa", "-b", "1024"], "");
    let text = sealed.write("text", "no key\n");
    let agent = Agent::new(&sealed);
    let refused = |spec: String, expected: &[&str]| {
        let outcome = build(&sealed, &[&format!("--ssh={spec}")], "FROM scratch\nENV A=1\n");
        let error = outcome.failure(1);
        for part in expected {
            assert!(error.contains(part), "`{part}` is missing: {outcome}");
        }
    };
    let id = |path: &Path| format!("git={}", path.display());
    refused(id(&secret), &["encrypted with a passphrase", "ssh-add", "--ssh git"]);
    for locked in [&pem, &pkcs8] {
        refused(id(locked), &["encrypted with a passphrase", "ssh-add"]);
    }
    refused(id(&weak), &["weak`: ", "TooSmall", "ssh-add"]);
    refused(id(&text), &["it is not a private key of ssh"]);
    refused(id(&sealed.path().join("missing")), &["there is no file `"]);
    refused("default".to_owned(), &["SSH_AUTH_SOCK is not set", "--ssh ID=SOCKET|KEY"]);
    let mixed = format!("{},{}", id(&old), agent.socket.display());
    refused(mixed, &["stands among other paths", "either one socket or any number of keys"]);
}
