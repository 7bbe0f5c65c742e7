//! An S3-compatible object store. The requests are the registry client's, their signatures
//! `rusty-s3`'s: a full client would bring a second HTTP stack for eight kinds of requests.
//!
//! ```text
//! get · head · put      one request each
//! fetch                 an object into the store, resumed where a connection broke      [`fetch`]
//! put_file              in parts that are sent, and sent again, each for itself         [`parts`]
//! touch                 an object copied onto itself, so that it counts as new          [`touch`]
//! ```
//!
//! Signatures stand in the query, and so in no error: addresses are printed without.

mod answer;
mod fetch;
mod parts;
mod touch;

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_LENGTH, DATE, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED};
use reqwest::{Method, Request, Response, StatusCode, Url};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};

use self::answer::Refusal;
use super::call::file_body;
use super::transport::{Transport, read_body};
use super::{RegistryConfig, RemoteError};

pub(crate) use self::parts::LARGEST_OBJECT;

/// How long a signature is good for: it is checked when a request begins.
const SIGNED_FOR: Duration = Duration::from_secs(3600);
/// The most that is read of an answer that says what was done, in bytes.
const DOCUMENT_LIMIT: u64 = 64 << 10;
/// How long a server may work before it answers: AWS's says that putting parts together takes
/// "several minutes" at most.
const WORKING: Duration = Duration::from_secs(300);

/// Where a bucket is and who asks.
#[derive(Clone)]
pub struct S3Options {
    /// Its name.
    pub bucket: String,
    /// E.g. `eu-west-1`.
    pub region: String,
    /// The server, if it is not Amazon's.
    pub endpoint: Option<String>,
    /// Whether the bucket is a part of the path and not of the host name.
    pub path_style: bool,
    /// Access key, secret key, session token; without them requests are not signed.
    pub credentials: Option<(String, String, Option<String>)>,
}

impl std::fmt::Debug for S3Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Options")
            .field("bucket", &self.bucket)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// One bucket.
pub(crate) struct S3 {
    transport: Transport,
    bucket: Bucket,
    credentials: Option<Credentials>,
    /// What takes back uploads that were given up half way; see [`parts`].
    abandoned: Mutex<Vec<Url>>,
}

/// What is known of an object.
pub(crate) struct Head {
    /// Its size in bytes, if the server says so.
    length: Option<u64>,
    /// How long ago it was written, if the server says so.
    pub(crate) age: Option<Duration>,
}

/// A signed request that can be sent any number of times.
struct Ask<'a> {
    method: Method,
    url: Url,
    headers: Vec<(HeaderName, String)>,
    payload: Payload<'a>,
    /// How long nothing may move.
    patience: Duration,
}

#[derive(Clone, Copy)]
enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    /// `length` bytes of a file from `offset` on.
    File {
        path: &'a Path,
        offset: u64,
        length: u64,
    },
}

/// What became of a request: what was asked for, or the server's reason.
type Answer<T> = Result<Result<T, Refusal>, RemoteError>;

