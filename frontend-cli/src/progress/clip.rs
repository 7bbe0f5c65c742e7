//! How much of a step's output is shown.

use std::collections::HashMap;

use executor::StepLog;

use super::{StepId, Update};

/// Counts what the steps have shown. The build's history keeps more.
pub(super) struct Clip {
    /// Of a step that has shown nothing yet.
    fresh: StepLog,
    shown: HashMap<StepId, StepLog>,
}

impl Clip {
    pub(super) fn from_env() -> Clip {
        Clip { fresh: StepLog::shown(), shown: HashMap::new() }
    }

    /// The update as it is shown; `None` if nothing of it is.
    pub(super) fn apply(&mut self, update: Update) -> Option<Update> {
        let (step, stream, data, at) = match update {
            Update::Log { step, stream, data, at } => (step, stream, data, at),
            other => return Some(other),
        };
        let data = self.shown.entry(step).or_insert(self.fresh).clip(data)?;
        Some(Update::Log { step, stream, data, at })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::Stream;
    use super::*;

    #[test]
    fn a_step_is_clipped_once_and_another_one_is_not() {
        let mut clip = Clip { fresh: StepLog::with_limit(Some(12)), shown: HashMap::new() };
        let mut show = |step, text: &str| {
            let data = text.as_bytes().to_vec();
            let at = SystemTime::UNIX_EPOCH;
            let update = Update::Log { step: StepId(step), stream: Stream::Stdout, data, at };
            match clip.apply(update) {
                Some(Update::Log { data, .. }) => String::from_utf8(data).unwrap(),
                _ => String::new(),
            }
        };
        assert_eq!(show(1, "one\ntwo\n"), "one\ntwo\n");
        assert_eq!(show(1, "three\n"), "thre\n[output clipped, log limit 12B reached]\n");
        assert_eq!(show(1, "four\n"), "");
        assert_eq!(show(2, "four\n"), "four\n");
    }
}
