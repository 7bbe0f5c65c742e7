//! Limits of the build cache as users write them: `10GB`, `512m`, `20%`.

use cache::Store;
use cache::gc::{PruneOptions, disk_size};

use super::build::options::size;
use super::du::gc_error;
use crate::args::SpaceArgs;
use crate::report::CliError;

/// The three limits of pruning; one that is not there is not set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CacheLimits {
    pub(crate) reserved: Option<Space>,
    pub(crate) max_used: Option<Space>,
    pub(crate) min_free: Option<Space>,
}

/// How much; zero is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Bytes(u64),
    /// Of the file system that the store lies on.
    Percent(u64),
}

impl CacheLimits {
    /// What was typed.
    pub(crate) fn of(args: &SpaceArgs) -> Result<CacheLimits, CliError> {
        let space = |text: &Option<String>| text.as_deref().map(Space::parse).transpose();
        Ok(CacheLimits {
            reserved: space(&args.reserved_space)?,
            max_used: space(&args.max_used_space)?,
            min_free: space(&args.min_free_space)?,
        })
    }

    /// What is not set here as `other` has it.
    pub(crate) fn or(self, other: CacheLimits) -> CacheLimits {
        CacheLimits {
            reserved: self.reserved.or(other.reserved),
            max_used: self.max_used.or(other.max_used),
            min_free: self.min_free.or(other.min_free),
        }
    }

    /// Whether there is anything to hold to; a reserve alone limits nothing.
    pub(crate) fn is_cap(&self) -> bool {
        [self.max_used, self.min_free].into_iter().flatten().any(|space| space != Space::Bytes(0))
    }

    /// The options of a prune in `store` that holds to them.
    pub(crate) fn options(&self, store: &Store) -> Result<PruneOptions, CliError> {
        let disk = disk_size(store).map_err(gc_error)?;
        let bytes = |space: Option<Space>| match space {
            None => 0,
            Some(Space::Bytes(bytes)) => bytes,
            Some(Space::Percent(percent)) => disk / 100 * percent,
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
    pub(crate) fn parse(text: &str) -> Result<Space, CliError> {
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
        let set = |text: &str| Some(Space::parse(text).unwrap());
        assert!(!CacheLimits { reserved: set("1g"), ..CacheLimits::default() }.is_cap());
        let cap = CacheLimits { max_used: set("1%"), ..CacheLimits::default() };
        assert!(cap.is_cap());
        // Zero is no limit, of whatever was configured.
        assert!(!CacheLimits { max_used: set("0"), ..CacheLimits::default() }.or(cap).is_cap());
    }
}
