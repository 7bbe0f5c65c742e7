//! One blob on its way here, over as many connections as it takes.

use reqwest::header::{CONTENT_RANGE, HeaderMap, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::RemoteError;
use super::auth::Scope;
use super::call::Call;
use super::error::address;
use super::pull::Progress;
use super::transport::{Host, Transport, connection};
use crate::blob::{BlobWriter, Blobs};
use crate::oci::{Descriptor, Digest, ImageName};
use crate::state::StoreError;

/// Chunks between the network and the disk, some 16 KiB each.
const CHUNKS_AHEAD: usize = 64;
/// Tries that may bring something each, before a transfer that goes on breaking is given up.
const RESUMPTIONS: u32 = 50;
/// Below this many bytes per [`super::RegistryConfig::patience`] a transfer counts as stalled.
const LEAST_PROGRESS: u64 = 16 << 10;
/// Addresses of a foreign layer that are tried.
const FOREIGN_URLS: usize = 8;

/// `None` tells an honest end from a transfer that was given up.
type Chunk = Option<Vec<u8>>;

/// A blob of a repository, and where it can be had.
pub(super) struct Transfer<'a> {
    transport: &'a Transport,
    host: &'a Host,
    name: &'a ImageName,
    /// The registry's own address first.
    urls: Vec<Url>,
    size: u64,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(
        transport: &'a Transport,
        host: &'a Host,
        name: &'a ImageName,
        digest: &Digest,
        descriptor: &Descriptor,
    ) -> Transfer<'a> {
        let own = host.url(&format!("{}/blobs/{digest}", name.repository()));
        let foreign = descriptor.urls().iter().flatten().filter_map(|url| Url::parse(url).ok());
        let foreign = foreign.filter(|url| transport.may_use(url)).take(FOREIGN_URLS);
        let urls = [own].into_iter().chain(foreign).collect();
        Transfer { transport, host, name, urls, size: descriptor.size() }
    }

    /// The registry's own address of the blob.
    pub(super) fn url(&self) -> &Url {
        &self.urls[0]
    }

    /// Asks for the blob from byte `offset` on.
    pub(super) async fn request(&self, url: usize, offset: u64) -> Result<Response, RemoteError> {
        let scopes = [Scope::pull(self.name.repository())];
        let url = self.urls[url].clone();
        let mut call = Call::new(Method::GET, url, self.name.repository(), &scopes);
        if offset > 0 {
            call = call.header(RANGE, format!("bytes={offset}-"));
        }
        let response = self.transport.send(self.host, &call).await?;
        let wanted = [StatusCode::OK, StatusCode::PARTIAL_CONTENT];
        self.transport.expect(self.host, response, &wanted).await
    }

    /// Brings the blob into the store, if it is what `expected` promises.
    pub(super) async fn store(
        &self,
        expected: &Descriptor,
        into: &Blobs,
        progress: Progress<'_>,
    ) -> Result<(), RemoteError> {
        let (chunks, queue) = channel(CHUNKS_AHEAD);
        let (writer, descriptor) = (into.writer()?, expected.clone());
        let writing = tokio::task::spawn_blocking(move || write(writer, queue, &descriptor));
        let outcome = self.receive(&chunks, progress).await;
        if outcome.is_ok() {
            // Nobody listens if the disk failed, and then `stored` says so.
            let _ = chunks.send(None).await;
        }
        drop(chunks);
        let stored =
            writing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        match (outcome, stored) {
            // A disk that fails also ends the transfer; the disk is the reason.
            (_, Err(error @ StoreError::File { .. })) => Err(error.into()),
            (Err(error), _) => Err(error),
            (Ok(()), Err(StoreError::WrongDigest { expected, found })) => {
                Err(RemoteError::Digest { address: address(self.url()), expected, found })
            }
            (Ok(()), Err(error)) => Err(error.into()),
            (Ok(()), Ok(())) => Ok(()),
        }
    }

    async fn receive(
        &self,
        chunks: &Sender<Chunk>,
        progress: Progress<'_>,
    ) -> Result<(), RemoteError> {
        let (mut done, mut fruitless, mut url) = (0, 0, 0);
        let incomplete = |url: usize, found| RemoteError::Size {
            address: address(&self.urls[url]),
            expected: self.size,
            found,
        };
        for _ in 0..RESUMPTIONS {
            let before = done;
            let error = match self.request(url, done).await {
                Err(RemoteError::Status { status: StatusCode::NOT_FOUND, .. })
                    if url + 1 < self.urls.len() =>
                {
                    url += 1;
                    continue;
                }
                Err(error) => error,
                Ok(response) => match self.drain(response, chunks, &mut done, progress).await {
                    Ok(()) if done == self.size || chunks.is_closed() => return Ok(()),
                    // The connection ended early and without complaint.
                    Ok(()) => incomplete(url, done),
                    Err(error) => error,
                },
            };
            let resumable = match &error {
                RemoteError::Connection { .. } | RemoteError::Stalled { .. } => true,
                RemoteError::Size { expected, found, .. } => found < expected,
                _ => false,
            };
            fruitless = if done > before { 0 } else { fruitless + 1 };
            if !resumable || fruitless >= self.transport.config.attempts {
                return Err(error);
            }
            tokio::time::sleep(self.transport.backoff(fruitless + 1)).await;
        }
        Err(incomplete(url, done))
    }

    /// Passes on what one answer brings, from byte `done` of the blob on.
    async fn drain(
        &self,
        mut response: Response,
        chunks: &Sender<Chunk>,
        done: &mut u64,
        progress: Progress<'_>,
    ) -> Result<(), RemoteError> {
        let url = response.url().clone();
        // Who ignores the range sends everything again.
        let mut skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if range_start(response.headers()) == Some(*done) => 0,
            StatusCode::PARTIAL_CONTENT => {
                let reason = "it sent another range than it was asked for".to_owned();
                return Err(RemoteError::Protocol { address: address(&url), reason });
            }
            _ => *done,
        };
        let patience = self.transport.config.patience;
        let (mut since, mut moved) = (tokio::time::Instant::now(), 0);
        loop {
            let chunk = match tokio::time::timeout(patience, response.chunk()).await {
                Err(_) => return Err(self.transport.stalled(&url)),
                Ok(Err(source)) => return Err(connection(&url, source)),
                Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(chunk))) => chunk,
            };
            // A byte every now and then is no transfer (slow loris).
            moved += chunk.len() as u64;
            if since.elapsed() >= patience {
                if moved < LEAST_PROGRESS {
                    return Err(self.transport.stalled(&url));
                }
                (since, moved) = (tokio::time::Instant::now(), 0);
            }
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let news = &chunk[skipped as usize..];
            let found = *done + news.len() as u64;
            if found > self.size {
                let (address, expected) = (address(&url), self.size);
                return Err(RemoteError::Size { address, expected, found });
            }
            if news.is_empty() {
                continue;
            }
            if chunks.send(Some(news.to_vec())).await.is_err() {
                // The writer failed and says why itself.
                return Ok(());
            }
            *done = found;
            progress(found, self.size);
        }
    }
}

/// The writing end: a file, on a thread that may block.
fn write(
    mut writer: BlobWriter,
    mut queue: Receiver<Chunk>,
    expected: &Descriptor,
) -> Result<(), StoreError> {
    use std::io::Write;
    while let Some(chunk) = queue.blocking_recv() {
        let Some(chunk) = chunk else { return writer.commit_verified(expected).map(drop) };
        writer.write_all(&chunk).map_err(|source| StoreError::File {
            attempt: "write",
            path: "the blob store".into(),
            source,
        })?;
    }
    // Given up: dropping the writer leaves nothing.
    Ok(())
}

/// Where a part of a body begins.
pub(super) fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
