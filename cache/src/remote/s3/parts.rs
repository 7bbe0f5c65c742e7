//! A file that goes in parts: what breaks costs one of them.
//!
//! ```text
//! POST ?uploads                      ─► an id
//! PUT  ?partNumber=N&uploadId=ID     ─► an ETag each, some at the same time
//! POST ?uploadId=ID  with the ETags  ─► the object is there
//! DELETE ?uploadId=ID                    if it cannot be finished: parts cost their owner money
//! ```
//!
//! A future that is dropped cannot send anything any more. Its upload is remembered, and taken back
//! when the [`S3`] itself goes, which is when a command ends; only a killed one leaves parts behind.

use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{StreamExt, TryStreamExt, iter};
use reqwest::Url;
use reqwest::header::ETAG;
use rusty_s3::S3Action;
use rusty_s3::actions::CreateMultipartUpload;

use super::{Ask, Payload, S3, SIGNED_FOR};
use crate::remote::RemoteError;
use crate::remote::error::address;
use crate::remote::transport::Transport;

/// The smallest part but the last, in bytes, and what is smaller goes whole. S3 wants 5 MiB; parts of
/// this size are lost in seconds when a connection breaks, and cost one request for each of them.
pub(super) const SMALLEST: u64 = 16 << 20;
/// How many parts there may be, by the S3 API.
const MOST: u64 = 10_000;
/// The largest object by the S3 API, in bytes; its parts are below their limit of 5 GiB then.
pub(crate) const LARGEST_OBJECT: u64 = 5 << 40;
/// Parts of one file on their way at the same time.
const AT_ONCE: usize = 4;
/// How long the end of a command waits for the uploads that it did not finish.
const ABORT_PATIENCE: Duration = Duration::from_millis(500);

/// How large the parts of a file are, in bytes.
pub(super) fn part_size(length: u64) -> u64 {
    SMALLEST.max(length.div_ceil(MOST).next_multiple_of(1 << 20))
}

/// The number, offset and length of every part.
pub(super) fn parts(length: u64, size: u64) -> impl Iterator<Item = (u16, u64, u64)> {
    (1..)
        .zip((0..length).step_by(usize::try_from(size).unwrap_or(usize::MAX)))
        .map(move |(number, offset)| (number, offset, size.min(length - offset)))
}

impl S3 {
    /// Stores the first `length` bytes of a file, in parts.
    pub(super) async fn put_parts(
        &self,
        key: &str,
        path: &Path,
        length: u64,
    ) -> Result<(), RemoteError> {
        let upload = self.begin(key).await?;
        let sending = parts(length, part_size(length)).map(|(number, offset, length)| {
            let upload = &upload;
            async move {
                let payload = Payload::File { path, offset, length };
                let response = self.send(&upload.part(number).carrying(payload)).await?;
                let response = response.map_err(RemoteError::from)?;
                let etag = response.headers().get(ETAG).and_then(|value| value.to_str().ok());
                etag.map(str::to_owned).ok_or_else(|| RemoteError::NoS3 {
                    address: address(response.url()),
                    reason: "it gives a part no ETag".to_owned(),
                })
            }
        });
        let sending: Vec<_> = sending.collect();
        let etags = iter(sending).buffered(AT_ONCE).try_collect().await;
        upload.end(etags, length).await
    }

    /// Opens an upload.
    pub(super) async fn begin<'a>(&'a self, key: &'a str) -> Result<Upload<'a>, RemoteError> {
        let action = self.bucket.create_multipart_upload(self.credentials.as_ref(), key);
        let ask = self.ask(&action);
        let answer = self.send_for_document(&ask).await?.map_err(RemoteError::from)?;
        let id = match CreateMultipartUpload::parse_response(&answer) {
            Ok(answer) => answer.upload_id().to_owned(),
            Err(error) => {
                let reason = format!("it does not say how to upload in parts: {error}");
                return Err(RemoteError::NoS3 { address: address(&ask.url), reason });
            }
        };
        Ok(Upload { s3: self, key, id, over: false })
    }
}

