//! What a process writes, on its way to the log of its vertex.
//!
//! Lines are passed on whole and without the values of secrets, a step's output is bounded, and the
//! last lines are kept for the message of a failure. Views show less than what is passed on; that is
//! their affair.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use solver::{LogSink, Stream};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::redact::Redactions;
use crate::step_log::StepLog;

/// A line longer than this is passed on in pieces.
const MAX_LINE: usize = 64 << 10;
/// Lines kept for the message of a failure.
const TAIL_LINES: usize = 20;
/// Bytes kept of each of them.
const TAIL_WIDTH: usize = 1024;

/// The log of one process. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct ProcessLog {
    sink: LogSink,
    hidden: Redactions,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    step: StepLog,
    tail: VecDeque<String>,
}

impl ProcessLog {
    pub(crate) fn new(sink: LogSink, hidden: Redactions) -> Self {
        Self::with_limit(sink, hidden, StepLog::kept())
    }

    fn with_limit(sink: LogSink, hidden: Redactions, step: StepLog) -> Self {
        let state = State { step, tail: VecDeque::new() };
        Self { sink, hidden, state: Arc::new(Mutex::new(state)) }
    }

    /// The last lines, oldest first.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.state().tail.iter().cloned().collect()
    }

    /// Passes on what comes out of `pipe` until its other side is closed.
    pub(crate) async fn follow(&self, pipe: OwnedFd, stream: Stream) -> std::io::Result<()> {
        let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let mut pending = Vec::with_capacity(8 << 10);
        loop {
            pending.reserve(8 << 10);
            if pipe.read_buf(&mut pending).await? == 0 {
                break;
            }
            let whole = match pending.iter().rposition(|&b| b == b'\n') {
                Some(end) => end + 1,
                None if pending.len() >= MAX_LINE + self.hidden.overlap() => {
                    pending = self.hidden.hide(&pending).into_owned();
                    pending.len().saturating_sub(self.hidden.overlap())
                }
                None => continue,
            };
            let rest = pending.split_off(whole);
            self.write(stream, std::mem::replace(&mut pending, rest));
        }
        if !pending.is_empty() {
            self.write(stream, pending);
        }
        Ok(())
    }

    fn write(&self, stream: Stream, data: Vec<u8>) {
        let data = match self.hidden.hide(&data) {
            Cow::Owned(hidden) => hidden,
            Cow::Borrowed(_) => data,
        };
        let mut state = self.state();
        for line in data.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            if state.tail.len() == TAIL_LINES {
                state.tail.pop_front();
            }
            let line = &line[..line.len().min(TAIL_WIDTH)];
            state.tail.push_back(String::from_utf8_lossy(line).trim_end().to_owned());
        }
        let data = state.step.clip(data);
        drop(state);
        if let Some(data) = data {
            self.sink.write(stream, data);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solver::llb::{Definition, Op, SourceOp, Vertex, VertexMeta};
    use solver::{Event, EventSender};

    #[tokio::test]
    async fn a_log_comes_in_lines_is_clipped_once_and_keeps_its_end() {
        let op = Op::Source(SourceOp::Scratch);
        let vertex = Vertex { op, inputs: Vec::new(), meta: VertexMeta::named("x") };
        let vertex = Definition::new().add(vertex).unwrap();
        let (events, mut received) = EventSender::channel();
        let hidden = Redactions::new([b"hree".to_vec()]);
        let log = ProcessLog::with_limit(
            LogSink::new(vertex, events),
            hidden,
            StepLog::with_limit(Some(12)),
        );
        let (reader, writer) = std::io::pipe().unwrap();
        let copy = log.clone();
        let following =
            tokio::spawn(async move { copy.follow(reader.into(), Stream::Stdout).await });
        std::io::Write::write_all(&mut &writer, b"one\ntwo\nthree\nfour\nend").unwrap();
        drop(writer);
        following.await.unwrap().unwrap();
        assert_eq!(log.tail(), ["one", "two", "t***", "four", "end"]);
        drop(log);
        let mut shown = Vec::new();
        while let Some(Event::Log { data, .. }) = received.recv().await {
            shown.extend(data);
        }
        assert_eq!(
            String::from_utf8_lossy(&shown),
            "one\ntwo\nt***\n[output clipped, log limit 12B reached]\n"
        );
    }
}
