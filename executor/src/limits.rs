//! What a process may take at the most, as a command line says it and as a runtime spec does.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};

/// Limits of a container. What is absent is not limited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; -1 for as much swap as there is. Twice the memory where
    /// it is absent and the kernel counts swap.
    pub memory_swap: Option<i64>,
    /// Weight against others when processors are short; 1024 is the usual.
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time in each period.
    pub cpu_quota: Option<i64>,
    /// Microseconds; the kernel's 100 ms where it is absent.
    pub cpu_period: Option<u64>,
    /// Processors that it may run on: `0-3`, `0,2`.
    pub cpuset: Option<String>,
    /// Memory nodes that it may take memory of: `0-1`, `0,1`.
    pub cpuset_mems: Option<String>,
    /// Processes and threads at the same time.
    pub pids: Option<i64>,
}

impl Limits {
    /// As a runtime spec has them; `None` if there are none.
    pub(crate) fn resources(&self) -> Result<Option<LinuxResources>, OciSpecError> {
        if *self == Limits::default() {
            return Ok(None);
        }
        let mut resources = LinuxResourcesBuilder::default();
        if let Some(limit) = self.memory {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut memory = LinuxMemoryBuilder::default().limit(limit);
            if let Some(swap) = self.memory_swap {
                memory = memory.swap(swap);
            }
            resources = resources.memory(memory.build()?);
        }
        let mut cpu = LinuxCpuBuilder::default();
        if let Some(shares) = self.cpu_shares {
            cpu = cpu.shares(shares);
        }
        if let Some(quota) = self.cpu_quota {
            cpu = cpu.quota(quota);
        }
        if let Some(period) = self.cpu_period {
            cpu = cpu.period(period);
        }
        if let Some(cpuset) = &self.cpuset {
            cpu = cpu.cpus(cpuset.clone());
        }
        if let Some(nodes) = &self.cpuset_mems {
            cpu = cpu.mems(nodes.clone());
        }
        resources = resources.cpu(cpu.build()?);
        if let Some(limit) = self.pids {
            resources = resources.pids(LinuxPidsBuilder::default().limit(limit).build()?);
        }
        resources.build().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_into_the_spec() {
        assert!(Limits::default().resources().unwrap().is_none());
        let limits = Limits {
            memory: Some(7 << 20),
            pids: Some(3),
            cpuset_mems: Some("0".to_owned()),
            ..Limits::default()
        };
        let resources = limits.resources().unwrap().unwrap();
        assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(7 << 20));
        assert_eq!(resources.memory().as_ref().unwrap().swap(), None);
        assert_eq!(resources.pids().as_ref().unwrap().limit(), 3);
        let cpu = resources.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.mems().as_deref()), (None, Some("0")));
    }
}
