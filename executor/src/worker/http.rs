//! Files over HTTP: `ADD https://…`.
//!
//! What a server said last time is remembered with its ETag and time, so an unchanged file is
//! asked for but not sent again. The bytes lie in the blob store under their digest; with a
//! `--checksum` that is there nothing is asked at all.

use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use cache::hash::FingerprintBuilder;
use cache::oci::Digest;
use reqwest::header::{
    AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{Client, Response, StatusCode, Url};
use rustix::fs::{AtFlags, CWD, Gid, Uid};
use serde::{Deserialize, Serialize};
use solver::llb::HttpSource;
use solver::{Content, Ingredient, LogSink, Output};
use tokio::sync::mpsc;

use super::{LocalWorker, lock};
use crate::executor::blocking;
use crate::merged::Owners;
use crate::{ExecutorError, SecretStore};

/// Where the index keeps what servers said.
const SPACE: &str = "http";
/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a request is tried that fails in a way that may pass.
const ATTEMPTS: u32 = 4;
/// Redirects that are followed, as in Go's client.
const MAX_REDIRECTS: usize = 10;
/// Chunks between the network and the disk.
const CHUNKS_AHEAD: usize = 64;

/// What a server said of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    digest: Digest,
    etag: Option<String>,
    /// As the header has it.
    last_modified: Option<String>,
}

impl LocalWorker {
    /// What tells the file's state from the next: its digest and its time.
    pub(super) async fn http_state(&self, source: &HttpSource) -> Result<Content, ExecutorError> {
        let state = self.ask(source, None).await?;
        let modified = state.last_modified.clone().unwrap_or_default();
        let digest = state.digest.to_string();
        let fingerprint = FingerprintBuilder::new("strake http state v1")
            .field("digest", digest.as_bytes())
            .field("last-modified", modified.as_bytes())
            .finish();
        let part = |name: &str, value| Ingredient { part: format!("http.{name}"), value };
        let ingredients = vec![part("digest", digest), part("last-modified", modified)];
        Ok(Content { fingerprint, ingredients })
    }

