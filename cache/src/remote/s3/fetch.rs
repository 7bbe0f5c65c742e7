//! An object on its way into the store, over as many connections as it takes.

use std::io::Write;

use reqwest::header::RANGE;
use reqwest::{Response, StatusCode};

use super::S3;
use crate::blob::{BlobWriter, Blobs};
use crate::oci::Descriptor;
use crate::remote::RemoteError;
use crate::remote::error::address;
use crate::remote::transfer::range_start;
use crate::remote::transport::connection;
use crate::state::StoreError;

/// Connections that may bring something each, before a transfer that goes on breaking is given up.
const RESUMPTIONS: u32 = 50;

impl S3 {
    /// Brings an object into the store, if it is the blob that was promised.
    pub(crate) async fn fetch(
        &self,
        key: &str,
        blob: &Descriptor,
        into: &Blobs,
    ) -> Result<(), RemoteError> {
        let mut writer = into.writer()?;
        let (mut broken, mut fruitless) = (0, 0);
        loop {
            let before = writer.written();
            let mut ask = self.ask(&self.bucket.get_object(self.credentials.as_ref(), key));
            if before > 0 {
                ask = ask.header(RANGE, format!("bytes={before}-"));
            }
            let response = self.send(&ask).await?.map_err(RemoteError::from)?;
            let error = match self.receive(response, blob, &mut writer).await {
                Ok(()) => {
                    writer.commit_verified(blob)?;
                    return Ok(());
                }
                Err(error @ (RemoteError::Connection { .. } | RemoteError::Stalled { .. })) => {
                    error
                }
                Err(error) => return Err(error),
            };
            broken += 1;
            fruitless = if writer.written() > before { 0 } else { fruitless + 1 };
            if broken >= RESUMPTIONS || fruitless >= self.transport.config.attempts {
                return Err(error);
            }
            tokio::time::sleep(self.transport.backoff(fruitless + 1)).await;
        }
    }

    /// Writes what one answer brings, from where the writer is on.
    async fn receive(
        &self,
        mut response: Response,
        blob: &Descriptor,
        writer: &mut BlobWriter,
    ) -> Result<(), RemoteError> {
        let patience = self.transport.config.patience;
        let url = response.url().clone();
        // Who ignores the range sends everything again.
        let mut skip = match response.status() {
            StatusCode::PARTIAL_CONTENT
                if range_start(response.headers()) == Some(writer.written()) =>
            {
                0
            }
            StatusCode::PARTIAL_CONTENT => {
                let reason = "it sent another range than it was asked for".to_owned();
                return Err(RemoteError::NoS3 { address: address(&url), reason });
            }
            _ => writer.written(),
        };
        loop {
            let chunk = tokio::time::timeout(patience, response.chunk())
                .await
                .map_err(|_| self.transport.stalled(&url))?
                .map_err(|source| connection(&url, source))?;
            let Some(chunk) = chunk else { return Ok(()) };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let news = &chunk[skipped as usize..];
            let found = writer.written() + news.len() as u64;
            if found > blob.size() {
                let expected = blob.size();
                return Err(RemoteError::Size { address: address(&url), expected, found });
            }
            // At most some hundred KiB: shorter than the way to another thread and back.
            writer.write_all(news).map_err(|source| StoreError::File {
                attempt: "write",
                path: "the blob store".into(),
                source,
            })?;
        }
    }
}
