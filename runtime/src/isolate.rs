//! Namespaces of the engine's own: mounts that nobody else sees, and the right to make them.
//!
//! | who starts us                    | mount namespace | user namespace                          |
//! |----------------------------------|-----------------|-----------------------------------------|
//! | root                             | yes             | no                                      |
//! | a user with ranges in /etc/subuid | yes            | 0 is the user, 1… are the ranges        |
//! | a user without                   | yes             | 0 is the user, there is nobody else     |
//! | "root" without CAP_SYS_ADMIN     | yes             | the ids it has, if it may; else as a user |
//!
//! The kernel takes a map of more than one id from a process outside the new namespace only, so
//! a child is forked before ([`id_maps`]); that, and the rule that only a process with one thread
//! may enter a user namespace, is why this comes first in a program's life.

mod id_maps;

use std::io;
use std::sync::Mutex;

use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

use self::id_maps::Mapper;
use crate::RuntimeError;

/// A run of ids: `count` ids from `inside` (as our namespace names them) stand for those from
/// `outside` (as its parent names them).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// Number of ids.
    pub count: u32,
}

/// Who the engine is, after [`isolate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Root, with every id there is.
    Root,
    /// Root of a user namespace with ranges of ids.
    Ranges {
        /// User ids.
        uids: Vec<IdRange>,
        /// Group ids.
        gids: Vec<IdRange>,
    },
    /// Root of a user namespace that knows one user and one group only.
    Single {
        /// The user outside.
        uid: u32,
        /// The group outside.
        gid: u32,
        /// Why there are no ranges, and what to install or configure to get them.
        reason: String,
    },
}

impl Identity {
    /// Whether files can be owned by, and processes run as, `id` (as a user and as a group).
    pub fn can_map(&self, id: u32) -> bool {
        let within = |ranges: &[IdRange]| {
            ranges.iter().any(|range| id >= range.inside && id - range.inside < range.count)
        };
        match self {
            // The last number means "no id" to the kernel.
            Identity::Root => id != u32::MAX,
            Identity::Ranges { uids, gids } => within(uids) && within(gids),
            Identity::Single { .. } => id == 0,
        }
    }

    /// Who this process is by its own maps; `reason` says why there is but one id, if so.
    fn current(reason: Option<String>) -> io::Result<Identity> {
        let uids = id_maps::own_map("uid_map")?;
        let gids = id_maps::own_map("gid_map")?;
        let all = |ranges: &[IdRange]| {
            matches!(ranges, [IdRange { inside: 0, outside: 0, count: u32::MAX }])
        };
        let alone = |ranges: &[IdRange]| matches!(ranges, [IdRange { count: 1, .. }]);
        Ok(match (uids.as_slice(), gids.as_slice()) {
            (uids, gids) if all(uids) && all(gids) => Identity::Root,
            // Ranges of the one are of no use if the other is alone.
            ([uid, ..], [gid, ..]) if alone(&uids) || alone(&gids) => Identity::Single {
                uid: uid.outside,
                gid: gid.outside,
                reason: reason
                    .unwrap_or_else(|| "the user namespace around it has no other ids".to_owned()),
            },
            _ => Identity::Ranges { uids, gids },
        })
    }
}

/// The namespaces the engine lives in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// Who we are in them.
    pub identity: Identity,
}

/// What the first call of [`isolate`] achieved.
static ISOLATION: Mutex<Option<Isolation>> = Mutex::new(None);

/// Enters a private mount namespace, and a user namespace where that takes one.
///
/// Must be called before any thread starts. A second call returns what the first one did.
pub fn isolate() -> Result<Isolation, RuntimeError> {
    let mut isolation = ISOLATION.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(isolation) = &*isolation {
        return Ok(isolation.clone());
    }
    let threads = thread_count();
    if threads > 1 {
        return Err(RuntimeError::Threads { threads });
    }
    let identity = enter()?;
    Ok(isolation.insert(Isolation { identity }).clone())
}

