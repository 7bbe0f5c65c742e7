//! From all the rights of the engine to those of the program.
//!
//! The order matters: what needs a right comes before the loss of that right, and the seccomp
//! filter comes as late as CAP_SYS_ADMIN allows without `no_new_privs`.

use std::io;

use rustix::fs::Mode;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::child::failure;
use super::exec::enter;
use super::handshake::{Failure, Plan};
use crate::error::Stage;
use crate::sys;

/// The highest capability number asked about; later ones fail with EINVAL and end the loop.
const LAST_CAPABILITY: u32 = 63;

/// Gives up everything that `plan` does not grant and enters the working directory.
pub(super) fn drop_to(plan: &Plan, filter: &[u8]) -> Result<(), Failure> {
    set_rlimits(plan)?;
    if let Some(adjustment) = plan.oom_score_adj {
        adjust_oom_score(adjustment);
    }
    set_groups(plan).map_err(failure(Stage::User, None))?;
    drop_bounding_set(plan.capabilities.bounding).map_err(failure(Stage::Capabilities, None))?;
    // As root, so that a working directory only root may enter works as in Docker; if even root
    // may not (a file system of another machine), then as the user.
    let entered = enter(&plan.directory);
    let filter = instructions(filter);
    let before_user = !plan.no_new_privileges;
    if before_user {
        load_filter(&filter)?;
    }
    set_user(plan)?;
    if let Err(error) = entered {
        if error.raw_os_error() != Some(libc::EACCES) {
            return Err(failure(Stage::WorkingDirectory, Some(&plan.directory))(error));
        }
        enter(&plan.directory).map_err(failure(Stage::WorkingDirectory, Some(&plan.directory)))?;
    }
    if plan.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(failure(Stage::Capabilities, None))?;
        load_filter(&filter)?;
    }
    rustix::process::umask(Mode::from_raw_mode(plan.umask & 0o777));
    Ok(())
}

/// Raising a hard limit takes CAP_SYS_RESOURCE; without it the limit becomes what it can.
fn set_rlimits(plan: &Plan) -> Result<(), Failure> {
    for (resource, soft, hard) in &plan.rlimits {
        let result = match sys::set_rlimit(*resource, *soft, *hard) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => sys::rlimit(*resource)
                .and_then(|(_, most)| {
                    sys::set_rlimit(*resource, *soft.min(&most), *hard.min(&most))
                }),
            result => result,
        };
        result.map_err(failure(Stage::Rlimit, None))?;
    }
    Ok(())
}

/// Best effort: lowering it takes CAP_SYS_RESOURCE, and /proc may not be there.
fn adjust_oom_score(adjustment: i32) {
    let _ = fs_err::write("/proc/self/oom_score_adj", adjustment.to_string());
}

fn set_groups(plan: &Plan) -> io::Result<()> {
    let groups: Vec<Gid> = plan.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    match rustix::thread::set_thread_groups(&groups) {
        // A user namespace with a single group may not change the list; there is no other group
        // that it could grant.
        Err(rustix::io::Errno::PERM)
            if groups.is_empty() || groups == [Gid::from_raw(plan.gid)] => {}
        result => result?,
    }
    let gid = Gid::from_raw(plan.gid);
    rustix::thread::set_thread_res_gid(Some(gid), Some(gid), Some(gid))?;
    Ok(())
}

fn drop_bounding_set(keep: u64) -> io::Result<()> {
    for capability in 0..=LAST_CAPABILITY {
        if keep & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: PR_CAPBSET_DROP takes one number and touches no memory.
        let result =
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) };
        if result < 0 {
            let error = io::Error::last_os_error();
            // The kernel knows no capability of this number, nor a higher one.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

fn load_filter(filter: &[libc::sock_filter]) -> Result<(), Failure> {
    if filter.is_empty() {
        return Ok(());
    }
    sys::load_seccomp_filter(filter).map_err(failure(Stage::Seccomp, None))
}

/// Reads instructions as the engine's compiler wrote them.
fn instructions(bytes: &[u8]) -> Vec<libc::sock_filter> {
    bytes
        .chunks_exact(8)
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect()
}

fn set_user(plan: &Plan) -> Result<(), Failure> {
    let masks = plan.capabilities;
    if plan.uid != 0 && masks.permitted != 0 {
        rustix::thread::set_keep_capabilities(true).map_err(failure(Stage::Capabilities, None))?;
    }
    let uid = Uid::from_raw(plan.uid);
    rustix::thread::set_thread_res_uid(Some(uid), Some(uid), Some(uid))
        .map_err(failure(Stage::User, Some(&plan.uid.to_string())))?;
    set_capabilities(plan).map_err(failure(Stage::Capabilities, None))
}

fn set_capabilities(plan: &Plan) -> io::Result<()> {
    let masks = plan.capabilities;
    // What the engine has not got it cannot grant.
    let ours = rustix::thread::capabilities(None)?.permitted.bits();
    let set = |mask: u64| CapabilitySet::from_bits_retain(mask & ours);
    rustix::thread::clear_ambient_capability_set()?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: set(masks.effective & masks.permitted),
            permitted: set(masks.permitted),
            inheritable: set(masks.inheritable),
        },
    )?;
    for number in 0..=LAST_CAPABILITY {
        let capability = 1 << number;
        if masks.ambient & masks.permitted & masks.inheritable & ours & capability != 0 {
            rustix::thread::configure_capability_in_ambient_set(
                CapabilitySet::from_bits_retain(capability),
                true,
            )?;
        }
    }
    Ok(())
}
