//! Settings that outlast a command line: variables and configuration files.
//!
//! | key | variable | what a command line says instead |
//! |---|---|---|
//! | `root` | `STRAKE_ROOT` | `--root` |
//! | `max-parallelism` | `STRAKE_MAX_PARALLELISM` | `build --max-parallelism` |
//! | `[gc] reservedSpace` | `STRAKE_RESERVED_SPACE` | `build --reserved-space` |
//! | `[gc] maxUsedSpace` | `STRAKE_MAX_USED_SPACE` | `build --max-used-space` |
//! | `[gc] minFreeSpace` | `STRAKE_MIN_FREE_SPACE` | `build --min-free-space` |
//! | `[history] maxEntries` | `STRAKE_HISTORY_BUILDS` | |
//! | `[history] maxSize` | `STRAKE_HISTORY_MAX_SIZE` | |
//! | `[cdi] specDirs` | `STRAKE_CDI_SPEC_DIR` | `build --cdi-spec-dir` |
//!
//! The names are those of BuildKit's `buildkitd.toml`, where it has them. A command line goes before
//! a variable, a variable before the user's file, and that, key by key, before the system's. A file
//! that is named (`--config`, `STRAKE_CONFIG`) stands in the place of both.
//!
//! A key that is not known is an error, since a cap with a slip of the pen would be none.

mod file;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::commands::build::options::size;
use crate::commands::space::{CacheLimits, Space};
use crate::report::CliError;

/// The file of the machine.
const SYSTEM_FILE: &str = "/etc/strake/strake.toml";

/// The file of a user, below the directory of configurations.
const USER_FILE: &str = "strake/strake.toml";

/// What is set; what is not has its default where it is used.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) root: Option<PathBuf>,
    pub(crate) max_parallelism: Option<NonZeroUsize>,
    /// What the build cache is held to after a build.
    pub(crate) cache: CacheLimits,
    /// How many builds the history keeps.
    pub(crate) history_builds: Option<usize>,
    /// How many bytes the history has.
    pub(crate) history_bytes: Option<u64>,
    pub(crate) cdi_spec_dirs: Option<Vec<PathBuf>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Root,
    MaxParallelism,
    ReservedSpace,
    MaxUsedSpace,
    MinFreeSpace,
    HistoryBuilds,
    HistoryBytes,
    CdiSpecDirs,
}

/// A setting's name in a file, and in the environment where clap does not read it there.
struct Known {
    key: Key,
    table: &'static str,
    name: &'static str,
    variable: Option<&'static str>,
}

const KNOWN: [Known; 8] = [
    known(Key::Root, "", "root", None),
    known(Key::MaxParallelism, "", "max-parallelism", Some("STRAKE_MAX_PARALLELISM")),
    known(Key::ReservedSpace, "gc", "reservedSpace", Some("STRAKE_RESERVED_SPACE")),
    known(Key::MaxUsedSpace, "gc", "maxUsedSpace", Some("STRAKE_MAX_USED_SPACE")),
    known(Key::MinFreeSpace, "gc", "minFreeSpace", Some("STRAKE_MIN_FREE_SPACE")),
    known(Key::HistoryBuilds, "history", "maxEntries", Some("STRAKE_HISTORY_BUILDS")),
    known(Key::HistoryBytes, "history", "maxSize", Some("STRAKE_HISTORY_MAX_SIZE")),
    known(Key::CdiSpecDirs, "cdi", "specDirs", None),
];

const fn known(
    key: Key,
    table: &'static str,
    name: &'static str,
    variable: Option<&'static str>,
) -> Known {
    Known { key, table, name, variable }
}

impl Config {
    /// What variables and files say; `only` is the only file if it is given.
    ///
    /// Ask before the process enters a user namespace: inside, everybody is uid 0.
    pub(crate) fn load(only: Option<&Path>) -> Result<Config, CliError> {
        let mut config = Config::from_variables(|name| std::env::var(name).ok())?;
        if let Some(path) = only {
            return match file::read(path)? {
                Some(named) => Ok(config.or(named)),
                None => Err(CliError::input(format!("there is no file {}", path.display()))
                    .hint("it is named by --config or STRAKE_CONFIG")),
            };
        }
        if let Some(user) = user_file() {
            config = config.or(file::read(&user)?.unwrap_or_default());
        }
        let mut system = file::read(Path::new(SYSTEM_FILE))?.unwrap_or_default();
        // A store belongs to one user.
        if !rustix::process::getuid().is_root() {
            system.root = None;
        }
        Ok(config.or(system))
    }

