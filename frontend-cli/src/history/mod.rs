//! The last builds: what was asked for, what became of it, and what every step printed.
//!
//! ```text
//! <store>/history-v1/<when>-<id>/
//! ├── build.json     what is known; locked by the build as long as it runs
//! └── <step>.log     a line of output a line: seconds since the step began, a blank, the text
//! ```
//!
//! The name begins with the time, so that the newest are found and the oldest dropped without
//! opening anything. There are never more than [`Limits`] says. Nothing of it is needed for
//! building: a history that cannot be written is a warning at most.
//!
//! Values of secrets are in none of these files (they are taken out where a step's output is read),
//! nor are passwords of addresses, nor build arguments whose names say that they are secret.

mod recorder;
mod redact;

use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};

use cache::Store;
use serde::{Deserialize, Serialize};

pub(crate) use recorder::{LogFiles, LogSizes, Recording};
pub(crate) use redact::{without_password, without_secret_value};

use crate::config::Config;
use crate::report::CliError;

const FILE: &str = "build.json";

/// A description is never longer: some ten thousand steps.
const MAX_FILE: u64 = 64 << 20;

/// What a build leaves in the history.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Build {
    pub(crate) id: String,
    /// Context, file and target in short.
    pub(crate) name: String,
    /// As it was typed.
    pub(crate) command: Vec<String>,
    pub(crate) context: String,
    pub(crate) dockerfile: String,
    pub(crate) target: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) platforms: Vec<String>,
    /// RFC 3339.
    pub(crate) started: String,
    /// RFC 3339; not there while the build runs, or if it was killed.
    pub(crate) ended: Option<String>,
    pub(crate) status: Status,
    /// As it was shown.
    pub(crate) error: Option<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) steps: Vec<Step>,
    pub(crate) version: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    #[default]
    Running,
    Completed,
    Error,
    /// The user interrupted it.
    Canceled,
    /// It never came to an end; found out when somebody looks.
    Killed,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Step {
    /// As the progress counts.
    pub(crate) number: usize,
    pub(crate) name: String,
    pub(crate) digest: String,
    /// The lines of the Dockerfile, from one.
    pub(crate) lines: Option<(u32, u32)>,
    pub(crate) started: Option<String>,
    pub(crate) ended: Option<String>,
    pub(crate) outcome: StepOutcome,
    pub(crate) error: Option<String>,
    /// Bytes of its log on the disk; no file if there are none.
    pub(crate) log_bytes: u64,
    /// Whether it printed more than was kept.
    pub(crate) log_cut: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StepOutcome {
    Done,
    Cached,
    Failed,
    /// The build ended before the step did.
    #[default]
    Canceled,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// None are kept if it is zero.
    pub(crate) builds: usize,
    /// Of all builds together, in bytes.
    pub(crate) bytes: u64,
}

impl Limits {
    /// As many builds as BuildKit keeps, and about the size of a base image.
    const DEFAULT: Limits = Limits { builds: 50, bytes: 256 << 20 };

    /// What is configured.
    pub(crate) fn of(configured: &Config) -> Limits {
        Limits {
            builds: configured.history_builds.unwrap_or(Limits::DEFAULT.builds),
            bytes: configured.history_bytes.unwrap_or(Limits::DEFAULT.bytes),
        }
    }
}

/// The history of a store.
#[derive(Debug, Clone)]
pub(crate) struct History {
    dir: PathBuf,
}

impl History {
    pub(crate) fn of(store: &Store) -> History {
        History { dir: store.history_dir() }
    }

    /// All builds, newest first.
    pub(crate) fn list(&self) -> io::Result<Vec<(Build, PathBuf)>> {
        let mut builds = Vec::new();
        for dir in self.directories()? {
            // Another process may have dropped it meanwhile.
            if let Some(build) = read(&dir)? {
                builds.push((build, dir));
            }
        }
        Ok(builds)
    }

    /// The build that a person means: the last one, `^2` for the second before the last, or an id
    /// or its beginning.
    pub(crate) fn find(&self, text: Option<&str>) -> Result<(Build, PathBuf), CliError> {
        let builds = self.list().map_err(|error| unreadable(&error))?;
        let text = text.unwrap_or("^0");
        if let Some(back) = text.strip_prefix('^') {
            let back: usize = if back.is_empty() { 1 } else { back.parse().unwrap_or(usize::MAX) };
            let count = builds.len();
            return builds.into_iter().nth(back).ok_or_else(|| match count {
                0 => CliError::input("nothing was built in this store yet")
                    .hint("build something: strake build ."),
                _ => CliError::input(format!("there is no build `{text}`: {count} are kept")),
            });
        }
        let mut found: Vec<_> =
            builds.into_iter().filter(|(build, _)| build.id.starts_with(text)).collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(CliError::input(format!("no such build: {text}"))
                .hint("`strake history ls` lists the builds that are kept")),
            _ => Err(CliError::input(format!("`{text}` is the beginning of several builds' ids"))),
        }
    }

    /// Removes a build; one that runs goes on, without a history.
    pub(crate) fn remove(dir: &Path) -> io::Result<()> {
        match fs_err::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Drops the oldest builds beyond the limits, of `bytes` only where they are worth asking for.
    fn trim(&self, limits: Limits, with_sizes: bool) -> io::Result<()> {
        let dirs = self.directories()?;
        for dir in dirs.iter().skip(limits.builds) {
            History::remove(dir)?;
        }
        if !with_sizes {
            return Ok(());
        }
        let mut bytes = 0;
        // The newest one stays whatever its size: its logs have a limit each.
        for (at, dir) in dirs.iter().take(limits.builds).enumerate() {
            bytes += size_of(dir)?;
            if at > 0 && bytes > limits.bytes {
                History::remove(dir)?;
            }
        }
        Ok(())
    }

    /// Newest first.
    fn directories(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs_err::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut dirs =
            entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
        dirs.sort_unstable_by(|a, b| b.cmp(a));
        Ok(dirs)
    }
}

/// Where the log of a step lies.
pub(crate) fn log_file(dir: &Path, step: usize) -> PathBuf {
    dir.join(format!("{step}.log"))
}

/// The history cannot be read.
pub(crate) fn unreadable(error: &io::Error) -> CliError {
    CliError::caused("the history of builds cannot be read", error)
}

/// `None` if there is nothing that can be understood.
fn read(dir: &Path) -> io::Result<Option<Build>> {
    let path = dir.join(FILE);
    let file = match fs_err::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    let (file, _) = file.into_parts();
    io::Read::read_to_end(&mut io::Read::take(&file, MAX_FILE), &mut text)?;
    let Ok(mut build) = serde_json::from_slice::<Build>(&text) else { return Ok(None) };
    if build.status == Status::Running
        && !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    {
        build.status = Status::Killed;
    }
    Ok(Some(build))
}

fn size_of(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let entries = match fs_err::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    for entry in entries {
        bytes += entry?.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
