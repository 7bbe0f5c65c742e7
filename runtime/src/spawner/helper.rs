//! Starting the init helper: this program again, in a copy that cannot be written to.
//!
//! A container that gets hold of its first process's executable (a script with the interpreter
//! `/proc/self/exe` is enough) could overwrite the engine with it: CVE-2019-5736. So the helper is
//! executed from a read-only mount of the one file, which exists as a descriptor only; where that
//! is not possible, from a sealed copy in memory.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mount::OpenTreeFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::RuntimeError;
use crate::init::{ARGUMENT_ZERO, SOCKET, handshake};
use crate::sys::{self, MountAttributes};

/// The running helper. Dropping it ends it, and every container with it.
#[derive(Debug)]
pub(super) struct Helper {
    pid: libc::pid_t,
    socket: Option<OwnedFd>,
}

impl Helper {
    pub(super) fn start() -> Result<Helper, RuntimeError> {
        let failed = |attempt| move |source| RuntimeError::StartInit { attempt, source };
        let program = read_only_self().map_err(failed("open its own program"))?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(|errno| failed("make a socket")(errno.into()))?;
        handshake::limit_waiting(&ours).map_err(failed("set up its socket"))?;
        // The helper and what waits in it must not keep the engine's streams open.
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed("open /dev/null")(errno.into()))?;
        let arguments = [ARGUMENT_ZERO.as_ptr(), ptr::null()];
        let mut start = Start {
            program: program.as_raw_fd(),
            socket: theirs.as_raw_fd(),
            null: null.as_raw_fd(),
            arguments: arguments.as_ptr(),
            error: 0,
        };
        // SAFETY: `become_helper` only makes system calls; `start` and what it points to outlive
        // the child's use of our memory, which ends with its exec or exit.
        let pid = unsafe { sys::spawn_borrowing(become_helper, (&raw mut start).cast::<c_void>()) }
            .map_err(failed("clone"))?;
        let helper = Helper { pid, socket: Some(ours) };
        match start.error {
            0 => Ok(helper),
            errno => Err(failed("execute its own program")(io::Error::from_raw_os_error(errno))),
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("it is taken by drop only").as_fd()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.socket.take());
        // SAFETY: waits for our own child, which ends because its socket closed.
        while unsafe { libc::waitpid(self.pid, ptr::null_mut(), 0) } < 0
            && io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
        {}
    }
}

/// What the new process needs, in the memory it borrows.
struct Start {
    program: RawFd,
    socket: RawFd,
    null: RawFd,
    arguments: *const *const libc::c_char,
    /// Set by the child.
    error: i32,
}

/// Runs in the new process, in the engine's memory: system calls only.
extern "C" fn become_helper(argument: *mut c_void) -> libc::c_int {
    // SAFETY: the argument is the `Start` that our creator, asleep now, passed. All calls take
    // descriptors and pointers out of it that are valid until it wakes up.
    unsafe {
        let start = &mut *argument.cast::<Start>();
        // Above all the numbers that are about to be given new meanings.
        let program = libc::fcntl(start.program, libc::F_DUPFD_CLOEXEC, 10);
        let socket = libc::fcntl(start.socket, libc::F_DUPFD_CLOEXEC, 10);
        for stream in 0..3 {
            libc::dup2(start.null, stream);
        }
        libc::dup2(socket, SOCKET);
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            start.arguments,
            start.arguments.add(1),
            libc::AT_EMPTY_PATH,
        );
        start.error = *libc::__errno_location();
        libc::_exit(1)
    }
}

/// Our own program, such that whoever opens it through /proc/…/exe cannot write to it.
fn read_only_self() -> io::Result<OwnedFd> {
    match read_only_mount_of_self() {
        Ok(tree) => Ok(tree),
        // Not allowed, or the file has been deleted or replaced since: a copy.
        Err(error) => {
            tracing::debug!(%error, "the init helper is started from a copy in memory");
            sealed_copy_of_self()
        }
    }
}

fn read_only_mount_of_self() -> io::Result<OwnedFd> {
    // The link itself leads to the mount we were started from, which belongs to the namespace we
    // have left and cannot be copied; its text leads to the same file through our own mounts.
    let path = fs_err::read_link("/proc/self/exe")?;
    let tree = rustix::mount::open_tree(
        CWD,
        &path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let (found, ours) = (rustix::fs::fstat(&tree)?, rustix::fs::stat("/proc/self/exe")?);
    if (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino) {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
    let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
    sys::mount_setattr(&tree, read_only)?;
    Ok(tree)
}

fn sealed_copy_of_self() -> io::Result<OwnedFd> {
    let program =
        rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let copy =
        rustix::fs::memfd_create(ARGUMENT_ZERO, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    while rustix::fs::sendfile(&copy, &program, None, 1 << 30)? > 0 {}
    rustix::fs::fcntl_add_seals(
        &copy,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_copy_can_be_read_and_not_written() {
        let copy = sealed_copy_of_self().unwrap();
        let original = fs_err::metadata("/proc/self/exe").unwrap();
        assert_eq!(rustix::fs::fstat(&copy).unwrap().st_size as u64, original.len());
        assert_eq!(rustix::io::pwrite(&copy, b"x", 0), Err(rustix::io::Errno::PERM));
    }
}