/// An object that is being put together.
pub(super) struct Upload<'a> {
    pub(super) s3: &'a S3,
    pub(super) key: &'a str,
    pub(super) id: String,
    /// There is nothing to take back.
    over: bool,
}

impl Upload<'_> {
    /// The request that carries a part, counted from 1.
    fn part<'b>(&self, number: u16) -> Ask<'b> {
        let (bucket, credentials) = (&self.s3.bucket, self.s3.credentials.as_ref());
        self.s3.ask(&bucket.upload_part(credentials, self.key, number, &self.id))
    }

    /// Puts the parts together, or takes them back if they did not all arrive.
    pub(super) async fn end(
        mut self,
        etags: Result<Vec<String>, RemoteError>,
        length: u64,
    ) -> Result<(), RemoteError> {
        let ended = match etags {
            Ok(etags) => self.complete(&etags, length).await,
            Err(error) => Err(error),
        };
        if ended.is_err() {
            let ask = self.s3.ask(&self.abortion());
            // The reason why it failed matters more than that this did too.
            let _ = self.s3.send(&ask).await;
        }
        self.over = true;
        ended
    }

    async fn complete(&self, etags: &[String], length: u64) -> Result<(), RemoteError> {
        let (bucket, credentials) = (&self.s3.bucket, self.s3.credentials.as_ref());
        let etags = etags.iter().map(String::as_str);
        let action = bucket.complete_multipart_upload(credentials, self.key, &self.id, etags);
        let ask = self.s3.ask(&action).patiently();
        let body = action.body();
        match self.s3.send_for_document(&ask.carrying(Payload::Bytes(body.as_bytes()))).await? {
            Ok(_) => Ok(()),
            // Done by a try whose answer got lost, perhaps.
            Err(refusal) if refusal.code == "NoSuchUpload" => {
                match self.s3.head(self.key, length).await? {
                    Some(_) => Ok(()),
                    None => Err(refusal.into()),
                }
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    fn abortion(&self) -> rusty_s3::actions::AbortMultipartUpload<'_> {
        let (bucket, credentials) = (&self.s3.bucket, self.s3.credentials.as_ref());
        bucket.abort_multipart_upload(credentials, self.key, &self.id)
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if !self.over {
            let url = self.abortion().sign(SIGNED_FOR);
            self.s3.abandoned.lock().unwrap_or_else(PoisonError::into_inner).push(url);
        }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let abandoned = self.abandoned.get_mut().unwrap_or_else(PoisonError::into_inner);
        if abandoned.is_empty() {
            return;
        }
        let (urls, config) = (std::mem::take(abandoned), self.transport.config.clone());
        // The runtime of before is going down, perhaps with this in its hands.
        let thread = std::thread::Builder::new().name("s3-abort".into());
        let thread = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let transport = Transport::new(config);
            if let Ok(runtime) = runtime {
                runtime.block_on(async {
                    let aborted = join_all(urls.iter().map(|url| abort(&transport, url)));
                    let _ = tokio::time::timeout(ABORT_PATIENCE, aborted).await;
                });
            }
        });
        // Whether it worked or not, there is nobody to be told.
        let _ = thread.map(std::thread::JoinHandle::join);
    }
}

async fn abort(transport: &Transport, url: &Url) {
    if let Ok(client) = transport.client(url) {
        let _ = client.delete(url.clone()).send().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_to_the_limits_of_s3() {
        for length in [SMALLEST + 1, 100 << 20, 160 << 30, 1 << 40, LARGEST_OBJECT] {
            let size = part_size(length);
            assert!((5 << 20..=5 << 30).contains(&size), "{length}");
            let parts: Vec<_> = parts(length, size).collect();
            assert!(parts.len() <= 10_000, "{length}");
            let mut end = 0;
            for (index, (number, offset, part)) in parts.iter().enumerate() {
                assert_eq!((usize::from(*number), *offset), (index + 1, end));
                end += part;
                assert!(*part == size || end == length);
            }
            assert_eq!(end, length);
        }
        assert_eq!(part_size(100 << 30), SMALLEST);
    }
}
