//! CacheLimits of the build cache as users write them: `10GB`, `512m`, `20%`.

use cache::Store;
use cache::gc::{PruneOptions, disk_size};

use super::build::options::size;
use super::du::gc_error;
use crate::report::CliError;

/// The three limits of pruning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CacheLimits {
    reserved: Space,
    max_used: Space,
    min_free: Space,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Space {
    Bytes(u64),
    /// Of the file system that the store lies on.
    Percent(u64),
}

impl Default for Space {
    /// No limit.
    fn default() -> Self {
        Space::Bytes(0)
    }
}

impl CacheLimits {
    /// What was written; what was not is no limit.
    pub(crate) fn parse(
        reserved: Option<&str>,
        max_used: Option<&str>,
        min_free: Option<&str>,
    ) -> Result<CacheLimits, CliError> {
        let space = |text: Option<&str>| text.map_or(Ok(Space::default()), Space::parse);
        Ok(CacheLimits {
            reserved: space(reserved)?,
            max_used: space(max_used)?,
            min_free: space(min_free)?,
        })
    }

    /// Whether there is anything to hold to; a reserve alone limits nothing.
    pub(crate) fn is_cap(&self) -> bool {
        self.max_used != Space::default() || self.min_free != Space::default()
    }

    /// The options of a prune in `store` that holds to them.
    pub(crate) fn options(&self, store: &Store) -> Result<PruneOptions, CliError> {
        let disk = disk_size(store).map_err(gc_error)?;
        let bytes = |space: Space| match space {
            Space::Bytes(bytes) => bytes,
            Space::Percent(percent) => disk / 100 * percent,
        };
        Ok(PruneOptions {
            reserved_space: bytes(self.reserved),
            max_used_space: bytes(self.max_used),
            min_free_space: bytes(self.min_free),
            ..PruneOptions::default()
        })
    }
}

impl Space {
    fn parse(text: &str) -> Result<Space, CliError> {
        match text.trim().strip_suffix('%') {
            None => Ok(Space::Bytes(size(text.trim())?)),
            Some(number) => match number.trim().parse() {
                Ok(percent @ 1..=100) => Ok(Space::Percent(percent)),
                _ => Err(CliError::input(format!("invalid size `{text}`"))
                    .hint("a percentage of the disk is between 1% and 100%")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_size_or_a_part_of_the_disk() {
        assert_eq!(Space::parse("10%").unwrap(), Space::Percent(10));
        assert_eq!(Space::parse("2k").unwrap(), Space::Bytes(2048));
        for text in ["0%", "101%", "x%", "-1", "%"] {
            assert!(Space::parse(text).is_err(), "{text}");
        }
        assert!(!CacheLimits::parse(Some("1g"), None, None).unwrap().is_cap());
        assert!(CacheLimits::parse(None, Some("1%"), None).unwrap().is_cap());
    }
}
