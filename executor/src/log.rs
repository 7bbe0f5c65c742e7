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

/// Bytes of a step's output that are passed on, unless `BUILDKIT_STEP_LOG_MAX_SIZE` asks for more:
/// what a person would ever read, and what the memory can hold if nobody takes it.
const DEFAULT_LIMIT: u64 = 16 << 20;
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
    /// Bytes that may still be shown; `None` for any number.
    left: Option<u64>,
    limit: u64,
    clipped: bool,
    tail: VecDeque<String>,
}

impl ProcessLog {
    pub(crate) fn new(sink: LogSink, hidden: Redactions) -> Self {
        let wish = std::env::var("BUILDKIT_STEP_LOG_MAX_SIZE").ok();
        let limit = match wish.and_then(|text| text.trim().parse::<i64>().ok()) {
            None => Some(DEFAULT_LIMIT),
            // A negative limit is none.
            Some(wish) => u64::try_from(wish).ok().map(|wish| wish.max(DEFAULT_LIMIT)),
        };
        Self::with_limit(sink, hidden, limit)
    }

    fn with_limit(sink: LogSink, hidden: Redactions, limit: Option<u64>) -> Self {
        let state = State {
            left: limit,
            limit: limit.unwrap_or_default(),
            clipped: false,
            tail: VecDeque::new(),
        };
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
        let mut data = match self.hidden.hide(&data) {
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
        if state.clipped {
            return;
        }
        if let Some(left) = state.left {
            let shown = left.min(data.len() as u64);
            state.left = Some(left - shown);
            if shown < data.len() as u64 {
                state.clipped = true;
                data.truncate(shown as usize);
                if data.last().is_some_and(|&b| b != b'\n') {
                    data.push(b'\n');
                }
                let limit = size(state.limit);
                data.extend(format!("[output clipped, log limit {limit} reached]\n").bytes());
            }
        }
        drop(state);
        self.sink.write(stream, data);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// `2MiB`, `300KiB`, `17B`.
fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{}MiB", b >> 20),
        b if b >= 1 << 10 && b % (1 << 10) == 0 => format!("{}KiB", b >> 10),
        b => format!("{b}B"),
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
        let log = ProcessLog::with_limit(LogSink::new(vertex, events), hidden, Some(12));
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
