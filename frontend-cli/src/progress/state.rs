//! What all updates of a build add up to.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use super::{StepId, Update};

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Cached,
    Failed(String),
}

/// One step with the end of what it printed.
#[derive(Debug)]
pub(crate) struct Step {
    /// The number shown, from 1 in order of first activity; 0 while the step only exists.
    pub(crate) number: usize,
    pub(crate) name: String,
    pub(crate) digest: String,
    pub(crate) inputs: Vec<String>,
    /// Of the Dockerfile, from one.
    pub(crate) lines: Option<(u32, u32)>,
    pub(crate) started: Option<SystemTime>,
    pub(crate) finished: Option<SystemTime>,
    pub(crate) outcome: Option<Outcome>,
    /// The last whole lines, each with the seconds since the step began.
    pub(crate) tail: VecDeque<(Duration, String)>,
    partial: Vec<u8>,
    /// Bytes moved, by what is moved.
    pub(crate) transfers: Vec<Transfer>,
}

#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) id: String,
    pub(crate) current: u64,
    pub(crate) total: Option<u64>,
}

/// The whole build.
#[derive(Debug, Default)]
pub(crate) struct State {
    steps: HashMap<StepId, Step>,
    /// Active and ended steps in the order of their numbers.
    pub(crate) order: Vec<StepId>,
    pub(crate) warnings: Vec<String>,
}

impl State {
    /// Enough for the view of a failure and the largest log window; the rest is on disk.
    const TAIL_LINES: usize = 50;
    /// A longer line is cut in pieces of this many bytes.
    const LINE_BYTES: usize = 16 << 10;

    pub(super) fn apply(&mut self, update: &Update) {
        match update {
            Update::Declare { step, name, digest, inputs, lines } => {
                self.steps.insert(*step, Step { lines: *lines, ..Step::new(name, digest, inputs) });
            }
            Update::Start { step, at } => {
                self.activate(*step);
                if let Some(step) = self.steps.get_mut(step) {
                    step.started.get_or_insert(*at);
                }
            }
            Update::Log { step, data, at, .. } => {
                if let Some(step) = self.steps.get_mut(step) {
                    step.append(data, *at);
                }
            }
            Update::Transfer { step, id, current, total, .. } => {
                if let Some(step) = self.steps.get_mut(step) {
                    step.transfer(id, *current, *total);
                }
            }
            Update::Finish { step, at, outcome } => {
                self.activate(*step);
                if let Some(step) = self.steps.get_mut(step) {
                    step.started.get_or_insert(*at);
                    step.finished = Some(*at);
                    step.outcome = Some(outcome.clone());
                }
            }
            Update::Warn { text, .. } => self.warnings.push(text.clone()),
        }
    }

    fn activate(&mut self, id: StepId) {
        let number = self.order.len() + 1;
        if let Some(step) = self.steps.get_mut(&id)
            && step.number == 0
        {
            step.number = number;
            self.order.push(id);
        }
    }

    pub(crate) fn step(&self, id: StepId) -> Option<&Step> {
        self.steps.get(&id)
    }

    /// Active and ended steps in the order of their numbers.
    pub(crate) fn ordered(&self) -> impl DoubleEndedIterator<Item = &Step> {
        self.order.iter().filter_map(|id| self.steps.get(id))
    }

    pub(crate) fn total(&self) -> usize {
        self.steps.len()
    }

    pub(crate) fn completed(&self) -> usize {
        self.ordered().filter(|step| step.outcome.is_some()).count()
    }
}

impl Step {
    fn new(name: &str, digest: &str, inputs: &[String]) -> Self {
        Step {
            number: 0,
            name: name.to_owned(),
            digest: digest.to_owned(),
            inputs: inputs.to_vec(),
            lines: None,
            started: None,
            finished: None,
            outcome: None,
            tail: VecDeque::new(),
            partial: Vec::new(),
            transfers: Vec::new(),
        }
    }

    /// How long the step has taken, until `now` if it still runs.
    pub(crate) fn elapsed(&self, now: SystemTime) -> Duration {
        let Some(started) = self.started else { return Duration::ZERO };
        self.finished.unwrap_or(now).duration_since(started).unwrap_or_default()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.started.is_some() && self.outcome.is_none()
    }

    fn append(&mut self, data: &[u8], at: SystemTime) {
        let since = at.duration_since(self.started.unwrap_or(at)).unwrap_or_default();
        for piece in data.split_inclusive(|b| *b == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.partial.len() > State::LINE_BYTES {
                let line = String::from_utf8_lossy(&self.partial)
                    .trim_end_matches(['\n', '\r'])
                    .to_owned();
                self.partial.clear();
                if self.tail.len() == State::TAIL_LINES {
                    self.tail.pop_front();
                }
                self.tail.push_back((since, line));
            }
        }
    }

    fn transfer(&mut self, id: &str, current: u64, total: Option<u64>) {
        match self.transfers.iter_mut().find(|transfer| transfer.id == id) {
            Some(transfer) => {
                transfer.current = current;
                transfer.total = total.or(transfer.total);
            }
            None => self.transfers.push(Transfer { id: id.to_owned(), current, total }),
        }
    }
}
