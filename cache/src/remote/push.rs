//! To a registry: blobs first, the manifest last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};

use super::auth::Scope;
use super::call::{Body, Call};
use super::error::address;
use super::transport::Host;
use super::{Registries, RemoteError};
use crate::blob::Blobs;
use crate::image::document::digest_of;
use crate::oci::{Descriptor, Digest, ImageName};

/// How often progress of an upload is told.
const REPORTS: Duration = Duration::from_millis(200);

/// A blob to be pushed. It must be in the store.
#[derive(Debug, Clone)]
pub struct PushBlob {
    /// What it is.
    pub descriptor: Descriptor,
    /// A repository of the same registry that probably has it.
    pub mount_from: Option<String>,
}

/// A manifest to be pushed, byte for byte.
#[derive(Debug, Clone)]
pub struct PushManifest {
    /// Its media type.
    pub media_type: String,
    /// The document.
    pub bytes: Vec<u8>,
}

/// What a pushed manifest is filed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushTarget {
    /// The name's tag, or its digest if it has one.
    Name,
    /// Its digest alone; no tag is touched.
    Digest,
}

impl Registries {
    /// Pushes blobs, those at the same time that the configuration allows, and then the manifest.
    ///
    /// Nothing is sent that the registry has, or can mount from another repository. `progress` is
    /// told the blob's position (from 0), its bytes sent and its bytes in all. Answers with the
    /// manifest's digest.
    pub async fn push(
        &self,
        name: &ImageName,
        manifest: &PushManifest,
        blobs: &[PushBlob],
        from: &Blobs,
        target: PushTarget,
        progress: &(dyn Fn(usize, u64, u64) + Send + Sync),
    ) -> Result<Digest, RemoteError> {
        let host = self.transport.host(name.registry()).await?;
        let uploads = blobs.iter().enumerate().map(|(position, blob)| {
            let host = &host;
            async move {
                let _permit = host.blobs.acquire().await.expect("the semaphore is never closed");
                let report = |done, all| progress(position, done, all);
                self.push_blob(host, name, blob, from, &report).await
            }
        });
        futures_util::future::try_join_all(uploads).await?;
        self.push_manifest(&host, name, manifest, target).await
    }

