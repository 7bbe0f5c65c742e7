//! Which file of which controller a limit is written to, in both versions of control groups.

use oci_spec::runtime::LinuxResources;

use crate::RuntimeError;

/// The two kinds of control groups; a machine may have both, each with other controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// What limits one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Cpu,
    Cpuset,
    Pids,
}

/// A value for a file of a group.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) controller: Controller,
    pub(super) file: &'static str,
    /// `None`: as in the group above.
    pub(super) value: Option<String>,
    /// Nobody asked for it in so many words: where it cannot be had, it is left out.
    pub(super) is_extra: bool,
}

impl Controller {
    /// As the kernel calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Cpuset => "cpuset",
            Controller::Pids => "pids",
        }
    }

    fn error(self, reason: String, hint: Option<&str>) -> RuntimeError {
        let resource = match self {
            Controller::Memory => "memory",
            Controller::Cpu => "CPU time",
            Controller::Cpuset => "processors and memory nodes",
            Controller::Pids => "number of processes",
        };
        RuntimeError::Limit { resource, reason, hint: hint.map(str::to_owned) }
    }

    /// No hierarchy has it.
    pub(super) fn absent(self) -> RuntimeError {
        let reason = format!("there is no cgroup controller `{}` here", self.name());
        self.error(reason, Some(WHERE))
    }

    /// No group can be made, or entered.
    pub(super) fn denied(self, error: &std::io::Error) -> RuntimeError {
        let reason = format!("the cgroup controller `{}` cannot be used: {error}", self.name());
        self.error(reason, Some(WHERE))
    }

    /// The kernel was built, or started, without it.
    pub(super) fn missing(self, file: &str) -> RuntimeError {
        self.error(format!("the kernel has no `{file}` here"), None)
    }

    /// The value is wrong.
    pub(super) fn refused(self, value: &str, error: &std::io::Error) -> RuntimeError {
        self.error(format!("the kernel refuses `{value}`: {error}"), None)
    }
}

/// Who may set limits.
const WHERE: &str = "limits need root, or a cgroup that was delegated to you: systemd-run --user --scope -p Delegate=yes strake ...";

/// The controllers that the limits need, each once.
pub(super) fn controllers(resources: &LinuxResources) -> Vec<Controller> {
    let all = [Controller::Memory, Controller::Cpu, Controller::Cpuset, Controller::Pids];
    let all = all.into_iter();
    all.filter(|c| !settings(Version::Two, &[*c], resources).is_empty()).collect()
}

/// What to write, in this order, for the limits of these controllers.
pub(super) fn settings(
    version: Version,
    controllers: &[Controller],
    resources: &LinuxResources,
) -> Vec<Setting> {
    let mut settings = Vec::new();
    for controller in controllers {
        let mut add = |file, value: Option<String>, is_extra| {
            settings.push(Setting { controller: *controller, file, value, is_extra });
        };
        match controller {
            Controller::Memory => memory(version, resources, &mut add),
            Controller::Cpu => cpu(version, resources, &mut add),
            Controller::Cpuset => cpuset(version, resources, &mut add),
            Controller::Pids => {
                let limit = resources.pids().as_ref().map(|pids| pids.limit());
                if let Some(limit) = limit.filter(|limit| *limit > 0) {
                    add("pids.max", Some(limit.to_string()), false);
                }
            }
        }
    }
    settings
}

type Add<'a> = dyn FnMut(&'static str, Option<String>, bool) + 'a;

fn memory(version: Version, resources: &LinuxResources, add: &mut Add<'_>) {
    let Some(memory) = resources.memory() else { return };
    let Some(limit) = memory.limit().filter(|limit| *limit > 0) else { return };
    // Of memory and swap together; as much swap as memory unless it is said, as Docker has it.
    let (together, is_extra) = match memory.swap() {
        Some(swap) => (swap, false),
        None => (limit.saturating_mul(2), true),
    };
    match version {
        Version::One => {
            add("memory.limit_in_bytes", Some(limit.to_string()), false);
            add("memory.memsw.limit_in_bytes", Some(together.to_string()), is_extra);
        }
        Version::Two => {
            let swap = match together {
                -1 => "max".to_owned(),
                together => (together - limit).max(0).to_string(),
            };
            add("memory.max", Some(limit.to_string()), false);
            add("memory.swap.max", Some(swap), is_extra);
        }
    }
}

/// The kernel's own period, in microseconds.
const PERIOD: u64 = 100_000;

