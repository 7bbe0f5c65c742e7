//! How work on another thread hears that nobody waits for it any more.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether to stop. Clones are the same; nothing stops by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    is_set: Arc<AtomicBool>,
}

impl Stop {
    /// A value that sets it when it is dropped: for the future that waits for the work.
    pub(crate) fn on_drop(&self) -> StopOnDrop {
        StopOnDrop(self.clone())
    }

    /// A writer that fails as soon as it is set.
    pub(crate) fn guard<W: Write>(&self, inner: W) -> Guarded<'_, W> {
        Guarded { stop: self, inner }
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }
}

/// See [`Stop::on_drop`].
#[derive(Debug)]
pub(crate) struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.is_set.store(true, Ordering::Relaxed);
    }
}

/// See [`Stop::guard`].
pub(crate) struct Guarded<'a, W> {
    stop: &'a Stop,
    inner: W,
}

impl<W: Write> Write for Guarded<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.is_set() {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_ends_with_the_next_write() {
        let stop = Stop::default();
        let mut bytes = Vec::new();
        let waiting = stop.on_drop();
        stop.guard(&mut bytes).write_all(b"one").unwrap();
        drop(waiting);
        assert!(stop.guard(&mut bytes).write_all(b"two").is_err());
        assert_eq!(bytes, b"one");
    }
}