    pub(super) async fn push_manifest(
        &self,
        host: &Host,
        name: &ImageName,
        manifest: &PushManifest,
        target: PushTarget,
    ) -> Result<Digest, RemoteError> {
        let digest = Digest::of(&manifest.bytes);
        let reference = match (target, name.digest(), name.tag()) {
            (PushTarget::Digest, ..) | (PushTarget::Name, Some(_), _) => digest.to_string(),
            (PushTarget::Name, None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let scopes = [Scope::push(name.repository())];
        let url = host.url(&format!("{}/manifests/{reference}", name.repository()));
        let call = Call::new(Method::PUT, url.clone(), name.repository(), &scopes)
            .header(CONTENT_TYPE, manifest.media_type.clone())
            .body(Body::Bytes(manifest.bytes.as_slice().into()));
        let response = self.transport.send(host, &call).await?;
        let wanted = [StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED];
        let response = self.transport.expect(host, response, &wanted).await?;
        let said = response.headers().get("docker-content-digest");
        let said = said.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        match said.filter(|found| *found != digest) {
            Some(found) => {
                Err(RemoteError::Digest { address: address(&url), expected: digest, found })
            }
            None => Ok(digest),
        }
    }

    pub(super) async fn push_blob(
        &self,
        host: &Host,
        name: &ImageName,
        blob: &PushBlob,
        from: &Blobs,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<(), RemoteError> {
        let digest = digest_of(&blob.descriptor)
            .map_err(|source| RemoteError::Document { name: Box::new(name.clone()), source })?;
        let size = blob.descriptor.size();
        if self.has_blob(host, name, &digest).await? {
            progress(size, size);
            return Ok(());
        }
        let mut attempt = 1;
        loop {
            let source = blob.mount_from.as_deref().filter(|_| attempt == 1);
            let Some(location) = self.begin(host, name, &digest, source).await? else {
                progress(size, size);
                return Ok(());
            };
            let upload = Upload { host, name, digest: &digest, file: from.path(&digest), size };
            match self.upload(&upload, location, progress).await {
                Ok(()) => {
                    progress(size, size);
                    return Ok(());
                }
                // The session is gone with its connection, so the whole upload begins anew.
                Err(RemoteError::Connection { .. } | RemoteError::Stalled { .. })
                    if attempt < self.transport.config.attempts => {}
                Err(RemoteError::Status { status, .. })
                    if attempt < self.transport.config.attempts
                        && (status.is_server_error()
                            || matches!(status.as_u16(), 404 | 408 | 429)) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(self.transport.backoff(attempt)).await;
            attempt += 1;
        }
    }

    pub(super) async fn has_blob(
        &self,
        host: &Host,
        name: &ImageName,
        digest: &Digest,
    ) -> Result<bool, RemoteError> {
        let scopes = [Scope::push(name.repository())];
        let url = host.url(&format!("{}/blobs/{digest}", name.repository()));
        let call = Call::new(Method::HEAD, url, name.repository(), &scopes);
        let response = self.transport.send(host, &call).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        // A registry may hand the question to its storage, which may not let us ask; then the
        // upload tells.
        let refused = [StatusCode::FORBIDDEN, StatusCode::METHOD_NOT_ALLOWED];
        if refused.contains(&response.status()) {
            return Ok(false);
        }
        self.transport.expect(host, response, &[StatusCode::OK]).await?;
        Ok(true)
    }

    /// Starts an upload, or mounts the blob: then there is nothing to upload.
    pub(super) async fn begin(
        &self,
        host: &Host,
        name: &ImageName,
        digest: &Digest,
        mount_from: Option<&str>,
    ) -> Result<Option<Url>, RemoteError> {
        let own = Scope::push(name.repository());
        let start = host.url(&format!("{}/blobs/uploads/", name.repository()));
        let both = mount_from.map(|source| [own.clone(), Scope::pull(source)]);
        let (url, scopes) = match (mount_from, &both) {
            (Some(source), Some(both)) => {
                let mut url = start.clone();
                let digest = digest.to_string();
                url.query_pairs_mut().append_pair("mount", &digest).append_pair("from", source);
                (url, both.as_slice())
            }
            _ => (start.clone(), std::slice::from_ref(&own)),
        };
        let call = Call::new(Method::POST, url, name.repository(), scopes);
        let response = self.transport.send(host, &call).await;
        let response = match response {
            // Who may not read the source may still write here.
            Ok(response) if mount_from.is_some() && response.status().is_client_error() => None,
            Err(RemoteError::Unauthorized { .. }) if mount_from.is_some() => None,
            other => Some(other?),
        };
        let response = match response {
            Some(response) => response,
            None => {
                let call = Call::new(
                    Method::POST,
                    start.clone(),
                    name.repository(),
                    std::slice::from_ref(&own),
                );
                self.transport.send(host, &call).await?
            }
        };
        let wanted = [StatusCode::ACCEPTED, StatusCode::CREATED];
        let response = self.transport.expect(host, response, &wanted).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(None);
        }
        self.location(host, &response).map(Some)
    }

    /// Where an upload goes on. On another host it gets no credential, see `Transport::request`.
    fn location(&self, host: &Host, response: &Response) -> Result<Url, RemoteError> {
        let protocol = |reason: &str| RemoteError::Protocol {
            address: address(response.url()),
            reason: reason.to_owned(),
        };
        let mut url = location(response.headers())
            .and_then(|text| response.url().join(text).ok())
            .ok_or_else(|| protocol("it does not say where to upload to"))?;
        // Registries behind a TLS proxy often do not know that they are.
        if url.host_str() == host.base.host_str()
            && host.base.scheme() == "https"
            && url.scheme() == "http"
        {
            let _ = url.set_scheme("https");
        }
        if !self.transport.may_use(&url) {
            return Err(protocol("it wants the upload sent over http"));
        }
        Ok(url)
    }

    async fn upload(
        &self,
        upload: &Upload<'_>,
        mut location: Url,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<(), RemoteError> {
        let Upload { host, name, digest, file, size } = upload;
        location.query_pairs_mut().append_pair("digest", &digest.to_string());
        let scopes = [Scope::push(name.repository())];
        let sent = Arc::new(AtomicU64::new(0));
        let mut call = Call::new(Method::PUT, location, name.repository(), &scopes)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(Body::File { path: file.clone(), length: *size });
        call.sent = Some(sent.clone());
        let mut sending = std::pin::pin!(self.transport.send_body(host, &call));
        let mut told = 0;
        let response = loop {
            match tokio::time::timeout(REPORTS, &mut sending).await {
                Ok(response) => break response?,
                Err(_) => {
                    let now = sent.load(Ordering::Relaxed).min(*size);
                    if now != told {
                        progress(now, *size);
                        told = now;
                    }
                }
            }
        };
        let wanted = [StatusCode::CREATED, StatusCode::NO_CONTENT, StatusCode::ACCEPTED];
        self.transport.expect(host, response, &wanted).await.map(drop)
    }
}

/// A blob on its way to a repository.
struct Upload<'a> {
    host: &'a Host,
    name: &'a ImageName,
    digest: &'a Digest,
    file: std::path::PathBuf,
    size: u64,
}

fn location(headers: &HeaderMap) -> Option<&str> {
    headers.get(LOCATION)?.to_str().ok()
}