fn cpu(version: Version, resources: &LinuxResources, add: &mut Add<'_>) {
    let Some(cpu) = resources.cpu() else { return };
    let quota = cpu.quota().filter(|quota| *quota > 0);
    match version {
        Version::One => {
            if let Some(shares) = cpu.shares() {
                add("cpu.shares", Some(shares.to_string()), false);
            }
            if let Some(period) = cpu.period() {
                add("cpu.cfs_period_us", Some(period.to_string()), false);
            }
            if let Some(quota) = quota {
                add("cpu.cfs_quota_us", Some(quota.to_string()), false);
            }
        }
        Version::Two => {
            if let Some(shares) = cpu.shares() {
                add("cpu.weight", Some(weight(shares).to_string()), false);
            }
            if quota.is_some() || cpu.period().is_some() {
                let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
                let period = cpu.period().unwrap_or(PERIOD);
                add("cpu.max", Some(format!("{quota} {period}")), false);
            }
        }
    }
}

/// Shares of 2 to 262144 as weights of 1 to 10000, as runc and systemd convert them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn cpuset(version: Version, resources: &LinuxResources, add: &mut Add<'_>) {
    let Some(cpu) = resources.cpu() else { return };
    let settings = [("cpuset.mems", cpu.mems().clone()), ("cpuset.cpus", cpu.cpus().clone())];
    if settings.iter().all(|(_, list)| list.is_none()) {
        return;
    }
    for (file, list) in settings {
        // In the first version a new group has neither, and takes no process before it has both.
        if list.is_some() || version == Version::One {
            add(file, list, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{
        LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder,
    };

    use super::*;

    fn everything() -> LinuxResources {
        let memory = LinuxMemoryBuilder::default().limit(64 << 20).build().unwrap();
        let cpu = LinuxCpuBuilder::default()
            .quota(150_000)
            .period(100_000u64)
            .shares(1024u64)
            .cpus("0-1")
            .build()
            .unwrap();
        let pids = LinuxPidsBuilder::default().limit(7).build().unwrap();
        let resources = LinuxResourcesBuilder::default().memory(memory).cpu(cpu).pids(pids);
        resources.build().unwrap()
    }

    fn lines(version: Version, resources: &LinuxResources) -> Vec<String> {
        let controllers = controllers(resources);
        let lines = settings(version, &controllers, resources).into_iter().map(|setting| {
            let value = setting.value.unwrap_or_else(|| "as above".to_owned());
            let extra = if setting.is_extra { " if it can be had" } else { "" };
            format!("{} = {value}{extra}", setting.file)
        });
        lines.collect()
    }

    #[test]
    fn each_version_has_its_own_files() {
        assert_eq!(
            lines(Version::One, &everything()),
            [
                "memory.limit_in_bytes = 67108864",
                "memory.memsw.limit_in_bytes = 134217728 if it can be had",
                "cpu.shares = 1024",
                "cpu.cfs_period_us = 100000",
                "cpu.cfs_quota_us = 150000",
                "cpuset.mems = as above",
                "cpuset.cpus = 0-1",
                "pids.max = 7",
            ]
        );
        assert_eq!(
            lines(Version::Two, &everything()),
            [
                "memory.max = 67108864",
                "memory.swap.max = 67108864 if it can be had",
                "cpu.weight = 39",
                "cpu.max = 150000 100000",
                "cpuset.cpus = 0-1",
                "pids.max = 7",
            ]
        );
        assert!(lines(Version::Two, &LinuxResources::default()).is_empty());
    }

    #[test]
    fn memory_nodes_alone_are_a_limit() {
        let cpu = LinuxCpuBuilder::default().mems("0").build().unwrap();
        let resources = LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
        let one = lines(Version::One, &resources);
        assert_eq!(one, ["cpuset.mems = 0", "cpuset.cpus = as above"]);
        assert_eq!(lines(Version::Two, &resources), ["cpuset.mems = 0"]);
    }

    #[test]
    fn swap_that_was_asked_for_is_no_extra() {
        let memory = LinuxMemoryBuilder::default().limit(10).swap(-1).build().unwrap();
        let resources = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
        let two = lines(Version::Two, &resources);
        assert_eq!(two, ["memory.max = 10", "memory.swap.max = max"]);
        let one = lines(Version::One, &resources);
        assert_eq!(one[1], "memory.memsw.limit_in_bytes = -1");
    }

    #[test]
    fn weights_end_where_shares_end() {
        assert_eq!((weight(0), weight(2), weight(262_144)), (1, 1, 10_000));
    }
}
