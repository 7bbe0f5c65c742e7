//! How much of a step's output is passed on, and the line that says where it was cut.
//!
//! `BUILDKIT_STEP_LOG_MAX_SIZE` is read here and nowhere else. Two places count with it: what a
//! process writes is bounded on its way to the records of the build, and a view that shows it live
//! shows less of it.

/// Shown unless the variable says otherwise, as in BuildKit.
const SHOWN: u64 = 2 << 20;
/// Kept unless the variable asks for more: what a person would ever read, and what the memory can
/// hold if nobody takes it.
const KEPT: u64 = 16 << 20;

/// Counts the bytes of one step's output.
#[derive(Debug, Clone, Copy)]
pub struct StepLog {
    /// `None` for any number.
    limit: Option<u64>,
    passed: u64,
}

impl StepLog {
    /// For a view: what the user asks for, else 2 MiB.
    pub fn shown() -> Self {
        Self::with_limit(wish(SHOWN))
    }

    /// For what is kept: 16 MiB, or more if the user asks for it.
    pub(crate) fn kept() -> Self {
        Self::with_limit(wish(KEPT).map(|limit| limit.max(KEPT)))
    }

    /// `None` for any number of bytes.
    pub fn with_limit(limit: Option<u64>) -> Self {
        Self { limit, passed: 0 }
    }

    /// What is passed on of `data`; `None` after the line that says that no more comes.
    pub fn clip(&mut self, mut data: Vec<u8>) -> Option<Vec<u8>> {
        let Some(limit) = self.limit else { return Some(data) };
        let left = limit.checked_sub(self.passed)?;
        self.passed += data.len() as u64;
        if self.passed > limit {
            data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            if data.last().is_some_and(|&byte| byte != b'\n') {
                data.push(b'\n');
            }
            let limit = size(limit);
            data.extend(format!("[output clipped, log limit {limit} reached]\n").bytes());
        }
        Some(data)
    }
}

/// Bytes; a negative number is no limit.
fn wish(usual: u64) -> Option<u64> {
    let text = std::env::var("BUILDKIT_STEP_LOG_MAX_SIZE").unwrap_or_default();
    match text.trim().parse::<i64>() {
        Ok(wish) => u64::try_from(wish).ok(),
        Err(_) => Some(usual),
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

    #[test]
    fn a_log_is_clipped_once() {
        let mut log = StepLog::with_limit(Some(12));
        let mut clip = |text: &str| {
            log.clip(text.as_bytes().to_vec()).map(|data| String::from_utf8(data).unwrap())
        };
        assert_eq!(clip("one\ntwo\n").as_deref(), Some("one\ntwo\n"));
        let cut = "thre\n[output clipped, log limit 12B reached]\n";
        assert_eq!(clip("three\n").as_deref(), Some(cut));
        assert_eq!(clip("four\n"), None);
        assert_eq!(StepLog::with_limit(None).clip(vec![b'x'; 99]), Some(vec![b'x'; 99]));
    }
}
