//! A request to a registry that can be sent any number of times.

use std::io::SeekFrom;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use reqwest::header::{ACCEPT, HeaderName};
use reqwest::{Method, Url};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::RemoteError;
use super::auth::Scope;

/// What a request carries.
#[derive(Clone)]
pub(super) enum Body {
    Empty,
    Bytes(Arc<[u8]>),
    /// The first `length` bytes of a file.
    File {
        path: PathBuf,
        length: u64,
    },
}

/// A request that can be sent any number of times.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) repository: &'a str,
    pub(super) scopes: &'a [Scope],
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: Body,
    /// Told how many bytes of the body are on their way.
    pub(super) sent: Option<Arc<AtomicU64>>,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, url: Url, repository: &'a str, scopes: &'a [Scope]) -> Self {
        let (headers, body, sent) = (Vec::new(), Body::Empty, None);
        Call { method, url, repository, scopes, headers, body, sent }
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn accept(self, types: &[&str]) -> Self {
        self.header(ACCEPT, types.join(", "))
    }

    pub(super) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

/// Streams these bytes of a file, counting what has left.
pub(super) async fn file_body(
    path: PathBuf,
    bytes: Range<u64>,
    sent: Option<Arc<AtomicU64>>,
) -> Result<reqwest::Body, RemoteError> {
    let failed = |source| RemoteError::Read { path: path.clone(), source };
    let mut file = tokio::fs::File::open(&path).await.map_err(failed)?;
    if bytes.start > 0 {
        file.seek(SeekFrom::Start(bytes.start)).await.map_err(failed)?;
    }
    if let Some(sent) = &sent {
        sent.store(0, Ordering::Relaxed);
    }
    let limited = file.take(bytes.end.saturating_sub(bytes.start));
    let stream = tokio_util::io::ReaderStream::with_capacity(limited, 128 << 10);
    let counted = stream.inspect(move |chunk| {
        if let (Some(sent), Ok(chunk)) = (&sent, chunk) {
            sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    });
    Ok(reqwest::Body::wrap_stream(counted))
}
