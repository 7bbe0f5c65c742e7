//! Kernel calls that neither `rustix` nor `nix` has.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// Turns the return value of a raw system call into a result.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Which side of [`clone_process`] one is on.
pub(crate) enum Cloned {
    /// The caller, with the new process's id and a pidfd.
    Parent { pid: libc::pid_t, pidfd: OwnedFd },
    /// The new process.
    Child,
}

/// `fork` with namespaces: the child gets a copy of the memory, and SIGCHLD as its exit signal.
///
/// # Safety
///
/// The process must have one thread only: any lock another thread holds (the allocator's, for
/// one) would stay locked in the child for ever.
pub(crate) unsafe fn clone_process(namespaces: libc::c_int) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let mut arguments = libc::clone_args {
        flags: (namespaces as u64 & 0xffff_ffff) | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        // SAFETY: all fields of this plain C structure may be zero.
        ..unsafe { mem::zeroed() }
    };
    // SAFETY: the structure outlives the call and its size is given; without CLONE_VM the child
    // runs on a copy of this stack; the caller promised to be the only thread.
    let mut result = check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, mem::size_of::<libc::clone_args>())
    });
    if matches!(&result, Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)))
    {
        // Container engines' older seccomp profiles answer clone3 with ENOSYS or EPERM.
        let flags = namespaces | libc::CLONE_PIDFD | libc::SIGCHLD;
        // SAFETY: as above; a null stack means "a copy of mine". The argument order is that of
        // x86_64 and aarch64 up to the third argument, which is all that is used.
        result = check(unsafe {
            libc::syscall(libc::SYS_clone, flags as libc::c_ulong, 0, &raw mut pidfd, 0, 0)
        });
    }
    match result? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent {
            pid: pid as libc::pid_t,
            // SAFETY: the kernel has just stored a new descriptor there.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// What a signal does to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    Default,
    Ignored,
}

/// Sets what `signal` does; SIGKILL and SIGSTOP stay as they are.
///
/// glibc refuses the two signals that it keeps for itself, but whoever started us may have left
/// those ignored as well, and a program would inherit that: so this goes past it.
pub(crate) fn set_disposition(signal: libc::c_int, disposition: Disposition) {
    // The kernel's structure begins with the handler, and the rest, flags and mask, may be 0.
    let action: [u64; 4] = match disposition {
        Disposition::Default => [libc::SIG_DFL as u64, 0, 0, 0],
        Disposition::Ignored => [libc::SIG_IGN as u64, 0, 0, 0],
    };
    // SAFETY: the structure is as long as the kernel's longest (32 bytes on x86_64), outlives the
    // call, and names no function; the last argument is the length of the kernel's signal set.
    unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), ptr::null::<u64>(), 8);
    }
}

/// Blocks or unblocks signals for this thread and returns nothing of what was.
pub(crate) fn set_blocked_signals(signals: &[libc::c_int]) {
    // SAFETY: the set is initialised by sigemptyset before use, and the old set is not asked for.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

/// A descriptor that becomes readable when one of `signals` is pending.
pub(crate) fn signalfd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset; -1 asks for a new descriptor, which we own.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(fd.into())?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// A child that has ended and is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reaped {
    pub(crate) pid: i32,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// Bytes of the largest of it and the processes that it waited for.
    pub(crate) peak_memory: u64,
    /// Microseconds on processors, of it and the processes that it waited for.
    pub(crate) cpu_micros: u64,
}

/// Reaps a child if one has ended. rustix and nix have no `wait4`, which alone says what it took.
pub(crate) fn reap_one() -> io::Result<Option<Reaped>> {
    loop {
        let mut status = 0;
        // SAFETY: the structure is plain numbers, for which zero is a value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to variables of ours that outlive the call.
        let pid = unsafe { libc::wait4(-1, &mut status, libc::WNOHANG, &mut usage) };
        match pid {
            0 => return Ok(None),
            1.. => {}
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
                error if error.raw_os_error() == Some(libc::EINTR) => continue,
                error => return Err(error),
            },
        }
        let micros = |time: libc::timeval| {
            let whole = u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000);
            whole.saturating_add(u64::try_from(time.tv_usec).unwrap_or(0))
        };
        return Ok(Some(Reaped {
            pid,
            code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
            signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
            // Linux counts it in KiB.
            peak_memory: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
            cpu_micros: micros(usage.ru_utime).saturating_add(micros(usage.ru_stime)),
        }));
    }
}

