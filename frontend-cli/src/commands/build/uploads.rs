//! Layers on their way to other caches while the build still runs.
//!
//! ```text
//! solver ─► Watched ─► LocalWorker        a step is done: its tree goes into the queue
//!              └─ queue ─► digests ─► packed, one at a time ─► sent, some at the same time
//! ```
//!
//! What goes early are blobs and nothing else: the document that makes a cache of them is written
//! when the build has succeeded. A build that fails or is interrupted drops all this, and leaves
//! blobs behind that nothing names. Nor does an error matter here: the export after the build meets
//! it again, where somebody hears of it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cache::Store;
use cache::bundle::{BundleError, Place};
use cache::hash::Fingerprint;
use cache::oci::{Descriptor, Digest};
use cache::snapshot::{Snapshot, SnapshotId};
use executor::LocalWorker;
use exporter::BackgroundPacker;
use futures_util::future::BoxFuture;
use solver::llb::{Definition, Vertex, VertexId};
use solver::{
    CacheKey, Claim, Content, ContentRequest, Demand, InputValue, LogSink, OpError, Output, Worker,
};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinSet, spawn_blocking};

use super::cache_spec::CacheTo;
use super::travel::{place, result_vertices};
use crate::report::CliError;

/// Blobs on their way to one place at the same time, unless the user says how many. Steps may want
/// the network too.
const AT_ONCE: usize = 3;

/// One `--cache-to` with a place of its own.
pub(super) struct Target {
    pub(super) to: CacheTo,
    pub(super) place: Arc<dyn Place>,
    /// Whose trees go; `None` means everybody's.
    vertices: Option<HashSet<VertexId>>,
    sent: Mutex<HashSet<Digest>>,
    /// It failed once, and is not tried again before the build's end.
    failed: AtomicBool,
    permits: Semaphore,
}

/// See the module. Dropping it cancels whatever is on its way.
pub(super) struct Uploads {
    targets: Vec<Arc<Target>>,
    queue: Option<UnboundedSender<Done>>,
    over: Arc<AtomicBool>,
    work: JoinSet<()>,
}

/// A vertex that was executed, and one of its trees.
type Done = (Arc<Vertex>, SnapshotId);

impl Uploads {
    /// Opens the places of a build and waits for trees. Needs a tokio runtime.
    pub(super) fn start(
        to: &[CacheTo],
        offline: bool,
        store: &Store,
        definition: &Arc<Definition>,
    ) -> Result<Uploads, CliError> {
        let mut targets = Vec::new();
        for to in to {
            let Some(spec) = &to.place else { continue };
            let place = place(spec, offline)?;
            targets.push(Arc::new(Target {
                permits: Semaphore::new(place.parallel().unwrap_or(AT_ONCE)),
                place,
                vertices: (!to.all_steps).then(|| result_vertices(definition)),
                to: to.clone(),
                sent: Mutex::default(),
                failed: AtomicBool::new(false),
            }));
        }
        let mut uploads =
            Uploads { targets, queue: None, over: Arc::default(), work: JoinSet::new() };
        if !uploads.targets.is_empty() {
            let (sender, queue) = unbounded_channel();
            uploads.queue = Some(sender);
            let uploading = Uploading {
                store: store.clone(),
                definition: Arc::clone(definition),
                targets: uploads.targets.clone(),
                over: Arc::clone(&uploads.over),
            };
            uploads.work.spawn(uploading.run(queue));
        }
        Ok(uploads)
    }

    /// The worker for the solver: the same one, whose results are heard of here.
    pub(super) fn watching(&self, worker: &Arc<LocalWorker>) -> Arc<dyn Worker> {
        match &self.queue {
            Some(queue) => Arc::new(Watched { worker: Arc::clone(worker), queue: queue.clone() }),
            None => Arc::clone(worker) as Arc<dyn Worker>,
        }
    }

    /// Takes nothing up any more, and waits for what is on its way.
    pub(super) async fn finish(mut self) -> Vec<Arc<Target>> {
        self.over.store(true, Ordering::Release);
        self.queue = None;
        while self.work.join_next().await.is_some() {}
        std::mem::take(&mut self.targets)
    }
}

impl Target {
    /// The blobs that are there.
    pub(super) fn sent(&self) -> HashSet<Digest> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wants(&self, vertex: Option<VertexId>) -> bool {
        let wanted = match (&self.vertices, vertex) {
            (None, _) => true,
            (Some(wanted), Some(vertex)) => wanted.contains(&vertex),
            (Some(_), None) => false,
        };
        wanted && !self.failed.load(Ordering::Relaxed)
    }