impl S3 {
    pub(crate) fn new(options: &S3Options, config: RegistryConfig) -> Result<S3, RemoteError> {
        let amazon = || format!("https://s3.{}.amazonaws.com", options.region);
        let endpoint = options.endpoint.clone().unwrap_or_else(amazon);
        let unusable = |reason: String| RemoteError::NoS3 { address: endpoint.clone(), reason };
        let url = Url::parse(&endpoint).map_err(|error| unusable(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(unusable("it is neither http nor https".to_owned()));
        }
        let style = if options.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let (bucket, region) = (options.bucket.clone(), options.region.clone());
        let bucket =
            Bucket::new(url, style, bucket, region).map_err(|error| unusable(error.to_string()))?;
        let credentials = options.credentials.clone().map(|(key, secret, token)| match token {
            Some(token) => Credentials::new_with_token(key, secret, token),
            None => Credentials::new(key, secret),
        });
        let abandoned = Mutex::default();
        Ok(S3 { transport: Transport::new(config), bucket, credentials, abandoned })
    }

    /// The object, of at most `limit` bytes; `None` if it is not there.
    pub(crate) async fn get(&self, key: &str, limit: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        let ask = self.ask(&self.bucket.get_object(self.credentials.as_ref(), key));
        match self.send(&ask).await? {
            Ok(response) => {
                read_body(response, limit, self.transport.config.patience).await.map(Some)
            }
            Err(refusal) if refusal.is_missing() => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// What is known of the object, if it is there and as long as it should be.
    pub(crate) async fn head(&self, key: &str, size: u64) -> Result<Option<Head>, RemoteError> {
        let ask = self.ask(&self.bucket.head_object(self.credentials.as_ref(), key));
        match self.send(&ask).await? {
            Ok(response) => {
                let head = Head::of(response.headers());
                Ok(Some(head).filter(|head| head.length.is_none_or(|length| length == size)))
            }
            // Who may not list a bucket is told 403 of what is not there.
            Err(refusal) if refusal.is_missing() || refusal.status == StatusCode::FORBIDDEN => {
                Ok(None)
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Stores bytes.
    pub(crate) async fn put(&self, key: &str, bytes: &[u8]) -> Result<(), RemoteError> {
        let ask = self.ask(&self.bucket.put_object(self.credentials.as_ref(), key));
        let ask = ask.carrying(Payload::Bytes(bytes));
        self.send(&ask).await?.map(drop).map_err(RemoteError::from)
    }

    /// Stores the first `length` bytes of a file.
    pub(crate) async fn put_file(
        &self,
        key: &str,
        path: &Path,
        length: u64,
    ) -> Result<(), RemoteError> {
        if length > parts::SMALLEST {
            return self.put_parts(key, path, length).await;
        }
        let ask = self.ask(&self.bucket.put_object(self.credentials.as_ref(), key));
        let ask = ask.carrying(Payload::File { path, offset: 0, length });
        self.send(&ask).await?.map(drop).map_err(RemoteError::from)
    }

    /// A request for an action, signed now.
    fn ask<'a, 'b, A: S3Action<'b>>(&self, action: &A) -> Ask<'a> {
        let method = Method::from_bytes(A::METHOD.to_str().as_bytes());
        Ask {
            method: method.expect("the methods of S3 are methods"),
            url: action.sign(SIGNED_FOR),
            headers: Vec::new(),
            payload: Payload::None,
            patience: self.transport.config.patience,
        }
    }

    /// Sends a request, again if the server says that it might work later.
    async fn send(&self, ask: &Ask<'_>) -> Answer<Response> {
        let mut attempt = 1;
        loop {
            let answer = self.send_once(ask).await;
            match self.pause(attempt, &answer) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return answer,
            }
            attempt += 1;
        }
    }

    /// As [`S3::send`], for requests that are answered with a document. One that takes long begins
    /// with a success, and may be of a failure nevertheless.
    async fn send_for_document(&self, ask: &Ask<'_>) -> Answer<String> {
        let mut attempt = 1;
        loop {
            let answer = match self.send_once(ask).await {
                Ok(Ok(response)) => self.document(response, ask.patience).await,
                Ok(Err(refusal)) => Ok(Err(refusal)),
                Err(error) => Err(error),
            };
            match self.pause(attempt, &answer) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return answer,
            }
            attempt += 1;
        }
    }

    async fn document(&self, response: Response, patience: Duration) -> Answer<String> {
        let (url, status) = (response.url().clone(), response.status());
        let headers = response.headers().clone();
        let body = read_body(response, DOCUMENT_LIMIT, patience).await?;
        Ok(match Refusal::in_document(&url, status, &headers, &body) {
            Some(refusal) => Err(refusal),
            None => Ok(String::from_utf8_lossy(&body).into_owned()),
        })
    }

    /// How long to wait before the next try, if there is to be one.
    fn pause<T>(&self, attempt: u32, answer: &Answer<T>) -> Option<Duration> {
        let config = &self.transport.config;
        let asked = match answer {
            Ok(Err(refusal)) if refusal.is_temporary() => refusal.retry_after,
            Err(RemoteError::Connection { .. } | RemoteError::Stalled { .. }) => None,
            Ok(_) | Err(_) => return None,
        };
        let pause = asked.unwrap_or_else(|| self.transport.backoff(attempt));
        (attempt < config.attempts && pause <= config.longest_wait).then_some(pause)
    }

    async fn send_once(&self, ask: &Ask<'_>) -> Answer<Response> {
        let mut request = Request::new(ask.method.clone(), ask.url.clone());
        let sent = Arc::<AtomicU64>::default();
        let length = match ask.payload {
            Payload::None => 0,
            Payload::Bytes(bytes) => {
                *request.body_mut() = Some(bytes.to_vec().into());
                bytes.len() as u64
            }
            Payload::File { path, offset, length } => {
                let bytes = offset..offset + length;
                let body = file_body(path.to_owned(), bytes, Some(Arc::clone(&sent))).await?;
                *request.body_mut() = Some(body);
                length
            }
        };
        let headers = request.headers_mut();
        if !matches!(ask.method, Method::GET | Method::HEAD) {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        for (name, value) in &ask.headers {
            let value = HeaderValue::from_str(value).map_err(|error| RemoteError::NoS3 {
                address: super::error::address(&ask.url),
                reason: error.to_string(),
            })?;
            headers.insert(name.clone(), value);
        }
        let response = self.transport.execute(request, Some(&sent), ask.patience).await?;
        if response.status().is_success() {
            return Ok(Ok(response));
        }
        Ok(Err(Refusal::of(response).await))
    }
}

impl<'a> Ask<'a> {
    fn carrying(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }

    fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// For what the server works on before it answers.
    fn patiently(mut self) -> Self {
        self.patience = self.patience.max(WORKING);
        self
    }
}

impl Head {
    fn of(headers: &HeaderMap) -> Head {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let time = |name| jiff::fmt::rfc2822::parse(text(name)?).ok().map(|date| date.timestamp());
        // By the server's clock, if it shows one: ours may be another.
        let now = time(DATE).or_else(|| jiff::Timestamp::try_from(SystemTime::now()).ok());
        let age =
            now.zip(time(LAST_MODIFIED)).map(|(now, then)| now.as_second() - then.as_second());
        Head {
            length: text(CONTENT_LENGTH).and_then(|text| text.parse().ok()),
            age: age.map(|seconds| Duration::from_secs(seconds.max(0) as u64)),
        }
    }
}