/// Why some ids cannot be used, if that is so.
pub(crate) fn why_ids_are_missing() -> Option<String> {
    let isolation = ISOLATION.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match &isolation.as_ref()?.identity {
        Identity::Root => None,
        Identity::Ranges { .. } => {
            Some("the ranges of /etc/subuid and /etc/subgid have no such id".to_owned())
        }
        Identity::Single { reason, .. } => Some(format!("there is no user but root: {reason}")),
    }
}

fn enter() -> Result<Identity, RuntimeError> {
    if rustix::process::geteuid().is_root() {
        match unshare(UnshareFlags::NEWNS).and_then(|()| keep_mounts_private()) {
            Ok(()) => return Identity::current(None).map_err(failed("mount", None)),
            // Root of a container, without CAP_SYS_ADMIN.
            Err(error) if is_denial(&error) => {}
            Err(error) => return Err(failed("mount", None)(error)),
        }
    }
    let mapper = Mapper::fork().map_err(failed("user", None))?;
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
        .map_err(|error| failed("user", hint(&error))(error))?;
    let reason = mapper.map().map_err(|error| failed("user", hint(&error))(error))?;
    become_root().map_err(failed("user", None))?;
    keep_mounts_private().map_err(|error| failed("mount", hint(&error))(error))?;
    Identity::current(reason).map_err(failed("user", None))
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: none of the flags used here separates file descriptors from what owns them.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

/// Mounts of ours do not reach the host; the host's still reach us.
fn keep_mounts_private() -> io::Result<()> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags)?;
    Ok(())
}

/// Takes user and group 0 of the new namespace, where they are not what we are already.
fn become_root() -> io::Result<()> {
    let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_res_gid(Some(gid), Some(gid), Some(gid))?;
    rustix::thread::set_thread_res_uid(Some(uid), Some(uid), Some(uid))?;
    Ok(())
}

fn thread_count() -> usize {
    fs_err::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

fn is_denial(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS))
}

fn failed(namespace: &'static str, hint: Option<String>) -> impl FnOnce(io::Error) -> RuntimeError {
    move |source| RuntimeError::Isolate { namespace, hint, source }
}

/// The knob that forbids user namespaces to ordinary users, if one of those we know does.
fn hint(error: &io::Error) -> Option<String> {
    let knob = |path: &str| {
        fs_err::read_to_string(format!("/proc/sys/{path}")).ok()?.trim().parse::<u64>().ok()
    };
    if knob("user/max_user_namespaces") == Some(0) || error.raw_os_error() == Some(libc::ENOSPC) {
        return Some(
            "user namespaces are switched off or used up: sysctl user.max_user_namespaces=15000"
                .to_owned(),
        );
    }
    if knob("kernel/unprivileged_userns_clone") == Some(0) {
        return Some(
            "user namespaces are for root only here: sysctl kernel.unprivileged_userns_clone=1"
                .to_owned(),
        );
    }
    if knob("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return Some(
            "AppArmor restricts user namespaces: sysctl \
             kernel.apparmor_restrict_unprivileged_userns=0, or a profile for this program with \
             `userns,`"
                .to_owned(),
        );
    }
    is_denial(error).then(|| {
        "a container around this process forbids it: start that with \
         `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`, or privileged"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_maps_every_id_but_the_one_that_is_none() {
        assert!(Identity::Root.can_map(4_000_000_000));
        assert!(!Identity::Root.can_map(u32::MAX));
    }

    #[test]
    fn an_id_must_be_in_both_maps() {
        let range = |inside, count| IdRange { inside, outside: 100_000, count };
        let identity = Identity::Ranges {
            uids: vec![range(0, 1), range(1, 65_536)],
            gids: vec![range(0, 1), range(1, 1000)],
        };
        assert!(identity.can_map(0));
        assert!(identity.can_map(1000));
        assert!(!identity.can_map(1001));
        assert!(!identity.can_map(65_537));
    }

    #[test]
    fn without_ranges_there_is_only_root() {
        let identity = Identity::Single { uid: 1000, gid: 1000, reason: String::new() };
        assert!(identity.can_map(0));
        assert!(!identity.can_map(1000));
    }
}
