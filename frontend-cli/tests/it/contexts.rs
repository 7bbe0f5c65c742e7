//! Contexts that are no directories: archives, texts and repositories behind an address, and what
//! `--build-context` names.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use fs_err as fs;

use crate::oci::Image;
use crate::sealed::{Identity, Outcome, Sealed, run};

/// Serves a directory, and files from memory, on the loopback as long as the test runs.
pub(crate) struct Server {
    address: String,
}

impl Server {
    pub(crate) fn new(directory: &Path, files: BTreeMap<String, Vec<u8>>) -> Server {
        Server::demanding(directory, files, None)
    }

    /// A server that gives files to those alone whose request has the header line.
    pub(crate) fn demanding(
        directory: &Path,
        files: BTreeMap<String, Vec<u8>>,
        header: Option<String>,
    ) -> Server {
        let shared = (directory.to_path_buf(), files, header);
        Server::listen("http", move |mut stream| {
            answer(&mut stream, &shared.0, &shared.1, shared.2.as_deref());
        })
    }

    /// The same behind TLS, for `127.0.0.1`, by the authority of `tls/ca.pem`.
    pub(crate) fn secure(
        directory: &Path,
        files: BTreeMap<String, Vec<u8>>,
        header: Option<String>,
    ) -> Server {
        let shared = (directory.to_path_buf(), files, header);
        let tls = Arc::new(tls());
        Server::listen("https", move |stream| {
            let connection = rustls::ServerConnection::new(tls.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream);
            answer(&mut stream, &shared.0, &shared.1, shared.2.as_deref());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        })
    }

    fn listen(scheme: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("{scheme}://{}", listener.local_addr().unwrap());
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream));
            }
        });
        Server { address }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.address)
    }
}

/// The authority and the server's certificate are for tests alone and good for a hundred years; the
/// authority's key is thrown away.
pub(crate) const AUTHORITY: &str = include_str!("tls/ca.pem");

