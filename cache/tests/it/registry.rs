//! A registry on loopback that misbehaves as a test tells it to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cache::image::document::{descriptor, write_manifest};
use cache::oci::{Descriptor, Digest, ImageName, MediaType};

/// A request as it came in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
    /// What an S3 store is to copy.
    pub(crate) copy_source: Option<String>,
    pub(crate) copy_range: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The length that is told of the body, if it is not its own.
    length: Option<u64>,
    /// Hang up after this many bytes of the body.
    cut: Option<usize>,
    /// Do not hang up after the body, or the part of it that was sent.
    hang: bool,
    /// Say nothing until the other side hangs up.
    silent: bool,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Reply {
        Reply { status, ..Reply::default() }
    }

    pub(crate) fn body(bytes: &[u8]) -> Reply {
        Reply { status: 200, body: bytes.to_vec(), ..Reply::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn status(mut self, status: u16) -> Reply {
        self.status = status;
        self
    }

    pub(crate) fn cut(mut self, bytes: usize) -> Reply {
        self.cut = Some(bytes);
        self
    }

    pub(crate) fn length(mut self, bytes: u64) -> Reply {
        self.length = Some(bytes);
        self
    }

    pub(crate) fn hang(mut self) -> Reply {
        self.hang = true;
        self
    }

    pub(crate) fn silent() -> Reply {
        Reply { silent: true, ..Reply::default() }
    }
}

/// A server that answers every request with what `answer` says, one request per connection.
pub(crate) struct FakeRegistry {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl FakeRegistry {
    /// `answer` gets the request and its number among those with the same method and path, from 0.
    pub(crate) fn start(answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, answer) = (seen.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, answer) = (log.clone(), answer.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &log, &*answer));
            }
        });
        FakeRegistry { address, seen }
    }

    pub(crate) fn name(&self, rest: &str) -> ImageName {
        format!("{}/{rest}", self.address).parse().unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The requests of a path, query aside.
    pub(crate) fn requests(&self, method: &str, path: &str) -> Vec<Seen> {
        let fits = |seen: &Seen| {
            seen.method == method && seen.path.split('?').next().unwrap_or_default() == path
        };
        self.seen().into_iter().filter(fits).collect()
    }
}

fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<Seen>>,
    answer: &(dyn Fn(&Seen, usize) -> Reply + Send + Sync),
) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let Some(seen) = read_request(&mut reader) else { return };
    let number = {
        let mut log = log.lock().unwrap();
        let number = log.iter().filter(|other| other.line() == seen.line()).count();
        log.push(seen.clone());
        number
    };
    let reply = answer(&seen, number);
    let mut stream = stream;
    if reply.silent {
        // Ends when the client gives up, or the test's time is over.
        let _ = reader.read(&mut [0]);
        return;
    }
    let mut head = format!(
        "HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {}\r\n",
        reply.status,
        reply.length.unwrap_or(reply.body.len() as u64)
    );
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let body = match seen.method.as_str() {
        "HEAD" => &[],
        _ => &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())],
    };
    // A client that hung up is the client's decision.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    if reply.hang {
        let _ = reader.read(&mut [0]);
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let mut seen = Seen {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        ..Seen::default()
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "host" => seen.host = value,
            "authorization" => seen.authorization = Some(value),
            "range" => seen.range = Some(value),
            "x-amz-copy-source-range" => seen.copy_range = Some(value),
            "x-amz-copy-source" => seen.copy_source = Some(value),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    seen.body = vec![0; length];
    reader.read_exact(&mut seen.body).ok()?;
    Some(seen)
}

/// A small image with one layer of the given bytes, which need not be a tar.
#[derive(Clone)]
pub(crate) struct Fixture {
    pub(crate) layer: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

impl Fixture {
    pub(crate) fn new(layer: &[u8], architecture: &str) -> Fixture {
        let diff_id = Digest::of(layer);
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
        )
        .into_bytes();
        let manifest = oci_spec::image::ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(descriptor(MediaType::ImageConfig, config.len() as u64, &Digest::of(&config)))
            .layers(vec![descriptor(MediaType::ImageLayer, layer.len() as u64, &diff_id)])
            .build()
            .unwrap();
        Fixture { layer: layer.to_vec(), config, manifest: write_manifest(&manifest) }
    }

    pub(crate) fn layer_descriptor(&self) -> Descriptor {
        descriptor(MediaType::ImageLayer, self.layer.len() as u64, &Digest::of(&self.layer))
    }

    /// The registry's proper answer to a request, in any repository and under any tag.
    pub(crate) fn answer(&self, seen: &Seen) -> Reply {
        let path = seen.path.split('?').next().unwrap_or_default();
        if path == "/v2/" {
            return Reply::body(b"{}");
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        if path.contains("/manifests/") {
            return Reply::body(&self.manifest)
                .header("Content-Type", MediaType::ImageManifest)
                .header("Docker-Content-Digest", Digest::of(&self.manifest));
        }
        for blob in [&self.config, &self.layer] {
            if path.contains("/blobs/") && Digest::of(blob).to_string() == last {
                return Reply::body(blob);
            }
        }
        Reply::new(404)
    }
}