/// Attributes of a mount, as mount_setattr(2) takes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct MountAttributes {
    /// `MOUNT_ATTR_*` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub(crate) clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, … or 0 to leave it.
    pub(crate) propagation: u64,
    /// Apply to the mounts below, too.
    pub(crate) recursive: bool,
}

/// Changes attributes of the mount whose root `mount` is.
pub(crate) fn mount_setattr(mount: impl AsFd, attributes: MountAttributes) -> io::Result<()> {
    let argument = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if attributes.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: an empty path with AT_EMPTY_PATH means the descriptor itself; the structure outlives
    // the call and its size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const argument,
            mem::size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: closing descriptors that no object of this process will use again: callers are
    // about to execute another program, or own nothing but what stands below `first`.
    let result = check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) });
    if result.is_err() {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        for fd in first..limit.current.unwrap_or(1 << 20).min(1 << 20) as RawFd {
            // SAFETY: as above.
            unsafe { libc::close(fd) };
        }
    }
    Ok(())
}

/// Makes `fd` also known as `target`, without close-on-exec.
pub(crate) fn duplicate_onto(fd: impl AsFd, target: RawFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: dup2 and fcntl on a descriptor we hold; `target` is a number the caller gives away.
    unsafe {
        if fd == target {
            check(libc::fcntl(fd, libc::F_SETFD, 0).into())?;
        } else {
            check(libc::dup2(fd, target).into())?;
        }
    }
    Ok(())
}

/// Executes the program behind `program`, or the one at `path` if that is given.
///
/// Returns only on failure. `arguments` and `environment` must end with a null pointer.
pub(crate) fn execute(
    program: Option<BorrowedFd<'_>>,
    path: &CStr,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> io::Error {
    debug_assert!(arguments.last().is_some_and(|last| last.is_null()));
    debug_assert!(environment.last().is_some_and(|last| last.is_null()));
    // SAFETY: both arrays end with null and their strings, and `path`, are NUL-terminated and
    // outlive the call, which either does not return or has changed nothing.
    unsafe {
        match program {
            Some(program) => libc::syscall(
                libc::SYS_execveat,
                program.as_raw_fd(),
                c"".as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            ),
            None => libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()).into(),
        };
    }
    io::Error::last_os_error()
}

/// Loads a seccomp filter for this process.
pub(crate) fn load_seccomp_filter(instructions: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        filter: instructions.as_ptr().cast_mut(),
    };
    // Without SPEC_ALLOW every filtered process runs with speculative store bypass disabled,
    // which costs a few per cent; container engines set it since 2021.
    // SAFETY: the program outlives the call; the kernel only reads it and checks it in full.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    })?;
    Ok(())
}

/// Sets one resource limit of this process.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure outlives the call; pid 0 is this process; no old value is asked for.
    check(unsafe { libc::prlimit(0, resource as _, &raw const limit, ptr::null_mut()) }.into())?;
    Ok(())
}

/// The soft and hard limit of a resource.
pub(crate) fn rlimit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives the call and has the kernel's layout.
    check(unsafe { libc::prlimit(0, resource as _, ptr::null(), &raw mut limit) }.into())?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Sets host and domain name of this UTS namespace.
pub(crate) fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe one string.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into())?;
    Ok(())
}

/// Whether the effective user may execute `path`.
pub(crate) fn may_execute(path: &CStr) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::X_OK,
            libc::AT_EACCESS,
        )
    });
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        other => other.map(drop),
    }
}

/// Starts `function` in a new process that borrows this one's memory until it executes a program
/// or exits, as vfork does; the caller sleeps until then. Returns its process id.
///
/// Unlike fork this is cheap however large the caller is, and safe with threads, provided that
/// `function` only makes system calls: it must not allocate, lock or unwind.
///
/// # Safety
///
/// `function` must keep to that, and must not return before its process has executed a program.
pub(crate) unsafe fn spawn_borrowing(
    function: extern "C" fn(*mut libc::c_void) -> libc::c_int,
    argument: *mut libc::c_void,
) -> io::Result<libc::pid_t> {
    const STACK: usize = 64 << 10;
    let mut stack = vec![0u128; STACK / 16];
    // SAFETY: one past the end of the stack, which grows down and is 16-byte aligned; the vector
    // lives until the child no longer uses it, because CLONE_VFORK suspends us so long.
    let pid = unsafe {
        libc::clone(
            function,
            stack.as_mut_ptr_range().end.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            argument,
        )
    };
    check(pid.into())?;
    Ok(pid)
}
