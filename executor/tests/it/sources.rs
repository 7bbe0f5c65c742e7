//! Files over HTTP and git checkouts, from servers on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use cache::oci::Digest;
use solver::llb::{GitSource, HttpSource, Op, Selector, SourceOp};
use solver::{ContentRequest, Worker};

use crate::Case;
use crate::scene::{Machine, Ran, Scene, copy, eventually, vertex};

pub(crate) const CASES: &[Case] = &[
    ("a_file_comes_over_http_once", a_file_comes_over_http_once),
    ("a_checksum_decides", a_checksum_decides),
    ("an_http_error_is_an_error", an_http_error_is_an_error),
    ("a_git_reference_becomes_its_files", a_git_reference_becomes_its_files),
    ("a_git_repository_cannot_reach_this_machine", a_git_repository_cannot_reach_this_machine),
    (
        "the_files_of_an_image_are_unpacked_when_needed",
        the_files_of_an_image_are_unpacked_when_needed,
    ),
];

/// Answers every request with the same file, and writes down what it was asked.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(body: &'static str, etag: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = Vec::new();
                for line in BufReader::new(&stream).lines() {
                    match line {
                        Ok(line) if !line.is_empty() => lines.push(line.to_lowercase()),
                        _ => break,
                    }
                }
                let known =
                    lines.iter().any(|l| l.starts_with("if-none-match:") && l.contains(etag));
                let (status, body) = match lines.first().map(String::as_str) {
                    Some(first) if first.contains("/missing") => ("404 Not Found", "no"),
                    _ if known => ("304 Not Modified", ""),
                    _ => ("200 OK", body),
                };
                seen.lock().unwrap().push(format!("{} {status}", lines[0]));
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"{etag}\"\r\n\
                     Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Self { url, requests }
    }

    fn statuses(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|r| r.split("http/1.1 ").nth(1).unwrap().to_owned()).collect()
    }
}

fn http(url: &str, checksum: Option<Digest>) -> HttpSource {
    HttpSource {
        url: url.to_owned(),
        checksum,
        filename: "file.txt".to_owned(),
        mode: 0o600,
        uid: 0,
        gid: 0,
    }
}

fn fetch(scene: &Scene, source: SourceOp) -> Ran {
    scene.exec(vertex(Op::Source(source)), Vec::new())
}

fn state(scene: &Scene, source: SourceOp) -> String {
    let worker = scene.worker();
    let vertex = Arc::new(vertex(Op::Source(source)));
    let request = ContentRequest { vertex, output: None, selector: Selector::everything() };
    scene.runtime.block_on(worker.content(request)).unwrap().fingerprint.to_string()
}

fn a_file_comes_over_http_once(machine: &Machine) {
    let scene = Scene::new(machine);
    let server = Server::new("over the wire", "v1");
    let source = || http(&format!("{}/x/file.txt", server.url), None);
    let first = state(&scene, SourceOp::Http(source()));
    let fetched = fetch(&scene, SourceOp::Http(source())).input();
    assert_eq!(state(&scene, SourceOp::Http(source())), first);
    assert_eq!(server.statuses(), ["200 OK", "304 Not Modified", "304 Not Modified"]);
    let mut action = copy("/file.txt", "/");
    action.from_context = false;
    let copied = scene.copy(action, fetched).input();
    let log = scene.run_on(copied, "cat /file.txt; stat -c ' %a %u %Y' /file.txt").log();
    assert_eq!(log, "over the wire 600 0 1445412480\n");
    let other = Server::new("something else", "v1");
    assert_ne!(state(&scene, SourceOp::Http(http(&other.url, None))), first);
}

fn a_checksum_decides(machine: &Machine) {
    let scene = Scene::new(machine);
    let server = Server::new("over the wire", "v1");
    let right = Digest::of(b"over the wire");
    fetch(&scene, SourceOp::Http(http(&server.url, Some(right)))).output();
    fetch(&scene, SourceOp::Http(http(&server.url, Some(right)))).output();
    assert_eq!(server.statuses().len(), 1, "what is here need not be asked for");
    let wrong = Digest::of(b"something else");
    let error = fetch(&scene, SourceOp::Http(http(&server.url, Some(wrong)))).error();
    assert_eq!(error, format!("digest mismatch {right}: {wrong}"));
}

