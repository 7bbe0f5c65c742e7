//! What a build shows while it runs.
//!
//! Every part of a build sends [`Update`]s; one thread keeps the [`State`] that they add up to and
//! hands both to a view: [`plain`] lines, a live [`tty`], or [`rawjson`]. A view that is slow, such
//! as a terminal that was stopped, never holds up the build: the channel has no bound, and the
//! text kept per step has (`State::TAIL_LINES`).
//!
//! Text of steps is foreign: views pass it through [`sanitize`], so that it cannot drive the
//! terminal.

mod clip;
mod plain;
mod rawjson;
mod state;
mod tty;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

pub(crate) use rawjson::base64;
pub(crate) use state::{Outcome, State, Step};

use crate::args::ProgressMode;
use crate::history::{LogFiles, LogSizes};
use clip::Clip;

/// Names a step within one build's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StepId(u64);

/// Which of a process's streams a piece of text came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub(crate) enum Update {
    /// A step exists; `digest` names it to machines.
    Declare {
        step: StepId,
        name: String,
        digest: String,
        inputs: Vec<String>,
        /// Of the Dockerfile, from one.
        lines: Option<(u32, u32)>,
    },
    Start {
        step: StepId,
        at: SystemTime,
    },
    Log {
        step: StepId,
        stream: Stream,
        data: Vec<u8>,
        at: SystemTime,
    },
    /// Bytes moved so far under the name `id`.
    Transfer {
        step: StepId,
        id: String,
        current: u64,
        total: Option<u64>,
        at: SystemTime,
    },
    Finish {
        step: StepId,
        at: SystemTime,
        outcome: Outcome,
    },
    Warn {
        step: Option<StepId>,
        text: String,
    },
}

/// How [`Update`]s become text.
trait View: Send {
    fn update(&mut self, state: &State, update: &Update, out: &mut dyn Write);
    /// Called about ten times a second while nothing happens.
    fn tick(&mut self, state: &State, out: &mut dyn Write);
    fn finish(&mut self, state: &State, out: &mut dyn Write);
}

/// The sending end; cheap to clone.
#[derive(Clone)]
pub(crate) struct Progress {
    sender: Sender<Update>,
    next: Arc<AtomicU64>,
}

/// The thread that shows the progress; joined by [`ProgressView::finish`].
pub(crate) struct ProgressView {
    thread: Option<JoinHandle<Shown>>,
    /// Nothing more is coming: what is there is shown at once.
    ending: Arc<AtomicBool>,
}

/// What is left when everything was shown.
#[derive(Default)]
pub(crate) struct Shown {
    pub(crate) state: State,
    pub(crate) log_sizes: LogSizes,
}

/// Starts showing progress on stderr.
pub(crate) fn start(mode: ProgressMode) -> (Progress, ProgressView) {
    start_recording(mode, None)
}

/// As [`start`], keeping what the steps print.
pub(crate) fn start_recording(
    mode: ProgressMode,
    logs: Option<LogFiles>,
) -> (Progress, ProgressView) {
    let (sender, receiver) = channel();
    let stderr = std::io::stderr();
    let view: Option<Box<dyn View>> = match mode {
        ProgressMode::Quiet | ProgressMode::None => None,
        ProgressMode::Rawjson => Some(Box::new(rawjson::RawJson)),
        ProgressMode::Plain => Some(Box::new(plain::Plain::new())),
        ProgressMode::Tty => Some(Box::new(tty::Tty::new())),
        ProgressMode::Auto if stderr.is_terminal() && !is_dumb_terminal() => {
            Some(Box::new(tty::Tty::new()))
        }
        ProgressMode::Auto => Some(Box::new(plain::Plain::new())),
    };
    let ending = Arc::new(AtomicBool::new(false));
    let is_ending = ending.clone();
    let thread = std::thread::Builder::new()
        .name("progress".into())
        .spawn(move || show(&receiver, &is_ending, view, logs))
        .ok();
    let progress = Progress { sender, next: Arc::new(AtomicU64::new(0)) };
    (progress, ProgressView { thread, ending })
}

fn is_dumb_terminal() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb")
}

