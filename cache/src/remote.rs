//! Registries: a blob store that is far away.
//!
//! The wire is `reqwest`'s; from `oci-client` come the words (error envelopes). Its client cannot
//! be used as it stands: it hides `Retry-After`, reads a manifest of any size into memory, follows
//! redirects from https to http, sends a password to whichever host a challenge names, and asks
//! for a mount with a token that cannot read the source.
//!
//! What holds for every request:
//!
//! - http only to loopback and to hosts the user listed; https never falls back;
//! - a credential goes to the registry it is for, over that registry's scheme, and to nobody else:
//!   not to a redirect's target, a foreign layer's address or an upload location on another host,
//!   and to a token service only on a host that belongs to the registry;
//! - every wait has a bound, every body a limit, every retry a count;
//! - bytes are believed when their digest is right, and only then become visible in [`Blobs`].
//!
//! [`Blobs`]: crate::blob::Blobs

mod artifact;
mod auth;
mod call;
mod credentials;
mod error;
mod layers;
mod pull;
mod push;
mod s3;
mod transfer;
mod transport;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use credentials::CredentialFiles;
pub(crate) use credentials::decode_base64;
pub use error::RemoteError;
pub use layers::LayerProgress;
pub use pull::{Progress, Resolved};
pub use push::{PushBlob, PushManifest, PushTarget};
pub use s3::S3Options;
pub(crate) use s3::{LARGEST_OBJECT as S3_LARGEST_OBJECT, S3};
use transport::Transport;

use crate::oci::Digest;

/// How registries are talked to.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Registries (`host` or `host:port`) that may be talked to over http, beside loopback.
    pub insecure: Vec<String>,
    /// Hosts that may get a registry's password as its token service although they are not below
    /// or above the registry's own host.
    pub trusted_realms: Vec<String>,
    /// Where passwords are.
    pub credentials: CredentialFiles,
    /// How long the other side may be silent.
    pub patience: Duration,
    /// How often a request is tried before it counts as failed.
    pub attempts: u32,
    /// The wait before the first retry; each following one is twice as long, up to ten seconds.
    pub backoff: Duration,
    /// The longest wait a registry may ask for with `Retry-After`.
    pub longest_wait: Duration,
    /// Blobs moving at the same time, per registry.
    pub parallel: usize,
    /// Nothing is connected to: whatever would be fails with [`RemoteError::Offline`].
    pub offline: bool,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        RegistryConfig {
            insecure: Vec::new(),
            trusted_realms: Vec::new(),
            credentials: CredentialFiles::from_env(),
            patience: Duration::from_secs(30),
            attempts: 5,
            backoff: Duration::from_millis(250),
            longest_wait: Duration::from_secs(60),
            parallel: 6,
            offline: false,
        }
    }
}

/// All registries, with their connections and tokens. Clones share them.
#[derive(Clone)]
pub struct Registries {
    transport: Arc<Transport>,
    /// Blobs on their way: who wants one of them too waits for it.
    underway: Arc<Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>>,
}

impl std::fmt::Debug for Registries {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Registries").finish_non_exhaustive()
    }
}

impl Registries {
    /// Sets up the clients; connects to nothing and reads no credentials.
    pub fn new(config: RegistryConfig) -> Registries {
        Registries { transport: Arc::new(Transport::new(config)), underway: Arc::default() }
    }
}
