//! One request to a registry, seen through to its answer: authentication, redirects, retries.
//!
//! Redirects are followed here and not by the HTTP library, because here it is known which host a
//! credential is for and which hosts may be talked to over http.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Client, Method, Request, Response, StatusCode, Url};
use tokio::sync::{OnceCell, Semaphore};

use super::auth::{Scope, Token};
use super::call::{Body, Call, file_body};
use super::error::{address, words};
use super::{RegistryConfig, RemoteError};

/// As many as browsers and Go follow.
const REDIRECTS: usize = 10;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest wait between two tries that nobody asked for.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// The most that is read of an error's explanation, in bytes.
const ERROR_LIMIT: u64 = 64 << 10;

/// A registry, and what was learnt about it.
pub(super) struct Host {
    /// As image names have it.
    pub(super) registry: String,
    /// `https://registry-1.docker.io/`.
    pub(super) base: Url,
    /// Bounds the blobs on their way.
    pub(super) blobs: Semaphore,
    tokens: tokio::sync::Mutex<HashMap<Vec<Scope>, Token>>,
}

impl Host {
    pub(super) fn new(registry: String, base: Url, parallel: usize) -> Host {
        Host { registry, base, blobs: Semaphore::new(parallel.max(1)), tokens: Default::default() }
    }

    /// An address below `/v2/`. The path holds checked names and digests only.
    pub(super) fn url(&self, path: &str) -> Url {
        self.base.join(&format!("v2/{path}")).expect("a checked path joins any base")
    }

    /// Whether a credential for this registry may travel to `url`.
    fn owns(&self, url: &Url) -> bool {
        self.base.origin() == url.origin()
    }
}

/// The clients, and the hosts they have talked to.
pub(super) struct Transport {
    pub(super) config: RegistryConfig,
    /// By whether they go past proxies, and whether they speak TLS.
    clients: [[OnceLock<Client>; 2]; 2],
    hosts: Mutex<HashMap<String, Arc<OnceCell<Arc<Host>>>>>,
}

impl Transport {
    pub(super) fn new(config: RegistryConfig) -> Transport {
        Transport { config, clients: Default::default(), hosts: Mutex::default() }
    }

    /// The client for an address. Loopback is never behind a proxy, and http needs no root
    /// certificates: reading the system's takes longer than a request, and there may be none.
    ///
    /// Every socket towards a registry is opened by a client from here, so that here is also where
    /// being offline is kept.
    pub(super) fn client(&self, url: &Url) -> Result<Client, RemoteError> {
        if self.config.offline {
            return Err(RemoteError::Offline { address: address(url) });
        }
        let loopback = url.host_str().is_some_and(is_loopback);
        let encrypted = url.scheme() == "https";
        let slot = &self.clients[usize::from(loopback)][usize::from(encrypted)];
        if let Some(client) = slot.get() {
            return Ok(client.clone());
        }
        // Whoever installed a provider before is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("strake/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(Duration::from_secs(30));
        if loopback {
            builder = builder.no_proxy();
        }
        if !encrypted {
            builder = builder.tls_certs_only([]);
        }
        let client = builder
            .build()
            .map_err(|source| RemoteError::Client { source: source.without_url() })?;
        Ok(slot.get_or_init(|| client).clone())
    }

    /// The registry of an image name. Asks it how it wants to be spoken to, the first time.
    pub(super) async fn host(&self, registry: &str) -> Result<Arc<Host>, RemoteError> {
        let cell = {
            let mut hosts = self.hosts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            hosts.entry(registry.to_owned()).or_default().clone()
        };
        let host = cell.get_or_try_init(|| async {
            let server = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
            let base = |scheme| {
                Url::parse(&format!("{scheme}://{server}/")).map_err(|_| RemoteError::Protocol {
                    address: server.to_owned(),
                    reason: "it is no host name".to_owned(),
                })
            };
            let plain = base("http")?;
            let speaks_http = self.may_use(&plain) && self.speaks_http(&plain).await?;
            let base = if speaks_http { plain } else { base("https")? };
            Ok(Arc::new(Host::new(registry.to_owned(), base, self.config.parallel)))
        });
        host.await.cloned()
    }

