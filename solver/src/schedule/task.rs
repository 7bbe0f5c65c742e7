//! What runs beside the scheduler. Tasks know no state; each ends with one message.

use std::sync::Arc;
use std::time::SystemTime;

use cache::hash::Fingerprint;
use cache::index::{CacheKey, Output, Record};
use tokio::sync::Semaphore;

use crate::error::OpError;
use crate::event::{Event, EventSender, LogSink};
use crate::llb::{Vertex, VertexId};
use crate::records::Records;
use crate::slow::{self, ProbeInput, Probed};
use crate::worker::{Claim, Content, ContentRequest, InputValue, Worker};

/// What a task has to say to the scheduler.
pub(super) enum Message {
    /// A content that keys need is known.
    Content { content: usize, result: Result<Content, OpError> },
    /// The slow key was looked for.
    Probed { vertex: usize, probed: Option<Box<Probed>> },
    /// A vertex was executed.
    Executed { vertex: usize, result: Result<Vec<Output>, OpError>, claim: Option<Claim> },
    /// Somebody else had executed it when its turn came.
    Found { vertex: usize, record: Record },
}

/// What every task of a solve uses.
pub(super) struct Shared {
    pub(super) worker: Arc<dyn Worker>,
    pub(super) records: Arc<dyn Records>,
    pub(super) permits: Option<Arc<Semaphore>>,
    pub(super) events: EventSender,
}

impl Shared {
    pub(super) async fn content(
        self: Arc<Self>,
        content: usize,
        request: ContentRequest,
    ) -> Message {
        let result = self.worker.content(request).await;
        Message::Content { content, result }
    }

    pub(super) async fn probe(
        self: Arc<Self>,
        vertex: usize,
        op: Fingerprint,
        inputs: Vec<ProbeInput>,
    ) -> Message {
        let worker = self.worker.as_ref();
        let probed = slow::probe(worker, self.records.as_ref(), op, &inputs).await;
        Message::Probed { vertex, probed: probed.map(Box::new) }
    }

    /// Executes a vertex when it may. `shared` is the key under which another build may be at the
    /// same work.
    pub(super) async fn execute(
        self: Arc<Self>,
        id: VertexId,
        vertex: Arc<Vertex>,
        inputs: Vec<InputValue>,
        shared: Option<CacheKey>,
    ) -> Message {
        // The claim comes before the permit: who has a permit never waits for a claim, so claims
        // across builds cannot wait for each other in a ring.
        let claim = match shared {
            Some(key) => self.worker.claim(key).await,
            None => None,
        };
        if let (Some(key), Some(_)) = (shared, &claim)
            && let Ok(Some(record)) = self.records.lookup(&key)
            && slow::is_there(self.worker.as_ref(), &record.outputs)
        {
            return Message::Found { vertex: id.0, record };
        }
        let _permit = match &self.permits {
            // The semaphore is never closed.
            Some(permits) => permits.acquire().await.ok(),
            None => None,
        };
        self.events.send(Event::Started { vertex: id, at: SystemTime::now() });
        let log = LogSink::new(id, self.events.clone());
        let result = self.worker.exec(vertex, inputs, log).await;
        Message::Executed { vertex: id.0, result, claim }
    }
}