fn an_http_error_is_an_error(machine: &Machine) {
    let scene = Scene::new(machine);
    let server = Server::new("x", "v1");
    let url = server.url.replace("http://", "http://user:secret@") + "/missing";
    let error = fetch(&scene, SourceOp::Http(http(&url, None))).error();
    assert!(error.contains("the server answers 404 Not Found"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

/// A repository with a tag and a branch, and a daemon that serves it.
struct Repository {
    url: String,
    commits: Vec<String>,
    daemon: Child,
}

impl Drop for Repository {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_COMMITTER_DATE", "2001-02-03T04:05:06Z")
        .output()
        .expect("git is needed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Repository {
    fn new(scene: &Scene) -> Self {
        let base = scene.dir.path().join("git");
        let dir = base.join("r");
        fs_err::create_dir_all(dir.join("sub")).unwrap();
        git(&dir, &["init", "-q"]);
        let mut commits = Vec::new();
        for content in ["one", "two"] {
            fs_err::write(dir.join("sub/f"), content).unwrap();
            fs_err::write(dir.join("top"), content).unwrap();
            let _ = std::os::unix::fs::symlink("/etc", dir.join("out"));
            git(&dir, &["add", "."]);
            git(&dir, &["commit", "-q", "-m", content]);
            if content == "one" {
                git(&dir, &["tag", "-a", "-m", "x", "v1"]);
            }
            commits.push(git(&dir, &["rev-parse", "HEAD"]));
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Not through `git`, which would be the parent of the daemon and die alone.
        let programs = git(&base, &["--exec-path"]);
        let daemon = Command::new(Path::new(&programs).join("git-daemon"))
            .args(["--export-all", "--reuseaddr", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", base.display()))
            .arg(&base)
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the git daemon does not listen", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { url: format!("git://127.0.0.1:{port}/r"), commits, daemon }
    }
}

fn source(url: &str, reference: Option<&str>) -> GitSource {
    GitSource {
        url: url.to_owned(),
        reference: reference.map(str::to_owned),
        subdir: None,
        keep_git_dir: false,
        checksum: None,
        submodules: true,
        commit_time: true,
    }
}

fn a_git_reference_becomes_its_files(machine: &Machine) {
    let scene = Scene::new(machine);
    let repository = Repository::new(&scene);
    let files = |source: GitSource| {
        let fetched = fetch(&scene, SourceOp::Git(source)).input();
        let mut action = copy("/", "/src");
        action.from_context = false;
        let copied = scene.copy(action, fetched).input();
        scene.run_on(copied, "cd /src; find . -type f | sort; cat $(find . -name f); stat -c ' %a %Y' $(find . -name f)").log()
    };
    let url = &repository.url;
    assert_eq!(files(source(url, None)), "./sub/f\n./top\ntwo 644 981173106\n");
    assert_eq!(files(source(url, Some("v1"))), "./sub/f\n./top\none 644 981173106\n");
    let first = Some(repository.commits[0].as_str());
    let subdir = GitSource { subdir: Some("/sub".into()), ..source(url, first) };
    assert_eq!(files(subdir.clone()), "./f\none 644 981173106\n");
    let kept = GitSource { keep_git_dir: true, subdir: None, ..subdir };
    assert!(files(kept).contains("./.git/HEAD\n"));

    let of = |reference| state(&scene, SourceOp::Git(source(url, reference)));
    assert_eq!(of(Some("v1")), of(first));
    assert_ne!(of(Some("v1")), of(Some("main")));
    let wrong = GitSource { checksum: Some("abc1234".into()), ..source(url, Some("main")) };
    let error = fetch(&scene, SourceOp::Git(wrong)).error();
    assert!(error.starts_with("digest mismatch "), "{error}");
    let error = fetch(&scene, SourceOp::Git(source(url, Some("nope")))).error();
    assert!(error.contains("it has no branch, tag or commit `nope`"), "{error}");
}

fn a_git_repository_cannot_reach_this_machine(machine: &Machine) {
    let scene = Scene::new(machine);
    let repository = Repository::new(&scene);
    for subdir in ["../../..", "out"] {
        let escaping = GitSource { subdir: Some(subdir.into()), ..source(&repository.url, None) };
        match fetch(&scene, SourceOp::Git(escaping)).result {
            Ok(output) => assert!(!scene.layer(&output).iter().any(|name| name == "passwd")),
            Err(error) => {
                assert!(error.to_string().contains("is not in the repository"), "{error}")
            }
        }
    }
    let local = format!("file://{}", scene.dir.path().join("git/r").display());
    for url in [local.as_str(), "ext::sh -c true", "--upload-pack=touch /tmp/x"] {
        let error = fetch(&scene, SourceOp::Git(source(url, None))).error();
        assert!(error.starts_with("cannot ask git repository"), "{error}");
    }
}

fn the_files_of_an_image_are_unpacked_when_needed(machine: &Machine) {
    let scene = Scene::new(machine);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(5);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, "from-image", &b"image"[..]).unwrap();
    let layer = tar.into_inner().unwrap();
    let digest = scene.store.blobs().put(&layer).unwrap();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{}}}]}}"#,
        Digest::of(config.as_bytes()),
        config.len(),
        layer.len(),
    );
    let image = scene.store.images().put(manifest.as_bytes(), config.as_bytes()).unwrap();
    let source = solver::llb::ImageSource {
        name: "example.com/x:1".parse().unwrap(),
        digest: image.manifest_digest,
        config: image.config_digest,
        diff_ids: image.config.rootfs.diff_ids.clone(),
        platform: "linux/amd64".parse().unwrap(),
    };
    let fetched = fetch(&scene, SourceOp::Image(source.clone())).output();
    assert_eq!(scene.layer(&fetched), ["from-image"]);
    let again = fetch(&scene, SourceOp::Image(source)).output();
    assert_eq!(again, fetched, "unpacked twice");
}