    /// Whether a host that may be talked to over http does that. Sends no credential.
    async fn speaks_http(&self, base: &Url) -> Result<bool, RemoteError> {
        let url = base.join("v2/").expect("a relative path");
        let request = Request::new(Method::GET, url.clone());
        let answer =
            tokio::time::timeout(self.config.patience, self.client(&url)?.execute(request));
        Ok(match answer.await {
            // A TLS server answers plain text with 400, or hangs up; anything else is a registry,
            // in whatever mood.
            Ok(Ok(response)) => response.status() != StatusCode::BAD_REQUEST,
            // Nobody listens, so https will not help; the request itself says what is wrong.
            Ok(Err(error)) => error.is_connect(),
            Err(_) => true,
        })
    }

    /// Whether an address may be talked to at all: https, or http where that is allowed.
    pub(super) fn may_use(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        match url.scheme() {
            "https" => true,
            "http" => {
                let with_port = url.port().map(|port| format!("{host}:{port}"));
                let listed = |own: &String| own == host || Some(own) == with_port.as_ref();
                is_loopback(host) || self.config.insecure.iter().any(listed)
            }
            _ => false,
        }
    }

    /// Sends a call until there is an answer that is neither a redirect, nor a challenge that can
    /// be met, nor a "later". Other failures of the registry are answers too.
    pub(super) async fn send(&self, host: &Host, call: &Call<'_>) -> Result<Response, RemoteError> {
        let mut attempt = 1;
        loop {
            let wait = match self.send_once(host, call).await {
                Ok(response) => {
                    let status = response.status();
                    if !is_temporary(status) {
                        return Ok(response);
                    }
                    let asked = retry_after(response.headers(), SystemTime::now());
                    if let Some(asked) = asked
                        && asked > self.config.longest_wait
                    {
                        return Err(RemoteError::RateLimited {
                            registry: host.registry.clone(),
                            seconds: asked.as_secs(),
                        });
                    }
                    if attempt >= self.config.attempts {
                        return Ok(response);
                    }
                    asked
                }
                Err(error) if attempt < self.config.attempts && is_worth_another_try(&error) => {
                    None
                }
                Err(error) => return Err(error),
            };
            tokio::time::sleep(wait.unwrap_or_else(|| self.backoff(attempt))).await;
            attempt += 1;
        }
    }

