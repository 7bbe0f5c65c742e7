//! Why an S3 store does not do what it was asked for.

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode, Url};

use crate::remote::RemoteError;
use crate::remote::error::{address, words};
use crate::remote::transport::{is_temporary, read_body, retry_after};

/// The most that is read of an explanation, in bytes.
const ERROR_LIMIT: u64 = 16 << 10;
/// How long an explanation is waited for.
const ERROR_PATIENCE: Duration = Duration::from_secs(10);
/// What S3 says when a request may work later, under whatever status.
const TEMPORARY: [&str; 5] =
    ["InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"];

/// An answer that is a no.
#[derive(Debug)]
pub(super) struct Refusal {
    address: String,
    pub(super) status: StatusCode,
    /// S3's name of the reason, or nothing: `NoSuchKey`.
    pub(super) code: String,
    /// The reason with a colon before it, or nothing.
    message: String,
    /// How long the server asks to wait.
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) async fn of(response: Response) -> Refusal {
        let (url, status) = (response.url().clone(), response.status());
        let headers = response.headers().clone();
        // What cannot be read explains nothing; the status still does.
        let body = read_body(response, ERROR_LIMIT, ERROR_PATIENCE).await.unwrap_or_default();
        Refusal::in_document(&url, status, &headers, &body).unwrap_or_else(|| Refusal {
            address: address(&url),
            status,
            code: String::new(),
            message: words(&body) + &whereabouts(&headers),
            retry_after: retry_after(&headers, SystemTime::now()),
        })
    }

    /// The refusal that a document is, whatever the status before it says.
    pub(super) fn in_document(
        url: &Url,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Option<Refusal> {
        let text = String::from_utf8_lossy(body);
        let error = element(&text, "Error")?;
        let code = element(error, "Code").unwrap_or_default().trim().to_owned();
        let said = element(error, "Message").map(unescaped).unwrap_or_default();
        let said = [code.as_str(), said.trim()].into_iter().filter(|part| !part.is_empty());
        let said = said.collect::<Vec<_>>().join(": ");
        Some(Refusal {
            address: address(url),
            status,
            message: words(said.as_bytes()) + &whereabouts(headers),
            code,
            retry_after: retry_after(headers, SystemTime::now()),
        })
    }

    /// Whether the object is not there; a bucket that is not there is another matter.
    pub(super) fn is_missing(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && self.code != "NoSuchBucket"
    }

    pub(super) fn is_temporary(&self) -> bool {
        is_temporary(self.status) || TEMPORARY.contains(&self.code.as_str())
    }
}

impl From<Refusal> for RemoteError {
    fn from(refusal: Refusal) -> Self {
        let Refusal { address, status, message, .. } = refusal;
        RemoteError::Status { address, status, message }
    }
}

/// Where the bucket really is, if the server says so: what it says in words does not name it.
fn whereabouts(headers: &HeaderMap) -> String {
    let region = headers.get("x-amz-bucket-region").and_then(|value| value.to_str().ok());
    region.map(|region| format!(" (the bucket is in {region})")).unwrap_or_default()
}

/// The text of the first element with this name; S3's errors nest nothing that is wanted here.
pub(super) fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let start = text.find(&open)? + open.len();
    let length = text[start..].find(&close)?;
    Some(&text[start..start + length])
}

/// Text without the five entities that XML has.
pub(super) fn unescaped(text: &str) -> String {
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#34;", "\"")]
        .into_iter()
        .fold(text.to_owned(), |text, (entity, meaning)| text.replace(entity, meaning))
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> Option<Refusal> {
        let url = Url::parse("https://s3.example/b/k?X-Amz-Signature=secret").unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        Refusal::in_document(&url, status, &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn a_refusal_says_what_s3_says() {
        let body = "<?xml version=\"1.0\"?>\n<Error><Code>SignatureDoesNotMatch</Code>\
                    <Message>They &quot;differ&quot; &amp;amp;.</Message></Error>";
        let refusal = refusal(403, body).unwrap();
        assert!(!refusal.is_temporary() && !refusal.is_missing());
        let error = RemoteError::from(refusal).to_string();
        let expected = "https://s3.example/b/k answered 403 Forbidden: SignatureDoesNotMatch: \
                        They \"differ\" &amp;.";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_success_may_be_a_refusal() {
        assert!(refusal(200, "<CompleteMultipartUploadResult/>").is_none());
        assert!(refusal(200, "<Error><Code>InternalError</Code></Error>").unwrap().is_temporary());
        assert!(refusal(400, "<Error><Code>RequestTimeout</Code></Error>").unwrap().is_temporary());
        assert!(
            !refusal(400, "<Error><Code>EntityTooSmall</Code></Error>").unwrap().is_temporary()
        );
    }

    #[test]
    fn a_bucket_that_is_missing_is_no_missing_object() {
        assert!(refusal(404, "<Error><Code>NoSuchKey</Code></Error>").unwrap().is_missing());
        assert!(!refusal(404, "<Error><Code>NoSuchBucket</Code></Error>").unwrap().is_missing());
    }
}
