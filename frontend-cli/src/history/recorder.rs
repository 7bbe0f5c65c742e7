//! Writing a build down while it runs.
//!
//! A build that prints nothing writes two small files; nothing waits for the disk. What fails here
//! fails nobody: the build goes on without a history.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use executor::Redactions;

use super::{Build, FILE, History, Limits, Status, Step, StepOutcome, log_file};
use crate::progress::{Outcome, State, StepId, Update};

/// Bytes kept of what one step prints. The executor passes on less unless it is asked for more.
const STEP_LOG_BYTES: u64 = 32 << 20;

/// A build that is being written down.
pub(crate) struct Recording {
    history: History,
    limits: Limits,
    dir: PathBuf,
    build: Build,
    /// Its lock says that the build runs.
    _running: File,
}

/// The logs of a build's steps, each in a file that is made with its first byte.
pub(crate) struct LogFiles {
    dir: PathBuf,
    logs: HashMap<StepId, Log>,
    failed: bool,
}

struct Log {
    file: BufWriter<File>,
    written: u64,
    cut: bool,
    within_line: bool,
}

/// What the logs came to, by the number of the step: bytes, and whether something is missing.
pub(crate) type LogSizes = HashMap<usize, (u64, bool)>;

impl Recording {
    /// Begins a build, of which `build` says what was asked for.
    pub(crate) fn begin(
        history: History,
        limits: Limits,
        mut build: Build,
    ) -> io::Result<(Recording, LogFiles)> {
        let mut random = [0; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        build.id = id(u128::from_ne_bytes(random));
        let now = jiff::Timestamp::now();
        build.started = now.to_string();
        build.status = Status::Running;
        build.version = env!("CARGO_PKG_VERSION").to_owned();
        let dir = history.dir.join(format!("{:016x}-{}", now.as_microsecond(), build.id));
        fs_err::create_dir_all(&dir)?;
        let running = write(&dir, &build)?;
        let logs = LogFiles { dir: dir.clone(), logs: HashMap::new(), failed: false };
        Ok((Recording { history, limits, dir, build, _running: running }, logs))
    }

    /// Writes down how the build ended: `error` is what the user read.
    pub(crate) fn finish(
        self,
        state: &State,
        sizes: &LogSizes,
        hidden: &Redactions,
        status: Status,
        error: Option<&str>,
    ) -> io::Result<()> {
        let Recording { history, limits, dir, mut build, _running } = self;
        build.ended = Some(jiff::Timestamp::now().to_string());
        build.status = status;
        let clean = |text: &str| super::without_password(&hidden.hide_text(text));
        build.error = error.map(clean);
        build.warnings = state.warnings.iter().map(|text| clean(text)).collect();
        build.steps = state.ordered().map(|step| step_of(step, sizes, &clean)).collect();
        write(&dir, &build)?;
        // A build that printed nothing adds next to nothing.
        history.trim(limits, !sizes.is_empty())
    }
}

fn step_of(step: &crate::progress::Step, sizes: &LogSizes, clean: &dyn Fn(&str) -> String) -> Step {
    let (log_bytes, log_cut) = sizes.get(&step.number).copied().unwrap_or_default();
    let (outcome, error) = match &step.outcome {
        None => (StepOutcome::Canceled, None),
        Some(Outcome::Done) => (StepOutcome::Done, None),
        Some(Outcome::Cached) => (StepOutcome::Cached, None),
        Some(Outcome::Failed(error)) => (StepOutcome::Failed, Some(clean(error))),
    };
    Step {
        number: step.number,
        name: clean(&step.name),
        digest: step.digest.clone(),
        lines: step.lines,
        started: step.started.and_then(rfc3339),
        ended: step.finished.and_then(rfc3339),
        outcome,
        error,
        log_bytes,
        log_cut,
    }
}

impl LogFiles {
    /// Keeps what a step printed.
    pub(crate) fn update(&mut self, state: &State, update: &Update) {
        let Update::Log { step: id, data, at, .. } = update else { return };
        let Some(step) = state.step(*id).filter(|_| !self.failed) else { return };
        let since = step.elapsed(*at);
        let result = match self.log(*id, step.number) {
            Ok(log) => log.write(data, since),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::warn!("the build's output is not kept: {error}");
            self.failed = true;
        }
    }

    /// Brings to the files what has piled up.
    pub(crate) fn flush(&mut self) {
        for log in self.logs.values_mut() {
            self.failed |= log.file.flush().is_err();
        }
    }

    /// What the logs came to.
    pub(crate) fn sizes(&self, state: &State) -> LogSizes {
        let number = |id: &StepId| state.step(*id).map_or(0, |step| step.number);
        self.logs.iter().map(|(id, log)| (number(id), (log.written, log.cut))).collect()
    }

    fn log(&mut self, id: StepId, number: usize) -> io::Result<&mut Log> {
        use std::collections::hash_map::Entry;
        match self.logs.entry(id) {
            Entry::Occupied(log) => Ok(log.into_mut()),
            Entry::Vacant(place) => {
                let file = fs_err::File::create(log_file(&self.dir, number))?.into_parts().0;
                let file = BufWriter::new(file);
                Ok(place.insert(Log { file, written: 0, cut: false, within_line: false }))
            }
        }
    }
}

impl Log {
    fn write(&mut self, data: &[u8], since: Duration) -> io::Result<()> {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            if self.cut {
                return Ok(());
            }
            if !self.within_line {
                let time = format!("{:.3} ", since.as_secs_f64());
                self.file.write_all(time.as_bytes())?;
                self.written += time.len() as u64;
            }
            self.file.write_all(piece)?;
            self.written += piece.len() as u64;
            self.within_line = !piece.ends_with(b"\n");
            if self.written >= STEP_LOG_BYTES {
                self.cut = true;
                let newline = if self.within_line { "\n" } else { "" };
                let note = format!("{newline}{:.3} [the rest is not kept]\n", since.as_secs_f64());
                self.file.write_all(note.as_bytes())?;
            }
        }
        Ok(())
    }
}

/// Writes the description beside its place and renames it there; the file is locked from the
/// moment it is there.
fn write(dir: &Path, build: &Build) -> io::Result<File> {
    let temporary = dir.join(".new");
    let file = fs_err::File::create(&temporary)?.into_parts().0;
    // Nobody else has it open yet, so this does not wait.
    if build.status == Status::Running {
        file.lock()?;
    }
    let text = serde_json::to_vec(build).map_err(io::Error::other)?;
    (&file).write_all(&text)?;
    fs_err::rename(&temporary, dir.join(FILE))?;
    Ok(file)
}

/// 25 letters and digits, as BuildKit's ids.
fn id(mut random: u128) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut id = String::with_capacity(25);
    for _ in 0..25 {
        id.push(char::from(ALPHABET[(random % 36) as usize]));
        random /= 36;
    }
    id
}

fn rfc3339(time: SystemTime) -> Option<String> {
    jiff::Timestamp::try_from(time).map(|time| time.to_string()).ok()
}