    /// The pause after a failed try, counted from 1.
    pub(super) fn backoff(&self, attempt: u32) -> Duration {
        let doubled = self.config.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(16));
        doubled.min(LONGEST_BACKOFF)
    }

    /// Sends a call whose body belongs to an upload session: a try that fails takes the session
    /// with it, so only a "later" is answered here, and only by waiting as long as asked.
    pub(super) async fn send_body(
        &self,
        host: &Host,
        call: &Call<'_>,
    ) -> Result<Response, RemoteError> {
        let response = self.send_once(host, call).await?;
        if let Some(asked) = retry_after(response.headers(), SystemTime::now())
            && is_temporary(response.status())
            && asked <= self.config.longest_wait
        {
            tokio::time::sleep(asked).await;
        }
        Ok(response)
    }

    /// One try: with redirects, and with a second request if the first was challenged.
    async fn send_once(&self, host: &Host, call: &Call<'_>) -> Result<Response, RemoteError> {
        let token =
            host.tokens.lock().await.get(call.scopes).filter(|token| token.is_fresh()).cloned();
        let response = self.follow(host, call, token.as_ref()).await?;
        // A challenge from elsewhere is not ours to answer.
        if response.status() != StatusCode::UNAUTHORIZED || !host.owns(response.url()) {
            return Ok(response);
        }
        let headers = response.headers().clone();
        drop(response);
        let renewed = {
            // One buys, the others wait here and find it.
            let mut tokens = host.tokens.lock().await;
            let refused = token.as_ref().map(|token| &token.header);
            let known = tokens.get(call.scopes).filter(|known| known.is_fresh());
            match known.filter(|known| Some(&known.header) != refused) {
                Some(known) => Some(known.clone()),
                None => {
                    tokens.remove(call.scopes);
                    let bought = self.answer(host, call.repository, call.scopes, &headers).await?;
                    if let Some(token) = &bought {
                        tokens.insert(call.scopes.to_vec(), token.clone());
                    }
                    bought
                }
            }
        };
        self.follow(host, call, renewed.or(token).as_ref()).await
    }

    /// Follows redirects of requests that only read.
    async fn follow(
        &self,
        host: &Host,
        call: &Call<'_>,
        token: Option<&Token>,
    ) -> Result<Response, RemoteError> {
        let mut url = call.url.clone();
        for _ in 0..=REDIRECTS {
            let request = self.request(host, call, &url, token).await?;
            let patience = self.config.patience;
            let response = self.execute(request, call.sent.as_deref(), patience).await?;
            let reads = matches!(call.method, Method::GET | Method::HEAD);
            let status = response.status();
            if !(reads && status.is_redirection() && status != StatusCode::NOT_MODIFIED) {
                return Ok(response);
            }
            let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let refused = |target: String, reason| RemoteError::Redirect {
                address: address(&url),
                target,
                reason,
            };
            let Some(target) = target.and_then(|target| url.join(target).ok()) else {
                return Err(refused("nowhere".to_owned(), "there is no proper target"));
            };
            if !self.may_use(&target) {
                return Err(refused(address(&target), "it is not on https"));
            }
            url = target;
        }
        Err(RemoteError::Redirect {
            address: address(&call.url),
            target: address(&url),
            reason: "there are too many redirects",
        })
    }

    async fn request(
        &self,
        host: &Host,
        call: &Call<'_>,
        url: &Url,
        token: Option<&Token>,
    ) -> Result<Request, RemoteError> {
        let mut request = Request::new(call.method.clone(), url.clone());
        let headers = request.headers_mut();
        for (name, value) in &call.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name.clone(), value);
            }
        }
        if let Some(token) = token.filter(|_| host.owns(url)) {
            headers.insert(AUTHORIZATION, token.header.clone());
        }
        let length = match &call.body {
            Body::Empty => 0,
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File { length, .. } => *length,
        };
        if !matches!(call.method, Method::GET | Method::HEAD) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        match &call.body {
            Body::Empty => {}
            Body::Bytes(bytes) => *request.body_mut() = Some(bytes.to_vec().into()),
            Body::File { path, length } => {
                let body = file_body(path.clone(), 0..*length, call.sent.clone()).await?;
                *request.body_mut() = Some(body);
            }
        }
        Ok(request)
    }

    /// Executes a request, however long its body takes, as long as something moves within
    /// `patience`: `sent` counts what has left of it.
    pub(super) async fn execute(
        &self,
        request: Request,
        sent: Option<&AtomicU64>,
        patience: Duration,
    ) -> Result<Response, RemoteError> {
        let url = request.url().clone();
        let client = self.client(&url)?;
        let mut answer = std::pin::pin!(client.execute(request));
        let moved = || sent.map_or(0, |sent| sent.load(Ordering::Relaxed));
        let mut seen = moved();
        loop {
            match tokio::time::timeout(patience, &mut answer).await {
                Ok(answer) => return answer.map_err(|source| connection(&url, source)),
                Err(_) if moved() > seen => seen = moved(),
                Err(_) => {
                    let seconds = patience.as_secs();
                    return Err(RemoteError::Stalled { address: address(&url), seconds });
                }
            }
        }
    }

    /// As [`Transport::send`], for a request without a registry's rules (token services).
    pub(super) async fn execute_patiently(
        &self,
        registry: &str,
        request: Request,
    ) -> Result<Response, RemoteError> {
        let url = request.url().clone();
        let client = self.client(&url)?;
        let mut attempt = 1;
        loop {
            let this = request.try_clone().expect("a body in memory can be sent again");
            let answer = tokio::time::timeout(self.config.patience, client.execute(this)).await;
            let last = attempt >= self.config.attempts;
            let asked = match answer {
                Ok(Ok(response)) if last || !is_temporary(response.status()) => {
                    return Ok(response);
                }
                Ok(Ok(response)) => retry_after(response.headers(), SystemTime::now()),
                Ok(Err(source)) if last => return Err(connection(&url, source)),
                Err(_) if last => return Err(self.stalled(&url)),
                Ok(Err(_)) | Err(_) => None,
            };
            if let Some(asked) = asked.filter(|asked| *asked > self.config.longest_wait) {
                let (registry, seconds) = (registry.to_owned(), asked.as_secs());
                return Err(RemoteError::RateLimited { registry, seconds });
            }
            tokio::time::sleep(asked.unwrap_or_else(|| self.backoff(attempt))).await;
            attempt += 1;
        }
    }

    pub(super) fn stalled(&self, url: &Url) -> RemoteError {
        let seconds = self.config.patience.as_secs();
        RemoteError::Stalled { address: address(url), seconds }
    }

    /// Turns an answer that is not one of `wanted` into an error with the registry's own words.
    pub(super) async fn expect(
        &self,
        host: &Host,
        response: Response,
        wanted: &[StatusCode],
    ) -> Result<Response, RemoteError> {
        let status = response.status();
        if wanted.contains(&status) {
            return Ok(response);
        }
        let url = response.url().clone();
        let body = read_body(response, ERROR_LIMIT, self.config.patience).await;
        // What cannot be read explains nothing; the status still does.
        let message = words(&body.unwrap_or_default());
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RemoteError::Unauthorized {
                registry: host.registry.clone(),
                authenticated: !host.tokens.lock().await.is_empty(),
                message,
            },
            _ => RemoteError::Status { address: address(&url), status, message },
        })
    }
}

