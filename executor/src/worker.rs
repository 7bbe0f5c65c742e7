//! The solver's worker on this machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use cache::Store;
use cache::hash::Fingerprint;
use cache::snapshot::Snapshot;
use futures_util::future::BoxFuture;
use runtime::{Identity, Spawner};
use solver::llb::{ImageSource, Vertex};
use solver::{Content, ContentRequest, InputValue, LogSink, OpError, Output, Worker};

use crate::{ExecutorError, SecretStore, SshAgents};

/// Brings the files of images here.
pub trait FetchImage: Send + Sync + 'static {
    /// The snapshot of the image's layers, fetched and unpacked if it is not there yet; `None` if
    /// it has no layers. Reports its progress to `log`.
    fn fetch<'a>(
        &'a self,
        image: &'a ImageSource,
        log: &'a LogSink,
    ) -> BoxFuture<'a, Result<Option<Snapshot>, Box<dyn std::error::Error + Send + Sync>>>;
}

/// What a worker works with.
pub struct LocalWorkerConfig {
    /// Where everything is kept.
    pub store: Store,
    /// Who starts containers.
    pub spawner: Arc<Spawner>,
    /// Who we are.
    pub identity: Identity,
    /// Who fetches images.
    pub images: Arc<dyn FetchImage>,
    /// Directories by the name the build gives them; the main one is `context`.
    pub contexts: BTreeMap<String, PathBuf>,
    /// The build's secrets.
    pub secrets: SecretStore,
    /// The build's ssh agents.
    pub ssh: SshAgents,
    /// `security.insecure`, `network.host`: what the user allows beyond the usual.
    pub allow: Vec<String>,
    /// The time that is written into results instead of now, RFC 3339 (`SOURCE_DATE_EPOCH`).
    pub created: Option<String>,
}

/// Executes vertices on this machine.
pub struct LocalWorker {
    config: LocalWorkerConfig,
}

impl LocalWorker {
    /// A worker.
    pub fn new(config: LocalWorkerConfig) -> Self {
        Self { config }
    }

    /// Waits for what runs in the background: digests of new layers, the contexts' memory. Call it
    /// before the process ends.
    pub async fn finish(&self) -> Result<(), ExecutorError> {
        let _ = &self.config;
        todo!()
    }
}

impl Worker for LocalWorker {
    fn exec(
        &self,
        vertex: Arc<Vertex>,
        inputs: Vec<InputValue>,
        log: LogSink,
    ) -> BoxFuture<'_, Result<Vec<Output>, OpError>> {
        let _ = (vertex, inputs, log);
        todo!()
    }

    fn content(&self, request: ContentRequest) -> BoxFuture<'_, Result<Content, OpError>> {
        let _ = request;
        todo!()
    }

    fn rootfs_content(&self, output: Output) -> BoxFuture<'_, Result<Fingerprint, OpError>> {
        let _ = output;
        todo!()
    }

    fn exists(&self, output: &Output) -> bool {
        let _ = output;
        todo!()
    }
}
