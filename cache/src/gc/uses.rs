//! How often things were used: a log in the store that every process appends to, once, at its end.
//!
//! ```text
//! uses-v1      <name> <count>      a line for each use, or for the sum of many
//! ```
//!
//! The time of a file, which says when something was last used, cannot. A number beside every tree
//! (an extended attribute: 8 µs for each) or a row in the index (a transaction) would be work of a
//! build that finds everything; one append of some hundred bytes is not seen in it. Nothing depends
//! on the numbers: a process that is killed does not count, and one that appends while the log is
//! summed up may not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

use crate::state::{is_there, write_atomically};

/// A log of this many bytes is summed up: that is some ten thousand builds.
const FULL: u64 = 4 << 20;

/// What was not summed up, for whatever reason, is not read beyond this.
const MAX_LOG: u64 = 64 << 20;

/// The log of a store.
#[derive(Debug)]
pub(crate) struct Uses {
    log: PathBuf,
    /// What is counted must be in one of these.
    places: [PathBuf; 2],
}

impl Uses {
    pub(crate) fn of(root: &Path) -> Uses {
        let places = [root.join("snapshots-v1"), root.join("cache-mounts")];
        Uses { log: root.join("uses-v1"), places }
    }

    /// Counts one use of each. What fails here is no reason for anything to fail.
    pub(crate) fn add(&self, names: impl Iterator<Item = String>) {
        let mut lines = String::new();
        for name in names.filter(|name| !name.contains([' ', '\n'])) {
            let _ = writeln!(lines, "{name} 1");
        }
        if lines.is_empty() {
            return;
        }
        let appended = fs_err::File::options().append(true).create(true).open(&self.log).and_then(
            |mut log| {
                // In one piece, so that others' lines stay whole.
                log.write_all(lines.as_bytes())?;
                Ok(log.metadata()?.len())
            },
        );
        match appended {
            Ok(size) if size > FULL => self.sum_up(),
            Ok(_) => {}
            Err(error) => tracing::debug!("uses are not counted: {error}"),
        }
    }

    /// How often each was used.
    pub(super) fn read(&self) -> BTreeMap<String, u64> {
        let mut text = Vec::new();
        let read =
            fs_err::File::open(&self.log).and_then(|log| log.take(MAX_LOG).read_to_end(&mut text));
        let mut counts = BTreeMap::new();
        if read.is_err() {
            return counts;
        }
        for line in text.split(|byte| *byte == b'\n') {
            let line = std::str::from_utf8(line).ok();
            let Some((name, count)) = line.and_then(|line| line.split_once(' ')) else { continue };
            let Ok(count) = count.parse::<u64>() else { continue };
            let sum: &mut u64 = counts.entry(name.to_owned()).or_default();
            *sum = sum.saturating_add(count);
        }
        counts
    }

    /// Leaves a line for each thing that is still there.
    fn sum_up(&self) {
        let mut lines = String::new();
        for (name, count) in self.read() {
            let is_gone =
                self.places.iter().all(|place| matches!(is_there(&place.join(&name)), Ok(false)));
            if !is_gone {
                let _ = writeln!(lines, "{name} {count}");
            }
        }
        if let Err(error) = write_atomically(&self.log, lines.as_bytes()) {
            tracing::debug!("the log of uses is not summed up: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted_and_summed_up() {
        let root = tempfile::tempdir().unwrap();
        let uses = Uses::of(root.path());
        assert!(uses.read().is_empty());
        uses.add(["a", "b"].map(str::to_owned).into_iter());
        uses.add(["a", "of two words"].map(str::to_owned).into_iter());
        let counts = |uses: &Uses| uses.read().into_iter().collect::<Vec<_>>();
        assert_eq!(counts(&uses), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        // A line that was cut, or is none, is passed over.
        let log = fs_err::File::options().append(true).open(&uses.log).unwrap();
        (&log.into_parts().0).write_all(b"\xff 1\nb x\nb\n").unwrap();
        fs_err::create_dir_all(root.path().join("snapshots-v1/a")).unwrap();
        uses.sum_up();
        assert_eq!(fs_err::read_to_string(&uses.log).unwrap(), "a 2\n");
        uses.add(std::iter::once("a".to_owned()));
        assert_eq!(counts(&uses), [("a".to_owned(), 3)]);
    }

    #[test]
    fn a_full_log_is_summed_up_by_who_fills_it() {
        let root = tempfile::tempdir().unwrap();
        let uses = Uses::of(root.path());
        fs_err::create_dir_all(root.path().join("cache-mounts/a")).unwrap();
        let lines = usize::try_from(FULL / 4).unwrap() + 1;
        fs_err::write(&uses.log, "a 1\n".repeat(lines)).unwrap();
        uses.add(std::iter::once("a".to_owned()));
        let text = fs_err::read_to_string(&uses.log).unwrap();
        assert_eq!(text, format!("a {}\n", lines + 1));
    }
}
