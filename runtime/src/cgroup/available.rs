//! How much memory is left: of the machine, and of the control groups that we are in.

use std::path::Path;

use super::counter;
use super::hierarchy::Hierarchies;
use super::settings::Version;

/// Bytes that processes started now can have together before somebody is killed for it; `None` where
/// nobody says.
pub fn available_memory() -> Option<u64> {
    let machine = fs_err::read_to_string("/proc/meminfo").ok();
    let machine = machine.as_deref().and_then(of_machine);
    let groups = Hierarchies::read().map(|all| all.memory_groups()).unwrap_or_default();
    let groups = groups.iter().filter_map(|(version, path)| of_group(*version, path));
    machine.into_iter().chain(groups).min()
}

fn of_machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What a group may have, less what it has and cannot give back.
fn of_group(version: Version, path: &Path) -> Option<u64> {
    let (limit, usage, inactive) = match version {
        Version::One => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        Version::Two => ("memory.max", "memory.current", "inactive_file"),
    };
    let read = |file: &str| fs_err::read_to_string(path.join(file)).ok();
    // `max` is no limit, and no number.
    let limit: u64 = read(limit)?.trim().parse().ok()?;
    let usage: u64 = read(usage)?.trim().parse().ok()?;
    let inactive = read("memory.stat").and_then(|text| counter(&text, inactive)).unwrap_or(0);
    Some(limit.saturating_sub(usage.saturating_sub(inactive)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_what_its_kernel_says() {
        assert_eq!(of_machine("MemTotal: 8 kB\nMemAvailable:    3 kB\n"), Some(3072));
        assert!(available_memory().unwrap() > 0);
    }

    #[test]
    fn caches_of_files_can_be_given_back() {
        let group = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs_err::write(group.path().join(file), text).unwrap();
        write("memory.max", "1000\n");
        write("memory.current", "600\n");
        write("memory.stat", "anon 1\ninactive_file 250\n");
        assert_eq!(of_group(Version::Two, group.path()), Some(650));
        write("memory.max", "max\n");
        assert_eq!(of_group(Version::Two, group.path()), None);
    }
}