    async fn send(&self, blob: &Descriptor, store: &Store) {
        // The semaphore is never closed.
        let Ok(_permit) = self.permits.acquire().await else { return };
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        let sent: Result<bool, BundleError> = self.place.send(blob, store.blobs()).await;
        match (sent, blob.digest().to_string().parse()) {
            (Ok(_), Ok(digest)) => {
                self.sent.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
            }
            (Ok(_), Err(_)) => {}
            (Err(error), _) => {
                tracing::debug!(place = %self.place, %error, "no layers are sent during the build");
                self.failed.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// The side that works.
struct Uploading {
    store: Store,
    definition: Arc<Definition>,
    targets: Vec<Arc<Target>>,
    over: Arc<AtomicBool>,
}

impl Uploading {
    async fn run(self, mut queue: UnboundedReceiver<Done>) {
        let Some(packer) = BackgroundPacker::start() else { return };
        let mut seen = HashSet::new();
        let mut sending = JoinSet::new();
        while let Some((vertex, tree)) = queue.recv().await {
            let vertex =
                self.definition.ids().find(|id| Arc::ptr_eq(self.definition.vertex(*id), &vertex));
            // A tree that is gone already is nothing to send.
            let mut open = self.store.snapshots().get(&tree).ok().flatten();
            let mut stack = Vec::new();
            while let Some(snapshot) = open {
                open = snapshot.parent().cloned();
                stack.push(snapshot);
            }
            for snapshot in stack.into_iter().rev() {
                let wanting = self.targets.iter().enumerate().filter(|(number, target)| {
                    target.wants(vertex) && seen.insert((*number, *snapshot.id()))
                });
                let wanting: Vec<_> = wanting.map(|(_, target)| Arc::clone(target)).collect();
                self.send(&packer, &snapshot, wanting, &mut sending).await;
            }
            while sending.try_join_next().is_some() {}
        }
        while sending.join_next().await.is_some() {}
    }

    /// Packs a layer in every form that is wanted of it, and starts sending it.
    async fn send(
        &self,
        packer: &BackgroundPacker,
        snapshot: &Snapshot,
        mut wanting: Vec<Arc<Target>>,
        sending: &mut JoinSet<()>,
    ) {
        while let Some(form) = wanting.first().map(|target| target.to.form) {
            // What is not packed yet is packed faster when no step runs any more.
            if self.over.load(Ordering::Acquire) {
                return;
            }
            let hashed = snapshot.clone();
            // Computed just now by the worker, for whom this waits; not with the packer's patience.
            let Ok(Ok(_)) = spawn_blocking(move || hashed.layer()).await else { return };
            let Ok(Some(blob)) = packer.pack(&self.store, snapshot, form).await else { return };
            let (same, others): (Vec<_>, Vec<_>) =
                wanting.into_iter().partition(|target| target.to.form == form);
            for target in same {
                let (blob, store) = (blob.clone(), self.store.clone());
                sending.spawn(async move { target.send(&blob, &store).await });
            }
            wanting = others;
        }
    }
}

/// A worker whose results are heard of.
struct Watched {
    worker: Arc<LocalWorker>,
    queue: UnboundedSender<Done>,
}

impl Worker for Watched {
    fn exec(
        &self,
        vertex: Arc<Vertex>,
        inputs: Vec<InputValue>,
        log: LogSink,
    ) -> BoxFuture<'_, Result<Vec<Output>, OpError>> {
        Box::pin(async move {
            let outputs = self.worker.exec(Arc::clone(&vertex), inputs, log).await?;
            for tree in outputs.iter().filter_map(|output| output.snapshot) {
                // Nobody listens any more where there are no threads.
                let _ = self.queue.send((Arc::clone(&vertex), tree));
            }
            Ok(outputs)
        })
    }

    fn content(&self, request: ContentRequest) -> BoxFuture<'_, Result<Content, OpError>> {
        self.worker.content(request)
    }

    fn rootfs_content(&self, output: Output) -> BoxFuture<'_, Result<Fingerprint, OpError>> {
        self.worker.rootfs_content(output)
    }

    fn exists(&self, output: &Output) -> Result<bool, OpError> {
        self.worker.exists(output)
    }

    fn expects(&self, vertex: &Vertex) -> Demand {
        self.worker.expects(vertex)
    }

    fn claim(&self, key: CacheKey) -> BoxFuture<'_, Option<Claim>> {
        self.worker.claim(key)
    }
}
