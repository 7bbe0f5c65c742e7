//! An S3-compatible object store. The requests are the registry client's, their signatures
//! `rusty-s3`'s: a full client would bring a second HTTP stack for four kinds of requests.
//!
//! Signatures stand in the query, and so in no error: addresses are printed without.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use reqwest::header::CONTENT_LENGTH;
use reqwest::{Method, Request, Response, StatusCode, Url};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};

use super::call::file_body;
use super::error::{address, words};
use super::transport::{Transport, connection, read_body};
use super::{RegistryConfig, RemoteError};
use crate::blob::Blobs;
use crate::oci::Descriptor;

/// How long a signature is good for: one transfer of the largest object.
const SIGNED_FOR: Duration = Duration::from_secs(3600);
/// The most that is read of an error's explanation, in bytes.
const ERROR_LIMIT: u64 = 16 << 10;

/// What one PUT may carry, by the S3 API, in bytes.
pub(crate) const LARGEST_OBJECT: u64 = 5 << 30;

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
}

impl S3 {
    pub(crate) fn new(options: &S3Options, config: RegistryConfig) -> Result<S3, RemoteError> {
        let amazon = || format!("https://s3.{}.amazonaws.com", options.region);
        let endpoint = options.endpoint.clone().unwrap_or_else(amazon);
        let protocol = |reason: String| RemoteError::Protocol { address: endpoint.clone(), reason };
        let url = Url::parse(&endpoint).map_err(|error| protocol(error.to_string()))?;
        let style = if options.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let (bucket, region) = (options.bucket.clone(), options.region.clone());
        let bucket =
            Bucket::new(url, style, bucket, region).map_err(|error| protocol(error.to_string()))?;
        let credentials = options.credentials.clone().map(|(key, secret, token)| match token {
            Some(token) => Credentials::new_with_token(key, secret, token),
            None => Credentials::new(key, secret),
        });
        Ok(S3 { transport: Transport::new(config), bucket, credentials })
    }

    /// The object, of at most `limit` bytes; `None` if it is not there.
    pub(crate) async fn get(&self, key: &str, limit: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        let url = self.bucket.get_object(self.credentials.as_ref(), key).sign(SIGNED_FOR);
        let response = self.send(Method::GET, &url, None).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = expect_success(response).await?;
        read_body(response, limit, self.transport.config.patience).await.map(Some)
    }