fn show(
    receiver: &Receiver<Update>,
    is_ending: &AtomicBool,
    mut view: Option<Box<dyn View>>,
    mut logs: Option<LogFiles>,
) -> Shown {
    const TICK: Duration = Duration::from_millis(100);
    /// Shorter than anybody sees. A build of cached steps sends some thirty updates within
    /// milliseconds, and to wake a thread for each takes longer than all else that is done for it.
    const FRAME: Duration = Duration::from_millis(10);
    let mut state = State::default();
    let mut clip = Clip::from_env();
    let mut out = Vec::with_capacity(4096);
    loop {
        let first = match receiver.recv_timeout(TICK) {
            Ok(update) => Some(update),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        match first {
            Some(update) => {
                // What has queued up meanwhile is shown at once, in one write.
                for update in std::iter::once(update).chain(receiver.try_iter().take(4096)) {
                    state.apply(&update);
                    if let Some(logs) = &mut logs {
                        logs.update(&state, &update);
                    }
                    if let Some(view) = &mut view
                        && let Some(update) = clip.apply(update)
                    {
                        view.update(&state, &update, &mut out);
                    }
                }
            }
            None => {
                if let Some(view) = &mut view {
                    view.tick(&state, &mut out);
                }
            }
        }
        if let Some(logs) = &mut logs {
            logs.flush();
        }
        flush(&mut out);
        if !is_ending.load(Ordering::Acquire) {
            // More will have queued up by then.
            std::thread::park_timeout(FRAME);
        }
    }
    if let Some(view) = &mut view {
        view.finish(&state, &mut out);
    }
    flush(&mut out);
    let log_sizes = logs.as_mut().map(|logs| {
        logs.flush();
        logs.sizes(&state)
    });
    Shown { state, log_sizes: log_sizes.unwrap_or_default() }
}

fn flush(out: &mut Vec<u8>) {
    if !out.is_empty() {
        // A closed stderr must not end the build.
        let _ = std::io::stderr().lock().write_all(out);
        out.clear();
    }
}

impl Progress {
    /// Announces a step.
    pub(crate) fn declare(
        &self,
        name: &str,
        digest: String,
        inputs: Vec<String>,
        lines: Option<(u32, u32)>,
    ) -> StepId {
        let step = StepId(self.next.fetch_add(1, Ordering::Relaxed));
        self.send(Update::Declare { step, name: name.to_owned(), digest, inputs, lines });
        step
    }

    /// Announces and starts a step of the engine's own, such as loading the Dockerfile.
    pub(crate) fn begin(&self, name: &str) -> StepId {
        let step = self.declare(name, format!("internal:{name}"), Vec::new(), None);
        self.send(Update::Start { step, at: SystemTime::now() });
        step
    }

    pub(crate) fn finish(&self, step: StepId, outcome: Outcome) {
        self.send(Update::Finish { step, at: SystemTime::now(), outcome });
    }

    pub(crate) fn log(&self, step: StepId, line: &str) {
        let data = format!("{line}\n").into_bytes();
        self.send(Update::Log { step, stream: Stream::Stdout, data, at: SystemTime::now() });
    }

    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.send(Update::Warn { step: None, text: text.into() });
    }

    pub(crate) fn send(&self, update: Update) {
        // The view lives as long as any sender, unless its thread could not be started.
        let _ = self.sender.send(update);
    }
}

impl ProgressView {
    /// Waits until everything sent is on the screen. All [`Progress`] clones must be gone.
    pub(crate) fn finish(mut self) -> Shown {
        self.ending.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return Shown::default() };
        thread.thread().unpark();
        thread.join().unwrap_or_default()
    }
}

/// The text of a step, made harmless: no control character but the tab survives, except the colour
/// sequences (`ESC [ … m`) where `colour` allows them.
pub(crate) fn sanitize(text: &str, colour: bool) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '\x1b' {
            let length = escape_length(rest);
            let sequence = &rest[..length];
            if colour && sequence.starts_with("\x1b[") && sequence.ends_with('m') {
                clean.push_str(sequence);
            }
            rest = &rest[length..];
            continue;
        }
        if c == '\t' || !c.is_control() {
            clean.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    clean
}

/// Length in bytes of the escape sequence that `text` starts with.
fn escape_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.get(1) {
        Some(b'[') => {
            let end = bytes[2..].iter().position(|b| (0x40..=0x7e).contains(b));
            end.map_or(bytes.len(), |end| floor_boundary(text, 2 + end + 1))
        }
        // An operating system command ends with BEL or ESC \.
        Some(b']') => {
            bytes[2..].iter().position(|b| *b == 7 || *b == 0x1b).map_or(bytes.len(), |end| {
                floor_boundary(text, 2 + end + usize::from(bytes[2 + end] == 7))
            })
        }
        Some(b) if b.is_ascii() => 2,
        _ => 1,
    }
}

fn floor_boundary(text: &str, mut index: usize) -> usize {
    while !text.is_char_boundary(index) {
        index += 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_colours_survive() {
        let text = "a\x1b[31mred\x1b[0m\x1b[2J\x1b]0;title\x07b\rc\x08\td\x1b";
        assert_eq!(sanitize(text, true), "a\x1b[31mred\x1b[0mbc\td");
        assert_eq!(sanitize(text, false), "aredbc\td");
    }

    #[test]
    fn an_unfinished_sequence_swallows_no_more_than_the_line() {
        assert_eq!(sanitize("x\x1b[12", true), "x");
        assert_eq!(sanitize("x\x1bé", true), "xé");
    }
}
