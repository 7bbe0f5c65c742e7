//! The solver's worker on this machine.
//!
//! ```text
//! Source  image ── fetched and unpacked       http, git ── a snapshot of what came
//!         context, inline ── read where they lie (fingerprints, copies, mounts)
//! File    FileOperation on a new snapshot     Merge ── hard links onto the base
//! Exec    Executor on a new snapshot, with the step's mounts
//! ```
//!
//! The digests of every new layer are computed in the background while the build goes on, so that
//! its end has little left to hash.

mod cache_mount;
mod claim;
mod exec;
mod file;
mod git;
mod http;
mod image;
mod merge;
mod trees;
mod usage;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cache::Store;
use cache::bundle::Imported;
use cache::hash::Fingerprint;
use cache::oci::Descriptor;
use cache::remote::Registries;
use cache::snapshot::{ActiveSnapshot, CommitInfo, Snapshot};
use futures_util::future::BoxFuture;
use runtime::{Identity, Spawner};
use solver::llb::{Op, SourceOp, Vertex};
use solver::{
    CacheKey, Claim, Content, ContentRequest, Demand, InputValue, LogSink, OpError, Output, Worker,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::executor::{blocking, owners};
use crate::merged::Owners;
use crate::stat_cache::StatCache;
use crate::{Executor, ExecutorError, Limits, SecretStore, SshAgents};

pub use exec::host_address;
pub(crate) use git::check_out_context;
pub(crate) use http::download_context;

/// Layers whose digests are computed at the same time: more would take the build's own cores.
const DIGESTS_AT_ONCE: usize = 2;

/// What a worker works with.
pub struct LocalWorkerConfig {
    /// Where everything is kept.
    pub store: Store,
    /// Who starts containers.
    pub spawner: Arc<Spawner>,
    /// Who we are.
    pub identity: Identity,
    /// Where layers of images come from that are not here.
    pub registries: Registries,
    /// Directories by the name the build gives them; the main one is `context`.
    pub contexts: BTreeMap<String, PathBuf>,
    /// The build's secrets.
    pub secrets: SecretStore,
    /// The build's ssh agents.
    pub ssh: SshAgents,
    /// What the user allows beyond the usual: `security.insecure`, `network.host`.
    pub allow: Vec<String>,
    /// What a step may take at the most.
    pub limits: Limits,
    /// Nothing opens a socket towards a network, and no container gets one.
    pub offline: bool,
    /// Devices of this machine that steps may have.
    pub devices: crate::cdi::Devices,
    /// The time that is written into results instead of now, RFC 3339 (`SOURCE_DATE_EPOCH`).
    pub created: Option<String>,
}

/// Executes vertices on this machine.
pub struct LocalWorker {
    config: LocalWorkerConfig,
    executor: Executor,
    owners: Owners,
    stat_caches: Mutex<HashMap<PathBuf, Arc<StatCache>>>,
    digests: Mutex<JoinSet<()>>,
    permits: Arc<Semaphore>,
    /// What servers said in this build, by address.
    downloads: Mutex<HashMap<String, http::Remembered>>,
    /// What references meant in this build, by address and reference.
    commits: Mutex<HashMap<(String, String), String>>,
    /// What steps of this build took, by the digest of their operation.
    taken: Mutex<Vec<(Fingerprint, Vec<u8>)>>,
    /// Trees that others made and that are fetched when a step needs them.
    imported: Imported,
}

impl LocalWorker {
    /// A worker.
    pub fn new(config: LocalWorkerConfig) -> Self {
        raise_file_limit();
        Self {
            executor: Executor::new(config.spawner.clone(), &config.identity),
            owners: owners(&config.identity),
            stat_caches: Mutex::default(),
            digests: Mutex::default(),
            permits: Arc::new(Semaphore::new(DIGESTS_AT_ONCE)),
            downloads: Mutex::default(),
            commits: Mutex::default(),
            taken: Mutex::default(),
            imported: Imported::default(),
            config,
        }
    }

    /// The same worker, which can have the trees of these caches as well.
    pub fn with_imported(mut self, imported: Imported) -> Self {
        self.imported = imported;
        self
    }

    /// Waits for what runs in the background (digests of new layers, the memory of contexts) and
    /// writes down what the steps took. Call it before the process ends.
    pub async fn finish(&self) {
        self.keep_usage();
        let mut digests = std::mem::take(&mut *lock(&self.digests));
        while digests.join_next().await.is_some() {}
        let caches: Vec<_> = lock(&self.stat_caches).values().cloned().collect();
        let saved = blocking(move || {
            for cache in caches {
                if let Err(error) = cache.save() {
                    tracing::warn!(%error, "what was read of a context is not remembered");
                }
            }
            Ok(())
        });
        if let Err(error) = saved.await {
            tracing::warn!(%error, "what was read of the contexts is not remembered");
        }
    }

    fn created(&self) -> String {
        self.config.created.clone().unwrap_or_else(|| jiff::Timestamp::now().to_string())
    }

    fn snapshot(&self, output: &Output) -> Result<Option<Snapshot>, ExecutorError> {
        let Some(id) = output.snapshot else { return Ok(None) };
        let id = self.imported.made(&id).unwrap_or(id);
        match self.config.store.snapshots().get(&id)? {
            Some(snapshot) => Ok(Some(snapshot)),
            None => Err(cache::StoreError::NoSnapshot { id }.into()),
        }
    }

    /// An error that names what needs the network, where there is to be none.
    fn needs_network(&self, what: impl FnOnce() -> String) -> Result<(), ExecutorError> {
        match self.config.offline {
            true => Err(ExecutorError::Offline { what: what() }),
            false => Ok(()),
        }
    }

    /// Sees to it that the tree of an output is here: one of an imported cache may not be yet.
    pub async fn bring(&self, output: &Output, log: &LogSink) -> Result<(), ExecutorError> {
        let Some(id) = output.snapshot.filter(|id| self.imported.knows(id)) else { return Ok(()) };
        let report = |blob: &Descriptor, done: bool| {
            let size = blob.size();
            log.status(blob.digest().to_string(), if done { size } else { 0 }, Some(size), done);
        };
        self.imported.make(&self.config.store, &id, &report).await.map(drop).map_err(Into::into)
    }

    fn prepare(&self, parent: Option<&Snapshot>) -> Result<ActiveSnapshot, ExecutorError> {
        Ok(self.config.store.snapshots().prepare(parent.map(Snapshot::id))?)
    }

    /// Freezes a result and starts computing its digests.
    async fn commit(&self, active: ActiveSnapshot) -> Result<Output, ExecutorError> {
        self.commit_like(active, None).await
    }

    /// As [`LocalWorker::commit`], of a tree that has many files of an earlier one.
    async fn commit_like(
        &self,
        active: ActiveSnapshot,
        earlier: Option<Snapshot>,
    ) -> Result<Output, ExecutorError> {
        let created = self.created();
        let info = CommitInfo { created, resembles: earlier, ..CommitInfo::default() };
        let snapshot = blocking(move || Ok(active.commit(info)?)).await?;
        let output = Output { snapshot: Some(*snapshot.id()), content: None };
        let permits = self.permits.clone();
        let mut digests = lock(&self.digests);
        while digests.try_join_next().is_some() {}
        digests.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let digest = move || {
                // Whoever needs the digest meets the same error, where somebody hears of it.
                let _ = snapshot.layer();
                Ok(())
            };
            let _ = blocking(digest).await;
        });
        Ok(output)
    }

    async fn execute(
        &self,
        vertex: &Vertex,
        inputs: Vec<InputValue>,
        log: &LogSink,
    ) -> Result<Vec<Output>, OpError> {
        for input in &inputs {
            if let InputValue::Output(output) = input {
                self.bring(output, log).await.map_err(OpError::worker)?;
            }
        }
        let output = match &vertex.op {
            Op::Exec(op) => self.exec_op(vertex, op, &inputs, log).await?,
            Op::File(op) => {
                self.file_op(vertex, op, &inputs, log).await.map_err(OpError::worker)?
            }
            Op::Merge(_) => self.merge_op(&inputs).await.map_err(OpError::worker)?,
            Op::Source(source) => self.source_op(source, log).await.map_err(OpError::worker)?,
        };
        Ok(vec![output])
    }

    async fn source_op(&self, op: &SourceOp, log: &LogSink) -> Result<Output, ExecutorError> {
        match op {
            SourceOp::Image(image) => {
                let snapshot = self.fetch_image(image, log).await?;
                Ok(Output { snapshot: snapshot.map(|s| *s.id()), content: None })
            }
            SourceOp::Http(http) => self.fetch_http(http, log).await,
            SourceOp::Git(git) => self.fetch_git(git, log).await,
            SourceOp::Scratch => Ok(Output { snapshot: None, content: None }),
            SourceOp::Context(_) | SourceOp::Inline { .. } => Err(ExecutorError::Process {
                reason: "a context is read where it lies, not executed".to_owned(),
            }),
        }
    }

    /// The snapshot of input 0; nothing for scratch.
    fn rootfs(&self, inputs: &[InputValue]) -> Result<Option<Snapshot>, ExecutorError> {
        match input(inputs, 0)? {
            InputValue::Output(output) => self.snapshot(output),
            InputValue::Direct(vertex) => match vertex.op {
                Op::Source(SourceOp::Scratch) => Ok(None),
                _ => Err(ExecutorError::Process {
                    reason: format!("`{}` is not a root file system", vertex.meta.name),
                }),
            },
        }
    }

    async fn read_content(&self, request: ContentRequest) -> Result<Content, ExecutorError> {
        let value = match request.output {
            Some(output) => {
                self.bring(&output, &LogSink::nobody()).await?;
                InputValue::Output(output)
            }
            None => match &request.vertex.op {
                Op::Source(SourceOp::Http(http)) => return self.http_state(http).await,
                Op::Source(SourceOp::Git(git)) => return self.git_state(git).await,
                _ => InputValue::Direct(request.vertex),
            },
        };
        let tree = self.tree(&value)?;
        blocking(move || tree.content(&request.selector)).await
    }
}