pub(super) fn connection(url: &Url, source: reqwest::Error) -> RemoteError {
    RemoteError::Connection { address: address(url), source: source.without_url() }
}

/// Reads a whole body of at most `limit` bytes, every part of which comes within `patience`, the
/// whole within four times that.
pub(super) async fn read_body(
    mut response: Response,
    limit: u64,
    patience: Duration,
) -> Result<Vec<u8>, RemoteError> {
    let url = response.url().clone();
    let seconds = patience.as_secs();
    let stalled = || RemoteError::Stalled { address: address(&url), seconds };
    let read = async {
        let mut body = Vec::new();
        loop {
            let chunk = tokio::time::timeout(patience, response.chunk())
                .await
                .map_err(|_| stalled())?
                .map_err(|source| connection(&url, source))?;
            let Some(chunk) = chunk else { return Ok(body) };
            let found = (body.len() + chunk.len()) as u64;
            if found > limit {
                return Err(RemoteError::Size { address: address(&url), expected: limit, found });
            }
            body.extend_from_slice(&chunk);
        }
    };
    tokio::time::timeout(patience * 4, read).await.map_err(|_| stalled())?
}

pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

pub(super) fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

fn is_worth_another_try(error: &RemoteError) -> bool {
    matches!(error, RemoteError::Connection { .. } | RemoteError::Stalled { .. })
}

/// `Retry-After`: seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    let now = jiff::Timestamp::try_from(now).ok()?;
    Some(Duration::from_secs((date.as_second() - now.as_second()).max(0) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::CredentialFiles;

    fn transport(insecure: &[&str]) -> Transport {
        Transport::new(RegistryConfig {
            insecure: insecure.iter().map(|host| (*host).to_owned()).collect(),
            credentials: CredentialFiles::none(),
            ..RegistryConfig::default()
        })
    }

    #[test]
    fn http_is_for_loopback_and_listed_hosts() {
        for (url, expected) in [
            ("https://a.io/", true),
            ("http://a.io/", false),
            ("http://127.0.0.1:5000/", true),
            ("http://127.8.8.8/", true),
            ("http://[::1]:5000/", true),
            ("http://localhost:5000/", true),
            ("http://localhost.evil.io/", false),
            ("http://128.0.0.1/", false),
            ("http://listed.io:80/", true),
            ("http://ported.io:5000/", true),
            ("http://ported.io:5001/", false),
            ("file:///etc/passwd", false),
        ] {
            let transport = transport(&["listed.io", "ported.io:5000"]);
            assert_eq!(transport.may_use(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
        let check = |value: &'static str, expected: Option<u64>| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{value}");
        };
        check("7", Some(7));
        check("Sun, 13 Sep 2020 12:26:45 GMT", Some(5));
        check("Sun, 13 Sep 2020 12:26:00 GMT", Some(0));
        check("soon", None);
    }

    #[test]
    fn the_pause_doubles_up_to_ten_seconds() {
        let transport = transport(&[]);
        let pauses: Vec<_> =
            (1..=8).map(|attempt| transport.backoff(attempt).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }
}
