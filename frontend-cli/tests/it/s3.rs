//! The build cache in an S3 store that checks the signature of every request.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::sealed::{images, repository};
use crate::travel::{Machine, executed};

/// How long something may take that needs no more than a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server of `testdata/s3` on loopback, with the bucket `caches`; ends with the value.
struct S3 {
    child: Child,
    port: u16,
}

impl S3 {
    fn start() -> S3 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let moto = images().with_file_name("moto");
        assert!(moto.is_dir(), "`{}` is needed (`make test` installs it)", moto.display());
        let child = Command::new("python3")
            .env("PYTHONPATH", &moto)
            .arg(repository().join("testdata/s3/server"))
            .args([&port.to_string(), "key", "secret", "a token+/="])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = S3 { child, port };
        let started = Instant::now();
        while TcpStream::connect(server.address()).is_err() {
            assert!(started.elapsed() < PATIENCE, "the S3 server does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        server.ask("PUT /caches");
        server
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The test's own request, which needs no signature: its answer.
    #[track_caller]
    fn ask(&self, line: &str) -> String {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        let headers = "Host: x\r\nX-Test: yes\r\nContent-Length: 0\r\nConnection: close";
        write!(stream, "{line} HTTP/1.1\r\n{headers}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{line}: {answer}");
        answer
    }

    /// Uploads in parts that are neither finished nor taken back.
    fn open_uploads(&self) -> usize {
        self.ask("GET /caches?uploads").matches("<UploadId>").count()
    }

    /// What `type=s3` wants to know of it; the prefix has characters that are encoded.
    fn spec(&self, secret: &str) -> String {
        format!(
            "type=s3,bucket=caches,region=us-east-1,endpoint_url=http://{},use_path_style=true,\
             access_key_id=key,secret_access_key={secret},session_token=a token+/=,\
             prefix=a team+ü/(x)~=/,name=app",
            self.address()
        )
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A machine whose builds make a layer of 20 MB, which goes in parts.
fn machine() -> Machine {
    let machine = Machine::new();
    let mut state = 1_u64;
    let words = (0..2_500_000).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    machine.0.write("context/file", words.collect::<Vec<u8>>());
    machine
}

#[test]
fn an_s3_store_carries_a_cache() {
    let (here, there, server) = (machine(), Machine::new(), S3::start());
    fs::copy(here.path("context/file"), there.path("context/file")).unwrap();
    let s3 = server.spec("secret");
    server.ask("POST /-/slow");
    let outcome = here.build(&["--cache-to", &format!("{s3},mode=max")]);
    assert!(!outcome.stderr.contains("was not written"), "{outcome}");
    let listed = server.ask("GET /caches?list-type=2");
    assert!(listed.contains("<Key>a team+ü/(x)~=/manifests/app</Key>"), "{listed}");
    // The ETag of an object that came in parts tells how many.
    assert!(listed.contains("-2&quot;</ETag>") || listed.contains("-2\"</ETag>"), "{listed}");
    assert_eq!(server.open_uploads(), 0);
    let outcome = there.build(&["--cache-from", &s3]);
    assert_eq!(executed(&outcome), [""; 0], "{outcome}");
    assert_eq!(here.file("stamp"), there.file("stamp"));

    // What is there already is not sent again; what has got old is as if it were new.
    let export = |s3: &str| here.0.strake(["cache", "export", "--no-mounts", s3]);
    export(&s3).success();
    server.ask("POST /-/age");
    let day = || server.ask("GET /caches?list-type=2").matches(&written_today()).count();
    assert_eq!(day(), 0);
    let again = export(&s3);
    again.success();
    assert!(again.stderr.contains(" 0 blobs were sent"), "{again}");
    let objects = server.ask("GET /caches?list-type=2").matches("<Key>").count();
    // All but the manifest's old blobs: what no document names any more.
    assert!(day() + 1 >= objects, "{} of {objects}", day());
    let missing = format!("{s3}2");
    let outcome = there.build(&["--cache-from", &missing]);
    assert!(outcome.stderr.contains("there is no build cache at s3://caches/"), "{outcome}");

    let wrong = there.build(&["--cache-from", &server.spec("another")]);
    let words = "403 Forbidden: SignatureDoesNotMatch: The request signature we calculated";
    assert!(wrong.stderr.contains(words), "{wrong}");
}

/// How a listing shows the time of an object that was written today.
fn written_today() -> String {
    let output = Command::new("date").args(["-u", "+<LastModified>%F"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_bucket_may_be_a_host_name() {
    let (mut here, server) = (Machine::new(), S3::start());
    // Nobody resolves the name but the proxy.
    here.0.set("http_proxy", format!("http://{}", server.address()));
    let s3 = server.spec("secret").replace(",use_path_style=true", "");
    let s3 = s3.replace(&server.address(), "s3.amazonaws.com");
    let outcome = here.build(&["--cache-to", &s3]);
    assert!(!outcome.stderr.contains("was not written"), "{outcome}");
    let listed = server.ask("GET /caches?list-type=2");
    assert!(listed.contains("<Key>a team+ü/(x)~=/manifests/app</Key>"), "{listed}");
}

#[test]
fn an_interrupted_upload_leaves_no_parts() {
    let (here, server) = (machine(), S3::start());
    let s3 = server.spec("secret");
    here.build(&[]);
    server.ask("POST /-/hold");
    let mut command = here.0.strake_command(["cache", "export", "--no-mounts", &s3]);
    let mut export = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while server.open_uploads() == 0 {
        assert!(started.elapsed() < PATIENCE, "nothing is sent");
        assert!(export.try_wait().unwrap().is_none(), "the export ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    let started = Instant::now();
    let process = rustix::process::Pid::from_child(&export);
    rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    assert!(!export.wait().unwrap().success());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(server.open_uploads(), 0);
}
