//! A request, checked and turned into the plan that a container's first process follows.

use std::os::fd::OwnedFd;

use oci_spec::runtime::{LinuxDeviceType, PosixRlimit, PosixRlimitType, Process, Spec};

use crate::RuntimeError;
use crate::capabilities::CapabilityMasks;
use crate::init::handshake::{FilePlan, Plan};
use crate::mount::{Devices, MountPlan};
use crate::request::{ContainerIo, ContainerRequest};
use crate::seccomp;

/// A plan and the bytes that go with it.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) plan: Plan,
    pub(super) attachment: Vec<u8>,
}

/// Checks `request` and opens the sources of its mounts, which are added to `descriptors`.
pub(super) fn draft(
    request: &ContainerRequest,
    io: ContainerIo,
    descriptors: &mut Vec<OwnedFd>,
) -> Result<Draft, RuntimeError> {
    let spec = &request.spec;
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| RuntimeError::InvalidRequest("the spec has no process".to_owned()))?;
    let user = process.user();
    let capabilities = CapabilityMasks::of(process.capabilities().as_ref(), user.uid());
    let filter = seccomp_filter(spec, capabilities.bounding)?;

    let any_device = allows_any_device(spec);
    let devices = if any_device { Devices::Usable } else { Devices::Dead };
    let mut mounts = |list: &[oci_spec::runtime::Mount]| {
        let plan = |mount| MountPlan::new(mount, devices, descriptors);
        list.iter().map(plan).collect::<Result<Vec<_>, _>>()
    };
    let rootfs = mounts(&request.rootfs)?;
    let first = rootfs.first().map(|mount| mount.target.as_str());
    if first != Some("/") {
        return Err(RuntimeError::InvalidRequest(
            "the first mount of the root filesystem must have the destination /".to_owned(),
        ));
    }
    let mounts = mounts(spec.mounts().as_deref().unwrap_or_default())?;

    let mut attachment = filter.clone().unwrap_or_default();
    let mut files = Vec::with_capacity(request.files.len());
    for file in &request.files {
        attachment.extend_from_slice(&file.content);
        files.push(FilePlan {
            target: utf8(&file.target)?,
            length: file.content.len(),
            mode: file.mode,
            uid: file.uid,
            gid: file.gid,
            read_only: file.read_only,
        });
    }

    let linux = spec.linux().as_ref();
    let paths = |list: Option<&Option<Vec<String>>>| list.cloned().flatten().unwrap_or_default();
    let plan = Plan {
        rootfs,
        read_only_root: spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
        mounts,
        any_device,
        files,
        masked: paths(linux.map(|linux| linux.masked_paths())),
        read_only: paths(linux.map(|linux| linux.readonly_paths())),
        hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
        domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
        filter: filter.map(|filter| filter.len() / 8),
        terminal: match io {
            ContainerIo::Pty { size } => Some(size),
            _ => None,
        },
        own_streams: matches!(io, ContainerIo::Pipes { .. }),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask().unwrap_or(0o022),
        capabilities,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(process),
        oom_score_adj: process.oom_score_adj(),
        arguments: process.args().clone().unwrap_or_default(),
        environment: process.env().clone().unwrap_or_default(),
        directory: utf8(process.cwd())?,
    };
    check(&plan)?;
    Ok(Draft { plan, attachment })
}

/// Whether a rule of the spec lets every device be used, as that of a privileged container does.
fn allows_any_device(spec: &Spec) -> bool {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let rules = resources.and_then(|resources| resources.devices().as_ref());
    rules.into_iter().flatten().any(|rule| {
        rule.allow()
            && rule.typ().is_none_or(|kind| kind == LinuxDeviceType::A)
            && (rule.major(), rule.minor()) == (None, None)
    })
}

/// What the kernel would only refuse with a number.
fn check(plan: &Plan) -> Result<(), RuntimeError> {
    let invalid = |what: String| Err(RuntimeError::InvalidRequest(what));
    if !plan.directory.starts_with('/') {
        return invalid(format!("the working directory {:?} is not absolute", plan.directory));
    }
    if let Some(file) = plan.files.iter().find(|file| !file.target.starts_with('/')) {
        return invalid(format!("the file {:?} has no absolute path", file.target));
    }
    // To the kernel this number means "leave it as it is", which is root (CVE-2024-40635).
    if plan.uid == u32::MAX || plan.gid == u32::MAX {
        return invalid(format!("{} is no user or group id", u32::MAX));
    }
    if plan.arguments.is_empty() {
        return invalid("there is no program to execute".to_owned());
    }
    Ok(())
}

fn seccomp_filter(spec: &Spec, capabilities: u64) -> Result<Option<Vec<u8>>, RuntimeError> {
    let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else {
        return Ok(None);
    };
    if profile.syscalls().as_ref().is_some_and(|syscalls| !syscalls.is_empty()) {
        return Err(RuntimeError::InvalidRequest(
            "seccomp profiles other than the built-in one are not supported".to_owned(),
        ));
    }
    Ok(Some(seccomp::default_filter(capabilities)))
}

fn rlimits(process: &Process) -> Vec<(u32, u64, u64)> {
    let limit = |limit: &PosixRlimit| (resource(limit.typ()), limit.soft(), limit.hard());
    process.rlimits().iter().flatten().map(limit).collect()
}

fn resource(kind: PosixRlimitType) -> u32 {
    use PosixRlimitType::*;
    let number = match kind {
        RlimitCpu => libc::RLIMIT_CPU,
        RlimitFsize => libc::RLIMIT_FSIZE,
        RlimitData => libc::RLIMIT_DATA,
        RlimitStack => libc::RLIMIT_STACK,
        RlimitCore => libc::RLIMIT_CORE,
        RlimitRss => libc::RLIMIT_RSS,
        RlimitNproc => libc::RLIMIT_NPROC,
        RlimitNofile => libc::RLIMIT_NOFILE,
        RlimitMemlock => libc::RLIMIT_MEMLOCK,
        RlimitAs => libc::RLIMIT_AS,
        RlimitLocks => libc::RLIMIT_LOCKS,
        RlimitSigpending => libc::RLIMIT_SIGPENDING,
        RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        RlimitNice => libc::RLIMIT_NICE,
        RlimitRtprio => libc::RLIMIT_RTPRIO,
        RlimitRttime => libc::RLIMIT_RTTIME,
    };
    // glibc types these as an enumeration of unsigned ints, musl as ints.
    #[allow(clippy::unnecessary_cast)]
    let number = number as u32;
    number
}

fn utf8(path: &std::path::Path) -> Result<String, RuntimeError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| RuntimeError::InvalidRequest(format!("the path {path:?} is not UTF-8")))
}