    fn from_variables(value: impl Fn(&str) -> Option<String>) -> Result<Config, CliError> {
        let mut config = Config::default();
        for Known { key, variable, .. } in &KNOWN {
            let Some(name) = variable else { continue };
            // As is usual, one that is empty is not set.
            let Some(value) = value(name).filter(|value| !value.is_empty()) else { continue };
            let set = config.set(*key, &[&value]);
            set.map_err(|error| error.hint(format!("it is the value of {name}")))?;
        }
        Ok(config)
    }

    /// What is not set here as `other` has it.
    fn or(self, other: Config) -> Config {
        Config {
            root: self.root.or(other.root),
            max_parallelism: self.max_parallelism.or(other.max_parallelism),
            cache: self.cache.or(other.cache),
            history_builds: self.history_builds.or(other.history_builds),
            history_bytes: self.history_bytes.or(other.history_bytes),
            cdi_spec_dirs: self.cdi_spec_dirs.or(other.cdi_spec_dirs),
        }
    }

    /// Sets one; `values` is a list only where the setting is one.
    fn set(&mut self, key: Key, values: &[&str]) -> Result<(), CliError> {
        if key == Key::CdiSpecDirs {
            let directories = values.iter().map(|value| absolute(value));
            self.cdi_spec_dirs = Some(directories.collect::<Result<_, _>>()?);
            return Ok(());
        }
        let [value] = values else { return Err(CliError::input("this is one value, not a list")) };
        let space = || Space::parse(value).map(Some);
        match key {
            Key::Root => self.root = Some(absolute(value)?),
            Key::MaxParallelism => self.max_parallelism = Some(number(value, "at least 1")?),
            Key::ReservedSpace => self.cache.reserved = space()?,
            Key::MaxUsedSpace => self.cache.max_used = space()?,
            Key::MinFreeSpace => self.cache.min_free = space()?,
            Key::HistoryBuilds => self.history_builds = Some(number(value, "0 keeps none")?),
            Key::HistoryBytes => self.history_bytes = Some(size(value)?),
            Key::CdiSpecDirs => {}
        }
        Ok(())
    }
}

/// `$XDG_CONFIG_HOME/strake/strake.toml`, else `~/.config/strake/strake.toml`.
fn user_file() -> Option<PathBuf> {
    let directory = |name| {
        std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute())
    };
    let configurations =
        directory("XDG_CONFIG_HOME").or_else(|| Some(directory("HOME")?.join(".config")))?;
    Some(configurations.join(USER_FILE))
}

fn absolute(text: &str) -> Result<PathBuf, CliError> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(CliError::input(format!("`{text}` is not an absolute path"))
        .hint("a path from the root on does not depend on where strake is started"))
}

fn number<T: std::str::FromStr>(text: &str, bounds: &str) -> Result<T, CliError> {
    text.trim()
        .parse()
        .map_err(|_| CliError::input(format!("invalid number `{text}`")).hint(bounds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_goes_before_the_users_file_and_that_before_the_systems() {
        let place = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &str| {
            let path = place.path().join(name);
            fs_err::write(&path, text).unwrap();
            file::read(&path).unwrap().unwrap()
        };
        let user = read("user.toml", "[gc]\nmaxUsedSpace = \"2k\"\nreservedSpace = 7\n");
        let system = "max-parallelism = 3\n[gc]\nmaxUsedSpace = \"3k\"\nminFreeSpace = \"5%\"\n";
        let system = read("system.toml", system);
        let variables =
            Config::from_variables(|name| (name == "STRAKE_RESERVED_SPACE").then(|| "1k".into()));
        let config = variables.unwrap().or(user).or(system);
        assert_eq!(config.cache.reserved, Some(Space::Bytes(1024)));
        assert_eq!(config.cache.max_used, Some(Space::Bytes(2048)));
        assert_eq!(config.cache.min_free, Some(Space::Percent(5)));
        assert_eq!(config.max_parallelism, NonZeroUsize::new(3));
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let read = |value: &str| {
            let value = value.to_owned();
            Config::from_variables(move |name| {
                (name == "STRAKE_MAX_PARALLELISM").then(|| value.clone())
            })
        };
        let text = read("0").unwrap_err().text();
        assert!(text.contains("invalid number `0`"), "{text}");
        assert!(text.contains("at least 1") && text.contains("STRAKE_MAX_PARALLELISM"), "{text}");
        assert_eq!(read("").unwrap(), Config::default());
    }
}