fn tls() -> rustls::ServerConfig {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = CertificateDer::from_pem_slice(include_bytes!("tls/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap()
}

fn answer(
    stream: &mut (impl Read + Write),
    directory: &Path,
    files: &BTreeMap<String, Vec<u8>>,
    demanded: Option<&str>,
) {
    let mut lines = BufReader::new(&mut *stream).lines();
    let Some(Ok(request)) = lines.next() else { return };
    let headers: Vec<String> =
        lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let refused =
        demanded.is_some_and(|demanded| !headers.iter().any(|h| h.eq_ignore_ascii_case(demanded)));
    let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let path = path.split('?').next().unwrap_or_default();
    let content = files.get(path).cloned().or_else(|| fs::read(directory.join(path)).ok());
    let (status, body) = match content {
        _ if refused => ("401 Unauthorized", Vec::new()),
        Some(content) => ("200 OK", content),
        None => ("404 Not Found", Vec::new()),
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // Who asked may have gone, which is his affair.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Builds and gives every path of the image's layers with its content.
fn files(sealed: &Sealed, arguments: &[&str]) -> BTreeMap<String, String> {
    let archive = sealed.path().join("tmp/result.tar");
    let output = format!("type=oci,dest={}", archive.display());
    build(sealed, &[&["-o", &output], arguments].concat()).success();
    let image = Image::read_archive(&archive);
    let entries = image.layers.into_iter().flatten();
    entries
        .map(|(name, entry)| (name, String::from_utf8_lossy(&entry.content).into_owned()))
        .collect()
}

fn build(sealed: &Sealed, arguments: &[&str]) -> Outcome {
    sealed.strake([&["build"], arguments].concat())
}

fn names(files: &BTreeMap<String, String>) -> Vec<&str> {
    files.keys().map(String::as_str).collect()
}

const COPY: &str = "FROM scratch\nCOPY . /\n";

#[test]
fn an_archive_behind_an_address_is_the_context_and_its_ignore_file_does_not_count() {
    for &identity in Identity::all() {
        let sealed = Sealed::of(identity);
        let tar = archive(&[
            ("Dockerfile", COPY),
            (".dockerignore", "a"),
            ("a", "1"),
            ("sub/Other", "FROM scratch\nCOPY a /other\n"),
        ]);
        let served = [("plain.tar", tar.clone()), ("x.tgz", gzip(&tar))];
        let served = served.map(|(name, content)| (name.to_owned(), content));
        let server = Server::new(sealed.path(), served.into());
        for name in ["plain.tar", "x.tgz"] {
            let found = files(&sealed, &[&server.url(name)]);
            let expected = [".dockerignore", "Dockerfile", "a", "sub", "sub/Other"];
            assert_eq!(names(&found), expected, "{name} as {identity:?}");
        }
        let found = files(&sealed, &["-f", "sub/Other", &server.url("x.tgz")]);
        assert_eq!(found["other"], "1");
        let left = sealed.path().join("store/context-v1/unpacked");
        let left = fs::read_dir(left).map_or(0, Iterator::count);
        assert_eq!(left, 0, "contexts stay behind");
        let kept = fs::read_dir(sealed.path().join("store/context-v1")).unwrap();
        let kept: Vec<_> = kept.map(|entry| entry.unwrap().file_name()).collect();
        assert!(kept.iter().all(|name| name == "unpacked"), "remembered for nobody: {kept:?}");
    }
}

#[test]
fn a_text_behind_an_address_is_the_dockerfile_of_an_empty_context() {
    let sealed = Sealed::new();
    let text = "FROM scratch\nCOPY <<E /made\nhere\nE\n";
    let with_file = "FROM scratch\nCOPY a /\n";
    let served = [("text", text), ("file", with_file)];
    let served = served.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let server = Server::new(sealed.path(), served.into());
    assert_eq!(files(&sealed, &[&server.url("text")])["made"], "here\n");
    let error = build(&sealed, &[&server.url("file")]);
    assert!(error.failure(1).contains("not found"), "{error}");
    let error = build(&sealed, &[&server.url("nothing")]);
    assert!(error.failure(1).contains("404"), "{error}");
    // `-f URL` with a directory.
    sealed.write("context/a", "1");
    let context = sealed.path().join("context").display().to_string();
    assert_eq!(files(&sealed, &["-f", &server.url("file"), &context])["a"], "1");
}

#[test]
fn a_dockerfile_of_an_archive_cannot_be_a_link_out_of_it() {
    let sealed = Sealed::new();
    let outside = sealed.write("outside", "FROM scratch\nLABEL a=b\n");
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "Dockerfile", &outside).unwrap();
    let tar = builder.into_inner().unwrap();
    let server = Server::new(sealed.path(), [("x.tar".to_owned(), tar)].into());
    build(&sealed, &[&server.url("x.tar")]).failure(1);
}

/// A bare repository `repo.git` with two commits on `main`, and a tag at the first.
pub(crate) fn repository(sealed: &Sealed) {
    let tree = sealed.path().join("tree");
    sealed.write("tree/Dockerfile", COPY);
    sealed.write("tree/sub/Dockerfile", COPY);
    sealed.write("tree/sub/inner", "first");
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(&tree).args(["-c", "user.name=a", "-c", "user.email=a@example.com"]);
        command.args(arguments);
        run(command, std::time::Duration::from_secs(60)).success();
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "first"]);
    git(&["tag", "v1"]);
    sealed.write("tree/sub/inner", "second");
    git(&["commit", "-q", "-a", "-m", "second"]);
    git(&["clone", "-q", "--bare", ".", "../repo.git"]);
    git(&["--git-dir", "../repo.git", "update-server-info"]);
}

#[test]
fn a_repository_is_a_context_by_branch_tag_and_directory() {
    let sealed = Sealed::new();
    repository(&sealed);
    let server = Server::new(sealed.path(), BTreeMap::new());
    let url = server.url("repo.git");
    let found = files(&sealed, &[&url]);
    assert_eq!(found["sub/inner"], "second");
    assert!(!found.contains_key(".git"), "{found:?}");
    let found = files(&sealed, &[&format!("{url}#v1:sub")]);
    assert_eq!((names(&found), found["inner"].as_str()), (vec!["Dockerfile", "inner"], "first"));
    let found = files(&sealed, &["-f", "sub/Dockerfile", &format!("{url}#main")]);
    assert_eq!(found["sub/inner"], "second");
    let keep = "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1";
    let found = files(&sealed, &["--build-arg", keep, &url]);
    assert!(found.contains_key(".git/HEAD"), "{found:?}");
    let error = build(&sealed, &[&format!("{url}#nowhere")]);
    assert!(error.failure(1).contains("no branch, tag or commit `nowhere`"), "{error}");
}

#[test]
fn named_contexts_are_directories_archives_and_repositories() {
    let sealed = Sealed::new();
    repository(&sealed);
    sealed.write("dir/from", "dir");
    let tar = gzip(&archive(&[("from", "tar")]));
    let server = Server::new(sealed.path(), [("x.tgz".to_owned(), tar)].into());
    sealed.write("context/Dockerfile", "FROM scratch\nCOPY --from=Named . /\n");
    let context = sealed.path().join("context").display().to_string();
    let named =
        |value: &str| files(&sealed, &["--build-context", &format!("named={value}"), &context]);
    assert_eq!(named(&sealed.path().join("dir").display().to_string())["from"], "dir");
    assert_eq!(named(&server.url("x.tgz"))["from"], "tar");
    assert_eq!(named(&server.url("repo.git#v1:sub"))["inner"], "first");
}

#[test]
fn a_named_context_can_be_for_one_platform_alone() {
    let sealed = Sealed::new();
    for name in ["any", "arm"] {
        sealed.write(&format!("{name}/from"), name);
    }
    sealed.write("context/Dockerfile", "FROM scratch\nCOPY --from=named from /\n");
    let place = |name: &str| sealed.path().join(name).display().to_string();
    let out = place("tmp/out");
    build(
        &sealed,
        &[
            "--build-context",
            &format!("named={}", place("any")),
            "--build-context",
            &format!("named::linux/arm64/v8={}", place("arm")),
            "--platform=linux/amd64,linux/arm64",
            "-o",
            &out,
            &place("context"),
        ],
    )
    .success();
    let read = |platform: &str| fs::read_to_string(format!("{out}/{platform}/from")).unwrap();
    assert_eq!([read("linux_amd64"), read("linux_arm64")], ["any", "arm"]);
}

#[test]
fn a_layout_is_a_context_by_tag_digest_and_platform() {
    let sealed = Sealed::new();
    sealed
        .write("base/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY <<E /arch\n$TARGETARCH\nE\n");
    sealed.write("context/Dockerfile", "FROM base\nCOPY --from=base arch /copied\n");
    let place = |name: &str| sealed.path().join(name).display().to_string();
    let layout = place("tmp/layout");
    let output = format!("type=oci,tar=false,dest={layout}");
    let platforms = "--platform=linux/amd64,linux/arm64";
    build(&sealed, &[platforms, "-t", "b:v1", "-o", &output, &place("base")]).success();
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(format!("{layout}/index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let out = place("tmp/out");
    for spec in [layout.clone(), format!("{layout}:v1"), format!("{layout}:v1@{digest}")] {
        let spec = format!("base=oci-layout://{spec}");
        let arguments = ["--build-context", &spec, platforms, "-o", &out, &place("context")];
        build(&sealed, &arguments).success();
        let read = |platform: &str| fs::read_to_string(format!("{out}/{platform}/copied")).unwrap();
        assert_eq!([read("linux_amd64"), read("linux_arm64")], ["amd64\n", "arm64\n"], "{spec}");
        fs::remove_dir_all(&out).unwrap();
    }
    let spec = format!("base=oci-layout://{layout}:v2");
    let error = build(&sealed, &["--build-context", &spec, &place("context")]);
    assert!(error.failure(1).contains("has no image `v2`"), "{error}");
    // The layout's own names are not given to anything here.
    let images = sealed.strake(["images"]);
    assert!(!images.success().contains("v1"), "{images}");
}
