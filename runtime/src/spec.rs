//! Docker's defaults as an OCI runtime spec.

use oci_spec::runtime::{
    Capabilities, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxDeviceCgroupBuilder,
    LinuxResources, LinuxResourcesBuilder, LinuxSeccompAction, LinuxSeccompBuilder, Mount,
    MountBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use crate::capabilities;

/// Option of a mount: `strake.subpath=<path>` mounts that path inside the source instead of the
/// source itself. Links in it are resolved inside the source and never lead out.
pub const SUBPATH_OPTION: &str = "strake.subpath";

/// Option of an overlay mount without `upperdir`: writes go to a tmpfs of the container and are
/// gone with it.
pub const SCRATCH_OPTION: &str = "strake.scratch";

/// Every capability, for `--security=insecure`.
pub const INSECURE_CAPABILITIES: &[Capability] = &capabilities::ALL;

/// The search path of a process whose environment names none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Hidden from a container: they tell about, or act on, the whole machine.
pub(crate) const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Visible to a container, and not writable.
pub(crate) const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The spec of a container with Docker's defaults: its capability set, masked and read-only
/// paths, mounts of /proc, /dev, /dev/pts, /sys, /dev/mqueue and /dev/shm (64 MiB), seccomp
/// profile, umask 022, root as user, `/` as working directory, no arguments, no environment.
///
/// `linux.seccomp` is a marker: while it is there the built-in profile applies; without it no
/// filter is loaded.
pub fn default_spec() -> Spec {
    let seccomp = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .build()
        .expect("all mandatory fields are set");
    let linux = LinuxBuilder::default()
        .masked_paths(MASKED_PATHS.map(str::to_owned))
        .readonly_paths(READ_ONLY_PATHS.map(str::to_owned))
        .seccomp(seccomp)
        .build()
        .expect("all mandatory fields are set");
    spec(&capabilities::DEFAULT, linux, "ro")
}

/// The spec of a container of `--security=insecure`: every capability that the engine has, no
/// seccomp filter, nothing masked, /sys writable, every device.
pub fn insecure_spec() -> Spec {
    let linux = LinuxBuilder::default()
        .masked_paths(Vec::<String>::new())
        .readonly_paths(Vec::<String>::new())
        .resources(every_device())
        .build()
        .expect("all mandatory fields are set");
    spec(&capabilities::ALL, linux, "rw")
}

/// The rule that lets every device be used.
fn every_device() -> LinuxResources {
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .access("rwm")
        .build()
        .expect("all mandatory fields are set");
    LinuxResourcesBuilder::default()
        .devices(vec![rule])
        .build()
        .expect("all mandatory fields are set")
}

fn spec(capabilities: &[Capability], linux: oci_spec::runtime::Linux, sys: &str) -> Spec {
    let set: Capabilities = capabilities.iter().copied().collect();
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
        .expect("all mandatory fields are set");
    let user = UserBuilder::default()
        .uid(0u32)
        .gid(0u32)
        .umask(0o022u32)
        .build()
        .expect("all mandatory fields are set");
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(user)
        .args(Vec::<String>::new())
        .env(Vec::<String>::new())
        .cwd("/")
        .capabilities(capabilities)
        .rlimits(Vec::new())
        .no_new_privileges(false)
        .build()
        .expect("all mandatory fields are set");
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(false)
        .build()
        .expect("all mandatory fields are set");
    SpecBuilder::default()
        .version("1.2.0")
        .process(process)
        .root(root)
        .hostname("")
        .mounts(default_mounts(sys))
        .linux(linux)
        .build()
        .expect("all mandatory fields are set")
}

fn default_mounts(sys: &str) -> Vec<Mount> {
    [
        ("/proc", "proc", vec!["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", vec!["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/sys", "sysfs", vec!["nosuid", "noexec", "nodev", sys]),
        ("/dev/mqueue", "mqueue", vec!["nosuid", "noexec", "nodev"]),
        ("/dev/shm", "tmpfs", vec!["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ]
    .into_iter()
    .map(|(destination, kind, options)| {
        MountBuilder::default()
            .destination(destination)
            .typ(kind)
            .source(kind)
            .options(options.into_iter().map(str::to_owned).collect::<Vec<_>>())
            .build()
            .expect("all mandatory fields are set")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_spec_is_dockers() {
        let spec = default_spec();
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.seccomp().is_some());
        assert_eq!(linux.masked_paths().as_ref().unwrap().len(), MASKED_PATHS.len());
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.no_new_privileges(), Some(false));
        assert_eq!(process.user().umask(), Some(0o022));
    }

    #[test]
    fn the_insecure_spec_hides_nothing() {
        let spec = insecure_spec();
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.seccomp().is_none());
        assert_eq!(linux.masked_paths().as_deref(), Some([].as_slice()));
        let sys = &spec.mounts().as_ref().unwrap()[3];
        assert!(sys.options().as_ref().unwrap().contains(&"rw".to_owned()));
    }
}
