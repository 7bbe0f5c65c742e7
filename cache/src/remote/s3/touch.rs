//! An object that is made young again: buckets are told to delete what has not been written for
//! some days, and a blob that every build needs is written once.

use futures_util::stream::{StreamExt, TryStreamExt, iter};
use reqwest::StatusCode;
use reqwest::header::HeaderName;
use rusty_s3::S3Action;

use super::answer::{Refusal, element, unescaped};
use super::parts::parts;
use super::{Ask, S3};
use crate::remote::RemoteError;
use crate::remote::error::address;

const SOURCE: HeaderName = HeaderName::from_static("x-amz-copy-source");
const RANGE: HeaderName = HeaderName::from_static("x-amz-copy-source-range");
const DIRECTIVE: HeaderName = HeaderName::from_static("x-amz-metadata-directive");
/// What one request copies, by the S3 API, in bytes.
const LARGEST_COPY: u64 = 5 << 30;
/// What one request of several copies, in bytes: some seconds of the server's work.
const PART: u64 = 1 << 30;
/// Parts that are copied at the same time.
const AT_ONCE: usize = 4;

impl S3 {
    /// Copies an object onto itself. `false` if that cannot be: it went away in the meantime, or the
    /// server copies nothing.
    pub(crate) async fn touch(&self, key: &str, size: u64) -> Result<bool, RemoteError> {
        if size > LARGEST_COPY {
            return self.touch_in_parts(key, size).await;
        }
        // S3 refuses a copy onto itself that changes nothing; that its metadata is given anew, none
        // here, counts as a change.
        let headers = [(SOURCE, self.source(key)), (DIRECTIVE, "REPLACE".to_owned())];
        let action = self.bucket.put_object(self.credentials.as_ref(), key);
        let ask = self.ask_with(action, &headers).patiently();
        done(self.send_for_document(&ask).await?.map(drop))
    }

    async fn touch_in_parts(&self, key: &str, size: u64) -> Result<bool, RemoteError> {
        let upload = self.begin(key).await?;
        let copying = parts(size, PART).map(|(number, offset, length)| {
            let upload = &upload;
            async move {
                let range = format!("bytes={offset}-{}", offset + length - 1);
                let headers = [(SOURCE, self.source(key)), (RANGE, range)];
                let credentials = self.credentials.as_ref();
                let action = self.bucket.upload_part(credentials, key, number, &upload.id);
                let ask = self.ask_with(action, &headers).patiently();
                let answer = self.send_for_document(&ask).await?.map_err(RemoteError::from)?;
                let etag = element(&answer, "ETag").map(unescaped);
                etag.ok_or_else(|| RemoteError::NoS3 {
                    address: address(&ask.url),
                    reason: "it gives a part no ETag".to_owned(),
                })
            }
        });
        let copying: Vec<_> = copying.collect();
        let etags = iter(copying).buffered(AT_ONCE).try_collect().await;
        upload.end(etags, size).await.map(|()| true)
    }

    /// The object as the source of a copy.
    fn source(&self, key: &str) -> String {
        format!("/{}/{}", self.bucket.name(), encoded(key))
    }

    /// A request with headers that are signed too: S3 wants that of all that are its own.
    fn ask_with<'a, 'b, A: S3Action<'b>>(
        &self,
        mut action: A,
        headers: &[(HeaderName, String)],
    ) -> Ask<'a> {
        for (name, value) in headers {
            action.headers_mut().insert(name.as_str().to_owned(), value.clone());
        }
        let ask = self.ask(&action);
        headers.iter().fold(ask, |ask, (name, value)| ask.header(name.clone(), value.clone()))
    }
}

fn done(answer: Result<(), Refusal>) -> Result<bool, RemoteError> {
    match answer {
        Ok(()) => Ok(true),
        Err(refusal) if refusal.is_missing() || refusal.status == StatusCode::NOT_IMPLEMENTED => {
            Ok(false)
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// A key as a path: everything but unreserved characters and slashes stands as its bytes.
fn encoded(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    key.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_a_copy_is_encoded() {
        assert_eq!(encoded("a b/ü+sha256:0~.-_"), "a%20b/%C3%BC%2Bsha256%3A0~.-_");
    }
}