/// Who needs an input that the graph does not have is told so.
fn input(inputs: &[InputValue], position: usize) -> Result<&InputValue, ExecutorError> {
    inputs
        .get(position)
        .ok_or_else(|| ExecutorError::Process { reason: format!("there is no input {position}") })
}

/// Sets its flag when it is dropped, which is how a file operation on another thread hears that its
/// future is gone.
#[derive(Debug, Default)]
struct CancelOnDrop {
    flag: Arc<AtomicBool>,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.flag.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A tree of many layers needs a descriptor per layer for each directory that is open; containers
/// have limits of their own and do not see this.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        limit.current = limit.maximum.or(Some(1 << 20));
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

impl Worker for LocalWorker {
    fn exec(
        &self,
        vertex: Arc<Vertex>,
        inputs: Vec<InputValue>,
        log: LogSink,
    ) -> BoxFuture<'_, Result<Vec<Output>, OpError>> {
        Box::pin(async move { self.execute(&vertex, inputs, &log).await })
    }

    fn content(&self, request: ContentRequest) -> BoxFuture<'_, Result<Content, OpError>> {
        Box::pin(async move { self.read_content(request).await.map_err(OpError::worker) })
    }

    fn rootfs_content(&self, output: Output) -> BoxFuture<'_, Result<Fingerprint, OpError>> {
        Box::pin(async move {
            self.bring(&output, &LogSink::nobody()).await.map_err(OpError::worker)?;
            let snapshot = self.snapshot(&output).map_err(OpError::worker)?;
            let Some(snapshot) = snapshot else { return Ok(Fingerprint::of(b"scratch")) };
            let content = blocking(move || Ok(snapshot.chain_content()?)).await;
            content.map_err(OpError::worker)
        })
    }

    fn exists(&self, output: &Output) -> Result<bool, OpError> {
        let Some(id) = output.snapshot else { return Ok(true) };
        let snapshots = self.config.store.snapshots();
        let is_there = snapshots.get(&id).map_err(OpError::worker)?.is_some();
        if is_there {
            snapshots.mark_used(&id);
        }
        Ok(is_there || self.imported.offers(&id))
    }

    fn expects(&self, vertex: &Vertex) -> Demand {
        self.expected(vertex)
    }

    fn claim(&self, key: CacheKey) -> BoxFuture<'_, Option<Claim>> {
        Box::pin(self.claim_key(key))
    }
}
