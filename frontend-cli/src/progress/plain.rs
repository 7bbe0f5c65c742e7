//! Progress as lines of text, in the grammar that BuildKit's plain view has:
//!
//! ```text
//! #5 [2/2] RUN make
//! #5 0.213 cc -c main.c
//! #5 DONE 1.2s
//!
//! #6 …
//! ```
//!
//! Steps that run at the same time take turns: the shown one keeps the screen until it ends or has
//! had it for five seconds while another one waits; then `#5 ...` marks the switch. Text of waiting
//! steps is kept, not lost.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use super::{Outcome, State, Step, StepId, Update, View, sanitize};

/// How long a step keeps the screen while another waits: BuildKit's value.
const TURN: Duration = Duration::from_secs(5);

pub(super) struct Plain {
    current: Option<(StepId, Instant)>,
    /// Steps that have something to say and do not have the screen, in order of arrival.
    waiting: VecDeque<StepId>,
    pending: HashMap<StepId, Pending>,
}

/// What of a step is not on the screen yet.
#[derive(Default)]
struct Pending {
    announced: bool,
    lines: Vec<String>,
    partial: Vec<u8>,
    ended: bool,
}

impl Plain {
    pub(super) fn new() -> Self {
        Plain { current: None, waiting: VecDeque::new(), pending: HashMap::new() }
    }

    fn queue(
        &mut self,
        state: &State,
        id: StepId,
        lines: Vec<String>,
        ended: bool,
        out: &mut dyn Write,
    ) {
        let pending = self.pending.entry(id).or_default();
        pending.lines.extend(lines);
        pending.ended |= ended;
        let has_screen = self.current.is_some_and(|(current, _)| current == id);
        if !has_screen && !self.waiting.contains(&id) {
            self.waiting.push_back(id);
        }
        self.advance(state, out);
    }

    /// Shows what may be shown now.
    fn advance(&mut self, state: &State, out: &mut dyn Write) {
        loop {
            match self.current {
                Some((id, since)) => {
                    let ended = self.show(state, id, out);
                    if ended {
                        self.current = None;
                        self.pending.remove(&id);
                        let _ = writeln!(out);
                    } else if since.elapsed() > TURN && !self.waiting.is_empty() {
                        if let Some(step) = state.step(id) {
                            let _ = writeln!(out, "#{} ...\n", step.number);
                        }
                        if let Some(pending) = self.pending.get_mut(&id) {
                            pending.announced = false;
                        }
                        self.current = None;
                    } else {
                        return;
                    }
                }
                None => match self.waiting.pop_front() {
                    Some(id) => self.current = Some((id, Instant::now())),
                    None => return,
                },
            }
        }
    }

    fn show(&mut self, state: &State, id: StepId, out: &mut dyn Write) -> bool {
        let (Some(step), Some(pending)) = (state.step(id), self.pending.get_mut(&id)) else {
            return true;
        };
        if !pending.announced {
            pending.announced = true;
            let _ = writeln!(out, "#{} {}", step.number, sanitize(&step.name, false));
        }
        for line in pending.lines.drain(..) {
            let _ = writeln!(out, "#{} {line}", step.number);
        }
        pending.ended
    }
}

impl View for Plain {
    fn update(&mut self, state: &State, update: &Update, out: &mut dyn Write) {
        match update {
            Update::Declare { .. } => {}
            Update::Start { step, .. } => self.queue(state, *step, Vec::new(), false, out),
            Update::Log { step, data, at, .. } => {
                let since = state.step(*step).map(|step| step.elapsed(*at)).unwrap_or_default();
                let partial = &mut self.pending.entry(*step).or_default().partial;
                let lines = complete_lines(partial, data, since);
                self.queue(state, *step, lines, false, out);
            }
            Update::Transfer { step, id, current, total, .. } => {
                // Only the end of a transfer is worth a line.
                if total.is_some_and(|total| total == *current) {
                    let line = format!("{} {} done", sanitize(id, false), bytes(*current));
                    self.queue(state, *step, vec![line], false, out);
                }
            }
            Update::Finish { step: id, at, outcome } => {
                let Some(step) = state.step(*id) else { return };
                let mut lines = Vec::new();
                let pending = self.pending.entry(*id).or_default();
                if !pending.partial.is_empty() {
                    let rest = std::mem::take(&mut pending.partial);
                    lines.push(log_line(&rest, step.elapsed(*at)));
                }
                lines.push(match outcome {
                    Outcome::Done => format!("DONE {:.1}s", step.elapsed(*at).as_secs_f64()),
                    Outcome::Cached => "CACHED".to_owned(),
                    Outcome::Failed(error) => format!("ERROR: {}", sanitize(error, false)),
                });
                self.queue(state, *id, lines, true, out);
            }
            Update::Warn { step, text } => match step.and_then(|id| state.step(id)) {
                Some(step) => {
                    let _ = writeln!(out, "#{} WARN: {}", step.number, sanitize(text, false));
                }
                None => {
                    let _ = writeln!(out, "WARN: {}", sanitize(text, false));
                }
            },
        }
    }

    fn tick(&mut self, state: &State, out: &mut dyn Write) {
        self.advance(state, out);
    }

    fn finish(&mut self, state: &State, out: &mut dyn Write) {
        // Nothing more will come: everything that still waits is shown as it is.
        while let Some((id, _)) =
            self.current.take().or_else(|| self.waiting.pop_front().map(|id| (id, Instant::now())))
        {
            self.show(state, id, out);
            let _ = writeln!(out);
        }
        failure_tails(state, out);
    }
}

/// The last lines of the steps that failed, as BuildKit closes its output.
pub(super) fn failure_tails(state: &State, out: &mut dyn Write) {
    const LINES: usize = 10;
    for step in state.ordered().filter(|step| matches!(step.outcome, Some(Outcome::Failed(_)))) {
        let _ = writeln!(out, "------\n > {}:", sanitize(&step.name, false));
        for (since, line) in step.tail.iter().skip(step.tail.len().saturating_sub(LINES)) {
            let _ = writeln!(out, "{:.3} {}", since.as_secs_f64(), sanitize(line, false));
        }
        let _ = writeln!(out, "------");
    }
}

fn complete_lines(partial: &mut Vec<u8>, data: &[u8], since: Duration) -> Vec<String> {
    const LINE_BYTES: usize = 16 << 10;
    let mut lines = Vec::new();
    for piece in data.split_inclusive(|b| *b == b'\n') {
        partial.extend_from_slice(piece);
        if piece.ends_with(b"\n") || partial.len() > LINE_BYTES {
            lines.push(log_line(partial, since));
            partial.clear();
        }
    }
    lines
}

fn log_line(bytes: &[u8], since: Duration) -> String {
    let text = String::from_utf8_lossy(bytes);
    // A progress bar redraws its line with carriage returns; its last state is what counts.
    let text = text.trim_end_matches(['\n', '\r']);
    let text = text.rsplit('\r').next().unwrap_or(text);
    format!("{:.3} {}", since.as_secs_f64(), sanitize(text, false))
}

/// A size as docker prints it: `1.24MB`, powers of ten.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count}B") } else { format!("{value:.2}{}", UNITS[unit]) }
}

/// Seconds since a step began, for a live view.
pub(super) fn seconds(step: &Step, now: SystemTime) -> String {
    format!("{:.1}s", step.elapsed(now).as_secs_f64())
}
