//! What happens during a solve, for whoever shows it.
//!
//! The channel has no bound: a slow terminal must not slow the build. An event is a few words and
//! the bytes of a log line, so that a reader which lags by a million of them costs tens of
//! megabytes, not the build.

use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::llb::VertexId;

/// Something that happened to a vertex.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Work on a vertex begins: it is executed, or a context is read.
    Started {
        /// Which.
        vertex: VertexId,
        /// When.
        at: SystemTime,
    },
    /// A vertex is done. One that was cached has no [`Event::Started`] before it.
    Completed {
        /// Which.
        vertex: VertexId,
        /// When.
        at: SystemTime,
        /// Nothing was executed for it.
        cached: bool,
        /// Why it failed.
        error: Option<String>,
    },
    /// A vertex wrote something.
    Log {
        /// Which.
        vertex: VertexId,
        /// Where to.
        stream: Stream,
        /// What, as it came.
        data: Vec<u8>,
    },
    /// A part of a vertex makes progress: a layer is fetched.
    Status {
        /// Which.
        vertex: VertexId,
        /// The part: `sha256:12ab… extracting`.
        id: String,
        /// How much is done, in bytes unless the part says otherwise.
        current: u64,
        /// Of how much, where that is known.
        total: Option<u64>,
        /// It is done.
        completed: bool,
    },
    /// Something is not as it should be, but the build goes on.
    Warning {
        /// Which vertex it is about, where it is about one.
        vertex: Option<VertexId>,
        /// What it is.
        message: String,
    },
}

/// Where a process wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

/// Where events come out; `None` when every sender is gone.
pub type EventReceiver = mpsc::UnboundedReceiver<Event>;

/// Where events go in. Sending to nobody is no error.
#[derive(Debug, Clone)]
pub struct EventSender(Option<mpsc::UnboundedSender<Event>>);

impl EventSender {
    /// A channel.
    pub fn channel() -> (EventSender, EventReceiver) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (EventSender(Some(sender)), receiver)
    }

    /// A sender to nobody.
    pub fn nobody() -> EventSender {
        EventSender(None)
    }

    /// Sends.
    pub fn send(&self, event: Event) {
        if let Some(sender) = &self.0 {
            // A receiver that went away no longer wants to know.
            let _ = sender.send(event);
        }
    }
}

/// The events of one vertex, for the worker that executes it.
#[derive(Debug, Clone)]
pub struct LogSink {
    vertex: VertexId,
    events: EventSender,
}

impl LogSink {
    /// The sink of `vertex` into `events`.
    pub fn new(vertex: VertexId, events: EventSender) -> LogSink {
        LogSink { vertex, events }
    }

    /// A sink that keeps nothing.
    pub fn nobody() -> LogSink {
        LogSink::new(VertexId(0), EventSender::nobody())
    }

    /// Passes on what a process wrote.
    pub fn write(&self, stream: Stream, data: impl Into<Vec<u8>>) {
        self.events.send(Event::Log { vertex: self.vertex, stream, data: data.into() });
    }

    /// Says how far a part of the vertex is.
    pub fn status(&self, id: impl Into<String>, current: u64, total: Option<u64>, completed: bool) {
        let id = id.into();
        self.events.send(Event::Status { vertex: self.vertex, id, current, total, completed });
    }

    /// Says that something is not as it should be.
    pub fn warn(&self, message: impl Into<String>) {
        self.events.send(Event::Warning { vertex: Some(self.vertex), message: message.into() });
    }
}