    /// A snapshot that holds the file.
    pub(super) async fn fetch_http(
        &self,
        source: &HttpSource,
        log: &LogSink,
    ) -> Result<Output, ExecutorError> {
        let blobs = self.config.store.blobs();
        let here = match source.checksum {
            Some(checksum) => blobs.contains(&checksum)?,
            None => false,
        };
        let state = match source.checksum.filter(|_| here) {
            Some(digest) => {
                let known = self.remembered(&source.url)?.filter(|known| known.digest == digest);
                let last_modified = known.and_then(|known| known.last_modified);
                Remembered { digest, etag: None, last_modified }
            }
            None => self.ask(source, Some(log)).await?,
        };
        if let Some(expected) = source.checksum
            && expected != state.digest
        {
            let (expected, found) = (expected.to_string(), state.digest.to_string());
            return Err(ExecutorError::Checksum { expected, found });
        }
        let active = self.prepare(None)?;
        let name = crate::pattern::components(&source.filename).pop();
        let path = active.upper().join(name.unwrap_or_else(|| "__unnamed__".to_owned()));
        let (blob, owners) = (blobs.path(&state.digest), self.owners);
        let (mode, uid, gid) = (source.mode, source.uid, source.gid);
        let mtime = state.last_modified.as_deref().and_then(http_time).unwrap_or_default();
        let active = blocking(move || {
            let write = || -> io::Result<()> {
                fs_err::copy(&blob, &path)?;
                match rustix::fs::chown(&path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
                    Err(_) if owners == Owners::Attribute => {}
                    other => other?,
                }
                fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
                let times = crate::copy::timestamps((mtime, 0));
                Ok(rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
            };
            write().map_err(ExecutorError::file("write", &path))?;
            Ok(active)
        })
        .await?;
        self.commit(active).await
    }

    /// The file's state now; afterwards its bytes are in the blob store. Asked once per build.
    async fn ask(
        &self,
        source: &HttpSource,
        log: Option<&LogSink>,
    ) -> Result<Remembered, ExecutorError> {
        if let Some(state) = lock(&self.downloads).get(&source.url) {
            return Ok(state.clone());
        }
        self.needs_network(|| format!("`{}`", without_credentials(&source.url)))?;
        let blobs = self.config.store.blobs();
        let known = match self.remembered(&source.url)? {
            Some(known) if blobs.contains(&known.digest)? => Some(known),
            _ => None,
        };
        let secrets = &self.config.secrets;
        let response = request(&source.url, secrets, known.as_ref()).await?;
        let state = match known {
            Some(known) if response.status() == StatusCode::NOT_MODIFIED => known,
            _ => self.download(source, response, log).await?,
        };
        let value = serde_json::to_vec(&state).unwrap_or_default();
        self.config.store.index().put_value(SPACE, &source.url, &value)?;
        lock(&self.downloads).insert(source.url.clone(), state.clone());
        Ok(state)
    }

    fn remembered(&self, url: &str) -> Result<Option<Remembered>, ExecutorError> {
        let value = self.config.store.index().value(SPACE, url)?;
        Ok(value.and_then(|value| serde_json::from_slice(&value).ok()))
    }

    async fn download(
        &self,
        source: &HttpSource,
        mut response: Response,
        log: Option<&LogSink>,
    ) -> Result<Remembered, ExecutorError> {
        let shown = without_credentials(&source.url);
        let headers = response.headers().clone();
        let all = response.content_length();
        let mut writer = self.config.store.blobs().writer()?;
        let (chunks, mut received) = mpsc::channel::<Option<Vec<u8>>>(CHUNKS_AHEAD);
        let path = shown.clone();
        let writing = blocking(move || {
            loop {
                match received.blocking_recv() {
                    // Only a download that came to its end becomes a blob.
                    Some(None) => return Ok(Some(writer.commit()?)),
                    None => return Ok(None),
                    Some(Some(chunk)) => {
                        writer.write_all(&chunk).map_err(ExecutorError::file("store", &path))?;
                    }
                }
            }
        });
        let reading = async {
            let mut done = 0;
            loop {
                let chunk = response.chunk().await.map_err(|error| broken(&shown, error))?;
                let Some(chunk) = chunk else { break };
                done += chunk.len() as u64;
                if let Some(log) = log {
                    log.status(source.filename.clone(), done, all, Some(done) == all);
                }
                // Nobody listens only if writing failed, which is what is reported then.
                if chunks.send(Some(chunk.to_vec())).await.is_err() {
                    break;
                }
            }
            let _ = chunks.send(None).await;
            drop(chunks);
            Ok::<_, ExecutorError>(())
        };
        let (written, read) = tokio::join!(writing, reading);
        read?;
        let Some((digest, _)) = written? else {
            let reason = "the transfer broke".to_owned();
            return Err(ExecutorError::Download { url: shown, reason });
        };
        let header = |name| text(&headers, name);
        Ok(Remembered { digest, etag: header(ETAG), last_modified: header(LAST_MODIFIED) })
    }
}

/// Downloads a file; see [`crate::context::download`].
pub(crate) async fn download_context(
    url: &str,
    secrets: &SecretStore,
    limit: u64,
) -> Result<std::fs::File, ExecutorError> {
    let shown = without_credentials(url);
    let failed = || ExecutorError::file("store", &shown);
    let mut response = request(url, secrets, None).await?;
    let mut file = tempfile::tempfile().map_err(failed())?;
    let mut done = 0;
    while let Some(chunk) = response.chunk().await.map_err(|error| broken(&shown, error))? {
        done += chunk.len() as u64;
        if done > limit {
            let reason = format!("it has more than {limit} bytes");
            return Err(ExecutorError::Download { url: shown, reason });
        }
        file.write_all(&chunk).map_err(failed())?;
    }
    file.rewind().map_err(failed())?;
    Ok(file)
}

fn text(headers: &HeaderMap, name: reqwest::header::HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// A successful answer, or "not modified" to what is `known`.
async fn request(
    url: &str,
    secrets: &SecretStore,
    known: Option<&Remembered>,
) -> Result<Response, ExecutorError> {
    let shown = without_credentials(url);
    let authorization = authorization(url, secrets)?;
    // Credentials in the address would be a second header.
    let url = if authorization.is_some() { shown.as_str() } else { url };
    let client = client().map_err(|error| broken(&shown, error))?;
    let mut attempt = 1;
    loop {
        let mut request = client.get(url);
        if let Some(value) = &authorization {
            // The client drops it where a redirect leads to another host.
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(etag) = known.and_then(|known| known.etag.as_ref()) {
            request = request.header(IF_NONE_MATCH, etag);
        } else if let Some(time) = known.and_then(|known| known.last_modified.as_ref()) {
            request = request.header(IF_MODIFIED_SINCE, time);
        }
        let (error, may_pass) = match request.send().await {
            Ok(response) => {
                let status = response.status();
                let unchanged = status == StatusCode::NOT_MODIFIED && known.is_some();
                if status.is_success() || unchanged {
                    return Ok(response);
                }
                let reason = format!("the server answers {status}");
                let may_pass = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                (ExecutorError::Download { url: shown.clone(), reason }, may_pass)
            }
            Err(error) => {
                let may_pass = error.is_connect() || error.is_timeout();
                (broken(&shown, error), may_pass)
            }
        };
        if !may_pass || attempt == ATTEMPTS {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(250) * attempt * attempt).await;
        attempt += 1;
    }
}

/// What the secrets `HTTP_AUTH_TOKEN_<host>` and `HTTP_AUTH_HEADER_<host>` say to a server; the token
/// counts where there are both.
fn authorization(url: &str, secrets: &SecretStore) -> Result<Option<HeaderValue>, ExecutorError> {
    let Some(host) = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)) else {
        return Ok(None);
    };
    let (token, header) = (format!("HTTP_AUTH_TOKEN_{host}"), format!("HTTP_AUTH_HEADER_{host}"));
    let (id, value) = match (secrets.line(&token)?, secrets.line(&header)?) {
        (Some(value), _) => (token, format!("Bearer {value}")),
        (None, Some(value)) => (header, value),
        (None, None) => return Ok(None),
    };
    let value = HeaderValue::from_str(&value);
    let mut value = value.map_err(|_| ExecutorError::SecretNotLine { id })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn client() -> reqwest::Result<Client> {
    // Whoever installed a provider before is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let redirects = reqwest::redirect::Policy::custom(|attempt| {
        let was_secure = attempt.previous().iter().any(|url| url.scheme() == "https");
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if was_secure && attempt.url().scheme() != "https" {
            attempt.error("a redirect leads from https to http")
        } else {
            attempt.follow()
        }
    });
    Client::builder()
        .user_agent(concat!("strake/", env!("CARGO_PKG_VERSION")))
        .redirect(redirects)
        .connect_timeout(SILENCE)
        .read_timeout(SILENCE)
        .build()
}

fn broken(url: &str, error: reqwest::Error) -> ExecutorError {
    let error = error.without_url();
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        reason.push_str(": ");
        reason.push_str(&error.to_string());
        cause = error.source();
    }
    ExecutorError::Download { url: url.to_owned(), reason }
}

/// The address without user and password.
pub(super) fn without_credentials(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return url.to_owned() };
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    parsed.to_string()
}

/// Seconds of the epoch of `Wed, 21 Oct 2015 07:28:00 GMT`.
fn http_time(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_servers_are_seconds() {
        assert_eq!(http_time("Wed, 21 Oct 2015 07:28:00 GMT"), Some(1_445_412_480));
        assert_eq!(http_time("yesterday"), None);
    }

    #[test]
    fn addresses_are_shown_without_passwords() {
        assert_eq!(without_credentials("https://me:pw@host/x"), "https://host/x");
        assert_eq!(without_credentials("git@host:x"), "git@host:x");
    }
}
