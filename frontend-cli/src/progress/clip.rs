//! How much of a step's output is shown.

use std::collections::HashMap;

use super::{StepId, Update};

/// Bytes of a step's output that are shown unless `BUILDKIT_STEP_LOG_MAX_SIZE` says otherwise, as
/// in BuildKit. The build's history keeps more.
const DEFAULT_LIMIT: u64 = 2 << 20;

/// Counts what the steps have shown.
pub(super) struct Clip {
    /// `None` for any number.
    limit: Option<u64>,
    shown: HashMap<StepId, u64>,
}

impl Clip {
    pub(super) fn from_env() -> Clip {
        let wish = std::env::var("BUILDKIT_STEP_LOG_MAX_SIZE").ok();
        let limit = match wish.and_then(|text| text.trim().parse::<i64>().ok()) {
            None => Some(DEFAULT_LIMIT),
            // A negative limit is none.
            Some(wish) => u64::try_from(wish).ok(),
        };
        Clip { limit, shown: HashMap::new() }
    }

    /// The update as it is shown; `None` if nothing of it is.
    pub(super) fn apply(&mut self, update: Update) -> Option<Update> {
        let Some(limit) = self.limit else { return Some(update) };
        let (step, stream, mut data, at) = match update {
            Update::Log { step, stream, data, at } => (step, stream, data, at),
            other => return Some(other),
        };
        let shown = self.shown.entry(step).or_default();
        if *shown > limit {
            return None;
        }
        let left = limit - *shown;
        *shown += data.len() as u64;
        if *shown > limit {
            data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            if data.last().is_some_and(|&byte| byte != b'\n') {
                data.push(b'\n');
            }
            let limit = size(limit);
            data.extend(format!("[output clipped, log limit {limit} reached]\n").bytes());
        }
        Some(Update::Log { step, stream, data, at })
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
    use std::time::SystemTime;

    use super::super::Stream;
    use super::*;

    #[test]
    fn a_step_is_clipped_once_and_another_one_is_not() {
        let mut clip = Clip { limit: Some(12), shown: HashMap::new() };
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
