//! Capability sets as the kernel's bit masks.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use serde::{Deserialize, Serialize};

/// The capability sets a process starts with, one bit per capability number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct CapabilityMasks {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// Docker's default set for root.
pub(crate) const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Every capability of Linux, in the kernel's numbering (linux/capability.h).
pub(crate) const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

impl CapabilityMasks {
    /// The masks a process of user `uid` gets: all sets as the spec says for root; for others the
    /// spec's bounding set, and nothing in the rest but what is ambient, because that is what the
    /// kernel leaves after a change of user and an exec.
    pub(crate) fn of(capabilities: Option<&LinuxCapabilities>, uid: u32) -> CapabilityMasks {
        let Some(capabilities) = capabilities else { return CapabilityMasks::default() };
        let ambient = mask(capabilities.ambient());
        let bounding = mask(capabilities.bounding());
        if uid == 0 {
            CapabilityMasks {
                bounding,
                effective: mask(capabilities.effective()),
                permitted: mask(capabilities.permitted()),
                inheritable: mask(capabilities.inheritable()),
                ambient,
            }
        } else {
            CapabilityMasks {
                bounding,
                effective: ambient,
                permitted: ambient,
                inheritable: ambient,
                ambient,
            }
        }
    }
}

fn mask(set: &Option<Capabilities>) -> u64 {
    set.iter().flatten().filter_map(number).fold(0, |mask, number| mask | 1 << number)
}

fn number(capability: &Capability) -> Option<u32> {
    ALL.iter().position(|known| known == capability).map(|number| number as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_has_dockers_mask() {
        // `CapEff` in /proc/self/status of any container of Docker.
        assert_eq!(mask(&Some(DEFAULT.into_iter().collect())), 0xa804_25fb);
    }

    #[test]
    fn every_capability_has_its_kernel_number() {
        assert_eq!(mask(&Some(ALL.into_iter().collect())), (1 << 41) - 1);
        assert_eq!(number(&Capability::SysAdmin), Some(21));
        assert_eq!(number(&Capability::CheckpointRestore), Some(40));
    }

    #[test]
    fn an_ordinary_user_has_only_a_bounding_set() {
        let set: Capabilities = DEFAULT.into_iter().collect();
        let mut capabilities = LinuxCapabilities::default();
        capabilities.set_bounding(Some(set.clone()));
        capabilities.set_effective(Some(set.clone()));
        capabilities.set_permitted(Some(set));
        capabilities.set_inheritable(None);
        capabilities.set_ambient(None);
        let masks = CapabilityMasks::of(Some(&capabilities), 1000);
        assert_eq!(masks, CapabilityMasks { bounding: 0xa804_25fb, ..Default::default() });
    }
}
