//! What can go wrong between here and a registry.

use std::path::PathBuf;

use oci_client::errors::OciEnvelope;
use reqwest::{StatusCode, Url};
use thiserror::Error;

use crate::image::{DocumentError, ImageError};
use crate::oci::{Digest, ImageName, Platform};
use crate::state::StoreError;

/// Why a registry operation failed.
///
/// No variant prints a credential: addresses are printed without query and user part.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// The HTTP client cannot be set up, usually for want of root certificates.
    #[error("cannot set up the HTTP client")]
    Client {
        /// What is missing.
        #[source]
        source: reqwest::Error,
    },
    /// It would have to be asked, and nobody may be.
    #[error("{address} is not asked: offline")]
    Offline {
        /// Scheme, host and path.
        address: String,
    },
    /// No answer came.
    #[error("no answer from {address}")]
    Connection {
        /// Scheme, host and path.
        address: String,
        /// What the connection died of.
        #[source]
        source: reqwest::Error,
    },
    /// The other side stopped talking.
    #[error("{address} sent nothing for {seconds} seconds")]
    Stalled {
        /// Scheme, host and path.
        address: String,
        /// How long it was silent.
        seconds: u64,
    },
    /// The registry said no.
    #[error("{address} answered {status}{message}")]
    Status {
        /// Scheme, host and path.
        address: String,
        /// The HTTP status.
        status: StatusCode,
        /// The registry's own words with a colon before them, or nothing.
        message: String,
    },
    /// The registry asks to come back later than anyone would wait for.
    #[error("{registry} allows no more requests now; try again in {seconds} seconds")]
    RateLimited {
        /// The registry.
        registry: String,
        /// What it asked for.
        seconds: u64,
    },
    /// There is no such image, or it is hidden.
    #[error("{registry} has no image {}", name.familiar())]
    NotFound {
        /// The registry.
        registry: String,
        /// The image.
        name: Box<ImageName>,
    },
    /// The registry wants (other) credentials.
    #[error("{registry} refuses access{message}")]
    Unauthorized {
        /// The registry.
        registry: String,
        /// Whether credentials were found and sent.
        authenticated: bool,
        /// The registry's own words with a colon before them, or nothing.
        message: String,
    },
    /// The registry sends us elsewhere with our password.
    #[error("{registry} wants its password sent to {realm}, which is another host")]
    UntrustedRealm {
        /// The registry.
        registry: String,
        /// The host named in its challenge.
        realm: String,
    },
    /// A redirect that must not be followed.
    #[error("{address} redirects to {target}, which is not followed: {reason}")]
    Redirect {
        /// Scheme, host and path.
        address: String,
        /// Where it points.
        target: String,
        /// Why that is refused.
        reason: &'static str,
    },
    /// The answer breaks the distribution specification.
    #[error("{address} does not keep to the distribution specification: {reason}")]
    Protocol {
        /// Scheme, host and path.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// It is no S3 store, or not one that keeps to S3's API.
    #[error("{address} is not usable as an S3 store: {reason}")]
    NoS3 {
        /// Scheme, host and path.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// The bytes are not what their digest says.
    #[error("{address} sent {found} instead of {expected}")]
    Digest {
        /// Scheme, host and path.
        address: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The bytes are more or fewer than the descriptor says.
    #[error("{address} sent {found} bytes where {expected} were promised")]
    Size {
        /// Scheme, host and path.
        address: String,
        /// The descriptor's size, or the limit.
        expected: u64,
        /// What came, or the least of it.
        found: u64,
    },
    /// The image exists, but not for this platform.
    #[error("{} is not available for {wanted}, only for {}", name.familiar(), offered.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    NoPlatform {
        /// The image.
        name: Box<ImageName>,
        /// What was asked for.
        wanted: Box<Platform>,
        /// What there is.
        offered: Vec<Platform>,
    },
    /// The manifest is not one.
    #[error("the registry's manifest of {} cannot be used", name.familiar())]
    Document {
        /// The image.
        name: Box<ImageName>,
        /// Why not.
        #[source]
        source: DocumentError,
    },
    /// A layer is not here, and where it should lie it is not to be had.
    #[error(
        "layer {digest} ({size} bytes) is not on this machine and cannot be fetched from {}",
        names(places)
    )]
    LayerUnavailable {
        /// The blob's digest.
        digest: Digest,
        /// Of the blob, in bytes.
        size: u64,
        /// The repositories that were asked.
        places: Vec<ImageName>,
        /// Why the first of them did not give it.
        source: Box<RemoteError>,
    },
    /// A layer is not here, and nothing is known of where it could be.
    #[error(
        "layer {digest} ({size} bytes) is not on this machine, and no registry is known to have it"
    )]
    LayerNowhere {
        /// The blob's digest.
        digest: Digest,
        /// Of the blob, in bytes.
        size: u64,
    },
    /// A credentials file cannot be read.
    #[error("cannot read the registry credentials in {path}")]
    CredentialFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A credential helper does not work.
    #[error("the credential helper `{program}` failed: {reason}")]
    CredentialHelper {
        /// The program.
        program: String,
        /// What happened.
        reason: String,
    },
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The local image store failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A blob to be pushed cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl RemoteError {
    /// Whether it is one only because nobody may be asked.
    pub fn is_offline(&self) -> bool {
        match self {
            RemoteError::Offline { .. } => true,
            RemoteError::LayerUnavailable { source, .. } => source.is_offline(),
            _ => false,
        }
    }
}

fn names(places: &[ImageName]) -> String {
    let names: Vec<String> = places.iter().map(ImageName::to_string).collect();
    names.join(" or ")
}

/// An address fit for a message: no user, no query.
pub(super) fn address(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// The registry's own words, as an addition to a sentence: `: denied` or nothing.
///
/// They are foreign text on its way to a terminal: one line, printable, bounded.
pub(super) fn words(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<OciEnvelope>(body) {
        Ok(envelope) => {
            let errors = envelope.errors.into_iter().take(3);
            let texts: Vec<_> = errors
                .map(|error| match error.message.is_empty() {
                    true => format!("{:?}", error.code),
                    false => error.message,
                })
                .collect();
            texts.join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().take(300).map(printable).collect();
    if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_a_message_has_no_secrets() {
        let url = Url::parse("https://me:secret@host.io/v2/x?sig=secret#frag").unwrap();
        assert_eq!(address(&url), "https://host.io/v2/x");
    }

    #[test]
    fn a_registrys_words_stay_on_one_line() {
        assert_eq!(words(b""), "");
        assert_eq!(words(b"a\x1b[2J\nb"), ": a [2J b");
        let body = br#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#;
        assert_eq!(words(body), ": requested access is denied");
    }
}
