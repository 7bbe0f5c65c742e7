//! What runs beside the scheduler. Tasks know no state; each ends with one message.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cache::hash::Fingerprint;
use cache::index::{CacheKey, Output, Record};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::admission::Admission;
use crate::error::OpError;
use crate::event::{Event, EventSender, LogSink, Stream};
use crate::llb::{Vertex, VertexId};
use crate::records::Records;
use crate::slow::{self, ProbeInput, Probed};
use crate::worker::{Claim, Content, ContentRequest, InputValue, Worker};

/// Waiting for less than this is nothing to speak of.
const MOMENT: Duration = Duration::from_millis(200);

/// What a task has to say to the scheduler.
pub(super) enum Message {
    /// A content that keys need is known.
    Content { content: usize, result: Result<Content, OpError> },
    /// The slow key was looked for.
    Probed { vertex: usize, probed: Result<Option<Box<Probed>>, OpError> },
    /// A vertex was executed.
    Executed { vertex: usize, result: Result<Vec<Output>, OpError>, claim: Option<Claim> },
    /// Somebody else had executed it when its turn came.
    Found { vertex: usize, record: Record },
}

/// What every task of a solve uses.
pub(super) struct Shared {
    pub(super) worker: Arc<dyn Worker>,
    pub(super) records: Arc<dyn Records>,
    pub(super) admission: Arc<Admission>,
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
        Message::Probed { vertex, probed: probed.map(|probed| probed.map(Box::new)) }
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
        // The claim comes before the admission: who is admitted never waits for a claim, so claims
        // across builds cannot wait for each other in a ring.
        let mut started = false;
        let claim = match shared {
            Some(key) => {
                let mut claiming = self.worker.claim(key);
                match (&mut claiming).now_or_never() {
                    Some(claim) => claim,
                    // Boxed: the timer would make every task larger than what allocators have at hand.
                    None => Box::pin(self.wait_for_claim(id, claiming, &mut started)).await,
                }
            }
            None => None,
        };
        if let (Some(key), Some(_)) = (shared, &claim)
            && let Ok(Some(record)) = self.records.lookup_outputs(&key)
        {
            match slow::is_there(self.worker.as_ref(), &record.outputs) {
                Ok(true) => return Message::Found { vertex: id.0, record },
                Ok(false) => {}
                Err(error) => {
                    return Message::Executed { vertex: id.0, result: Err(error), claim };
                }
            }
        }
        let _admitted = self.admission.enter(self.worker.expects(&vertex)).await;
        if !started {
            self.events.send(Event::Started { vertex: id, at: SystemTime::now() });
        }
        let log = LogSink::new(id, self.events.clone());
        let result = self.worker.exec(vertex, inputs, log).await;
        Message::Executed { vertex: id.0, result, claim }
    }

    /// Waits for the claim on a key. Who waits for longer than a moment is told why.
    async fn wait_for_claim(
        &self,
        id: VertexId,
        mut claiming: BoxFuture<'_, Option<Claim>>,
        started: &mut bool,
    ) -> Option<Claim> {
        if let Ok(claim) = tokio::time::timeout(MOMENT, &mut claiming).await {
            return claim;
        }
        *started = true;
        self.events.send(Event::Started { vertex: id, at: SystemTime::now() });
        let words = "waiting for another build that runs this step\n";
        LogSink::new(id, self.events.clone()).write(Stream::Stderr, words);
        claiming.await
    }
}
