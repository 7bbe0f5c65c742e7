//! Layers are packed while a build is still running.
//!
//! One at a time, on a thread that lets everything else go first: a step that computes hardly
//! notices, and a build that waits for the network has its layers compressed when it ends.

use cache::Store;
use cache::oci::Descriptor;
use cache::snapshot::Snapshot;

use crate::ExportError;
use crate::bundle::pack_layer;
use crate::layers::LayerForm;
use crate::stop::Stop;

/// How much later than others the thread has its turn, as `nice` counts: a tenth of the processor
/// at the most where a step wants all of it.
const NICENESS: i32 = 10;

/// See the module. Dropping it does not wait.
#[derive(Debug)]
pub struct BackgroundPacker {
    pool: rayon::ThreadPool,
}

impl BackgroundPacker {
    /// Starts the thread; `None` where there can be no more threads.
    pub fn start() -> Option<BackgroundPacker> {
        // A pool, since compressing on a thread of one stays on that thread.
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .thread_name(|_| "pack-layers".to_owned())
            // On Linux this is the thread's own, and that of those it starts.
            .start_handler(|_| {
                let _ = rustix::process::nice(NICENESS);
            });
        pool.build().ok().map(|pool| BackgroundPacker { pool })
    }

    /// The blob of the topmost layer of a snapshot, which is in the store then; `None` if its tar
    /// cannot be had any more. When the future is dropped, the work ends soon and leaves nothing.
    pub async fn pack(
        &self,
        store: &Store,
        snapshot: &Snapshot,
        form: LayerForm,
    ) -> Result<Option<Descriptor>, ExportError> {
        let stop = Stop::default();
        let _waiting = stop.on_drop();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (store, snapshot) = (store.clone(), snapshot.clone());
        self.pool.spawn(move || {
            // Nobody listens any more if the future was dropped.
            let _ = sender.send(pack_layer(&store, &snapshot, form, &stop));
        });
        // The thread only ends without an answer if it panicked, and has said so.
        receiver.await.unwrap_or(Ok(None))
    }
}