    /// Whether the object is there and as long as it should be.
    pub(crate) async fn has(&self, key: &str, size: u64) -> Result<bool, RemoteError> {
        let url = self.bucket.head_object(self.credentials.as_ref(), key).sign(SIGNED_FOR);
        let response = self.send(Method::HEAD, &url, None).await?;
        // Who may not list a bucket is told 403 of what is not there.
        if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::FORBIDDEN) {
            return Ok(false);
        }
        let response = expect_success(response).await?;
        let length = response.headers().get(CONTENT_LENGTH);
        let length =
            length.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        Ok(length.is_none_or(|length: u64| length == size))
    }

    /// Brings an object into the store, if it is the blob that was promised.
    pub(crate) async fn fetch(
        &self,
        key: &str,
        blob: &Descriptor,
        into: &Blobs,
    ) -> Result<(), RemoteError> {
        let url = self.bucket.get_object(self.credentials.as_ref(), key).sign(SIGNED_FOR);
        let mut attempt = 1;
        loop {
            let response = expect_success(self.send(Method::GET, &url, None).await?).await?;
            match self.receive(response, blob, into).await {
                Err(RemoteError::Connection { .. } | RemoteError::Stalled { .. })
                    if attempt < self.transport.config.attempts => {}
                result => return result,
            }
            tokio::time::sleep(self.transport.backoff(attempt)).await;
            attempt += 1;
        }
    }

    async fn receive(
        &self,
        mut response: Response,
        blob: &Descriptor,
        into: &Blobs,
    ) -> Result<(), RemoteError> {
        let patience = self.transport.config.patience;
        let url = response.url().clone();
        let mut writer = into.writer()?;
        loop {
            let chunk = tokio::time::timeout(patience, response.chunk())
                .await
                .map_err(|_| RemoteError::Stalled {
                    address: address(&url),
                    seconds: patience.as_secs(),
                })?
                .map_err(|source| connection(&url, source))?;
            let Some(chunk) = chunk else { break };
            let found = writer.written() + chunk.len() as u64;
            if found > blob.size() {
                let expected = blob.size();
                return Err(RemoteError::Size { address: address(&url), expected, found });
            }
            // At most some hundred KiB: shorter than the way to another thread and back.
            writer.write_all(&chunk).map_err(|source| RemoteError::Read {
                path: into.path(&crate::oci::Digest::of(b"")),
                source,
            })?;
        }
        writer.commit_verified(blob)?;
        Ok(())
    }

    /// Stores bytes.
    pub(crate) async fn put(&self, key: &str, bytes: &[u8]) -> Result<(), RemoteError> {
        let url = self.bucket.put_object(self.credentials.as_ref(), key).sign(SIGNED_FOR);
        let response = self.send(Method::PUT, &url, Some(Payload::Bytes(bytes))).await?;
        expect_success(response).await.map(drop)
    }

    /// Stores the first `length` bytes of a file.
    pub(crate) async fn put_file(
        &self,
        key: &str,
        path: &Path,
        length: u64,
    ) -> Result<(), RemoteError> {
        let url = self.bucket.put_object(self.credentials.as_ref(), key).sign(SIGNED_FOR);
        let response = self.send(Method::PUT, &url, Some(Payload::File(path, length))).await?;
        expect_success(response).await.map(drop)
    }

    /// Sends a request, again if the server says that it might work later.
    async fn send(
        &self,
        method: Method,
        url: &Url,
        payload: Option<Payload<'_>>,
    ) -> Result<Response, RemoteError> {
        let config = &self.transport.config;
        let mut attempt = 1;
        loop {
            let mut request = Request::new(method.clone(), url.clone());
            let length = match payload {
                None => None,
                Some(Payload::Bytes(bytes)) => {
                    *request.body_mut() = Some(bytes.to_vec().into());
                    Some(bytes.len() as u64)
                }
                Some(Payload::File(path, length)) => {
                    *request.body_mut() = Some(file_body(path.to_owned(), length, None).await?);
                    Some(length)
                }
            };
            if let Some(length) = length {
                request.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
            // A body takes as long as it takes; whoever asks for it bounds the whole.
            let sending = self.transport.client(url)?.execute(request);
            let answer = match payload {
                None => tokio::time::timeout(config.patience, sending).await.map_err(|_| {
                    let seconds = config.patience.as_secs();
                    RemoteError::Stalled { address: address(url), seconds }
                }),
                Some(_) => Ok(sending.await),
            };
            let answer = answer.and_then(|sent| sent.map_err(|error| connection(url, error)));
            let again = match &answer {
                Ok(response) => {
                    let status = response.status();
                    status.is_server_error() || matches!(status.as_u16(), 408 | 429)
                }
                Err(_) => true,
            };
            if !again || attempt >= config.attempts {
                return answer;
            }
            tokio::time::sleep(self.transport.backoff(attempt)).await;
            attempt += 1;
        }
    }
}

#[derive(Clone, Copy)]
enum Payload<'a> {
    Bytes(&'a [u8]),
    File(&'a Path, u64),
}

async fn expect_success(response: Response) -> Result<Response, RemoteError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let address = address(response.url());
    let body = read_body(response, ERROR_LIMIT, Duration::from_secs(10)).await;
    // What cannot be read explains nothing; the status still does.
    let message = words(&body.unwrap_or_default());
    Err(RemoteError::Status { address, status, message })
}
