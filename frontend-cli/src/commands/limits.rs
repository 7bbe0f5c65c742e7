//! What the limits on a command line mean, with docker's own bounds.

use executor::Limits;

use super::build::options::size;
use crate::args::LimitArgs;
use crate::report::CliError;

/// Less than this no shell starts in.
const LEAST_MEMORY: u64 = 6 << 20;

/// The period of `--cpus`, in microseconds.
const PERIOD: u64 = 100_000;

/// The limits, without one of processes.
pub(super) fn limits(args: &LimitArgs) -> Result<Limits, CliError> {
    let memory = args.memory.as_deref().map(size).transpose()?.filter(|memory| *memory > 0);
    if memory.is_some_and(|memory| memory < LEAST_MEMORY) {
        return Err(CliError::input("--memory must be at least 6m"));
    }
    let mut limits = Limits {
        memory,
        memory_swap: memory_swap(args, memory)?,
        cpu_shares: args.cpu_shares.filter(|shares| *shares > 0),
        cpu_quota: args.cpu_quota.filter(|quota| *quota > 0),
        cpu_period: args.cpu_period.filter(|period| *period > 0),
        cpuset: args.cpuset_cpus.clone().filter(|list| !list.is_empty()),
        cpuset_mems: args.cpuset_mems.clone().filter(|list| !list.is_empty()),
        pids: None,
    };
    if let Some(text) = &args.cpus {
        limits.cpu_quota = Some(quota(text)?);
        limits.cpu_period = Some(PERIOD);
    }
    if limits.cpu_period.is_some_and(|period| !(1000..=1_000_000).contains(&period)) {
        return Err(CliError::input("--cpu-period must be between 1000 and 1000000 (1 s)"));
    }
    if limits.cpu_quota.is_some_and(|quota| quota < 1000) {
        return Err(CliError::input("--cpu-quota must be at least 1000 (1 ms)"));
    }
    Ok(limits)
}

fn memory_swap(args: &LimitArgs, memory: Option<u64>) -> Result<Option<i64>, CliError> {
    let (Some(text), Some(memory)) = (&args.memory_swap, memory) else { return Ok(None) };
    if text == "-1" {
        return Ok(Some(-1));
    }
    match size(text)? {
        0 => Ok(None),
        swap if swap < memory => Err(CliError::input(
            "--memory-swap must not be smaller than --memory: it is memory and swap together",
        )),
        swap => Ok(Some(i64::try_from(swap).unwrap_or(i64::MAX))),
    }
}

/// Microseconds in each period of so many processors.
fn quota(text: &str) -> Result<i64, CliError> {
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let invalid = || {
        CliError::input(format!("invalid --cpus `{text}`"))
            .hint(format!("write a number from 0.01 to {most}, the processors that there are"))
    };
    let cpus: f64 = text.parse().map_err(|_| invalid())?;
    if !(0.01..=most as f64).contains(&cpus) {
        return Err(invalid());
    }
    Ok((cpus * PERIOD as f64).round() as i64)
}

/// A limit of memory as people write it: `256 MiB`.
pub(super) fn human_limit(bytes: u64) -> String {
    let unit = [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| bytes >= 1 << shift && bytes.trailing_zeros() >= *shift);
    match unit {
        Some((unit, shift)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        limits: LimitArgs,
    }

    fn parse(words: &[&str]) -> Result<Limits, String> {
        let line = Line::try_parse_from(std::iter::once(&"x").chain(words));
        let line = line.map_err(|error| error.to_string())?;
        limits(&line.limits).map_err(|error| error.message())
    }

    #[test]
    fn limits_are_dockers() {
        let limits = parse(&["-m", "512m", "--memory-swap", "1g", "-c", "512"]).unwrap();
        assert_eq!(limits.memory, Some(512 << 20));
        assert_eq!((limits.memory_swap, limits.cpu_shares), (Some(1 << 30), Some(512)));
        let limits =
            parse(&["--cpus", "0.5", "--cpuset-cpus", "0,1", "--cpuset-mems", "0"]).unwrap();
        assert_eq!((limits.cpu_quota, limits.cpu_period), (Some(50_000), Some(100_000)));
        assert_eq!(limits.cpuset.as_deref(), Some("0,1"));
        assert_eq!(limits.cpuset_mems.as_deref(), Some("0"));
        assert_eq!(parse(&["-m", "64m", "--memory-swap", "-1"]).unwrap().memory_swap, Some(-1));
        assert_eq!(parse(&["-m", "0"]).unwrap(), Limits::default());
        for (words, part) in [
            (&["-m", "1m"][..], "at least 6m"),
            (&["-m", "64m", "--memory-swap", "32m"], "smaller than --memory"),
            (&["--memory-swap", "32m"], "--memory"),
            (&["--cpus", "many"], "invalid --cpus `many`"),
            (&["--cpus", "100000"], "invalid --cpus"),
            (&["--cpus", "1", "--cpu-quota", "5000"], "cannot be used with"),
            (&["--cpu-period", "5"], "--cpu-period must be"),
        ] {
            let message = parse(words).unwrap_err();
            assert!(message.contains(part), "{words:?}: {message}");
        }
    }

    #[test]
    fn limits_are_told_in_round_numbers() {
        for (bytes, text) in
            [(256 << 20, "256 MiB"), (2 << 30, "2 GiB"), (1536 << 20, "1536 MiB"), (7, "7 bytes")]
        {
            assert_eq!(human_limit(bytes), text);
        }
    }
}
