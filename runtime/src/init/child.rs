//! From a fresh clone in new namespaces to the program: the steps in order.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::mount::{MoveMountFlags, UnmountFlags};
use rustix::process::Signal;

use super::SOCKET;
use super::devices::{self, Terminal};
use super::fixtures::{self, Fixtures};
use super::handshake::{self, Failure, FilePlan, Network, Plan, Received, Report};
use super::root::Root;
use super::{exec, rights};
use crate::error::Stage;
use crate::mount::{
    BuildError, MountPlan, Source, Workspace, attach, clone_tree, is_directory, open_path,
};
use crate::network::{self, NetnsMode, ProxySockets};
use crate::spec::{MASKED_PATHS, READ_ONLY_PATHS};
use crate::sys::{self, Disposition, MountAttributes};

/// Lives the life of a container's first process. Ends by executing the program, or by telling
/// the engine why not.
pub(super) fn run(socket: OwnedFd, network: Network) -> ! {
    let result = prepare(&socket, network).and_then(|fixtures| {
        // The engine closes the socket instead if it needs no container.
        match handshake::receive::<Plan>(&socket) {
            Ok(Some(request)) => become_program(&socket, fixtures, request),
            Ok(None) => std::process::exit(0),
            Err(error) => Err(failure(Stage::Namespaces, None)(error)),
        }
    });
    let Err(failed) = result;
    // If nobody listens any more there is nobody to tell.
    let _ = handshake::send(&socket, &Report::Failed(failed), &[], &[]);
    std::process::exit(1)
}

/// Everything that does not depend on the request.
fn prepare(socket: &OwnedFd, network: Network) -> Result<Fixtures, Failure> {
    die_with_parent().map_err(failure(Stage::Namespaces, None))?;
    sys::set_blocked_signals(&[]);
    sys::set_disposition(libc::SIGPIPE, Disposition::Default);
    rustix::process::setsid().map_err(failure(Stage::Namespaces, None))?;
    // Files get the modes that are asked for; the program gets its own umask.
    rustix::process::umask(Mode::empty());
    let sockets = set_up_network(network)?;
    let fixtures = Fixtures::mount()?;
    let proxied = sockets.is_some();
    let sockets: Vec<OwnedFd> = sockets.map(Into::into).unwrap_or_default();
    let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    handshake::send(socket, &Report::Ready { proxied }, &[], &borrowed)
        .map_err(failure(Stage::Namespaces, None))?;
    Ok(fixtures)
}

fn set_up_network(network: Network) -> Result<Option<ProxySockets>, Failure> {
    let mode = match network {
        Network::Host => return Ok(None),
        Network::None => NetnsMode::LoopbackOnly,
        Network::Proxied => NetnsMode::Proxied,
    };
    network::configure(mode).map_err(|error| Failure {
        stage: Stage::Network,
        object: None,
        message: Some(match error.hint() {
            Some(hint) => format!("{}: {hint}", error.step()),
            None => error.step().to_owned(),
        }),
        errno: error.errno(),
    })
}

/// What a process that becomes another program returns.
pub(super) enum Never {}

fn become_program(
    socket: &OwnedFd,
    mut fixtures: Fixtures,
    request: Received<Plan>,
) -> Result<Never, Failure> {
    let Received { message: plan, attachment, descriptors } = request;
    let mut descriptors: Vec<Option<OwnedFd>> = descriptors.into_iter().map(Some).collect();
    let (filter, mut contents) =
        attachment.split_at_checked(plan.filter.unwrap_or(0) * 8).unwrap_or_default();

    set_names(&plan)?;
    let mut root = mount_root(&plan, &mut descriptors)?;
    let writable_sys = wants_writable_sys(&plan.mounts);
    let default_masks =
        plan.masked == MASKED_PATHS && plan.read_only == READ_ONLY_PATHS && !writable_sys;
    if !default_masks {
        fixtures.unmask(!writable_sys)?;
    }
    if plan.any_device {
        fixtures.allow_devices()?;
    }
    for mount in &plan.mounts {
        perform(mount, &mut root, &mut fixtures, &mut descriptors)?;
    }
    for (number, file) in plan.files.iter().enumerate() {
        let (content, rest) = contents.split_at_checked(file.length).unwrap_or_default();
        contents = rest;
        provide(file, number, content, &mut root)
            .map_err(failure(Stage::File, Some(&file.target)))?;
    }
    if !default_masks {
        fixtures.hide(&root.fd, &plan.masked, &plan.read_only)?;
    }
    if plan.read_only_root {
        let attributes = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
        sys::mount_setattr(&root.fd, attributes).map_err(failure(Stage::Rootfs, None))?;
    }
    let terminal = plan
        .terminal
        .map(|size| devices::open_terminal(&fixtures.dev, size))
        .transpose()
        .map_err(failure(Stage::Terminal, None))?;
    pivot(&root.fd).map_err(failure(Stage::PivotRoot, None))?;

    report_start(socket, &root, terminal.as_ref(), &fixtures.notes)?;
    take_streams(&plan, terminal, &mut descriptors).map_err(failure(Stage::Terminal, None))?;
    // From here on there are the three streams and the socket, which exec closes.
    let socket = keep_only(socket).map_err(failure(Stage::Namespaces, None))?;
    let result = rights::drop_to(&plan, filter).and_then(|()| {
        die_with_parent().map_err(failure(Stage::Namespaces, None))?;
        exec::execute(&plan)
    });
    let Err(failed) = result;
    let _ = handshake::send(&socket, &Report::Failed(failed), &[], &[]);
    std::process::exit(1)
}

/// Being killed when the helper goes is lost with every change of user.
fn die_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

fn set_names(plan: &Plan) -> Result<(), Failure> {
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(failure(Stage::Hostname, Some(name)))?;
    }
    if let Some(name) = &plan.domainname {
        sys::set_domain_name(name).map_err(failure(Stage::Hostname, Some(name)))?;
    }
    Ok(())
}

/// Mounts the root filesystem at its place aside.
fn mount_root(plan: &Plan, trees: &mut [Option<OwnedFd>]) -> Result<Root, Failure> {
    let mut root: Option<Root> = None;
    for mount in &plan.rootfs {
        let at = failure(Stage::Rootfs, None);
        let tree = mount.build(trees, &WORKSPACE).map_err(&at)?;
        match &mut root {
            None => {
                let place = open_path(fixtures::ROOT).map_err(BuildError::from).map_err(&at)?;
                attach(&tree, place).map_err(BuildError::from).map_err(&at)?;
                root = Some(Root::new(tree));
            }
            Some(root) => attach_target(&tree, &mount.target, root)
                .map_err(failure(Stage::Rootfs, Some(&mount.target)))?,
        }
    }
    root.ok_or_else(|| failure(Stage::Rootfs, None)(io::Error::from_raw_os_error(libc::EINVAL)))
}

const WORKSPACE: Workspace<'static> =
    Workspace { spot: fixtures::SPOT, scratch: Some(fixtures::SCRATCH) };

/// Performs one mount of the spec, or moves the fixture that it asks for.
fn perform(
    mount: &MountPlan,
    root: &mut Root,
    fixtures: &mut Fixtures,
    trees: &mut [Option<OwnedFd>],
) -> Result<(), Failure> {
    let target = mount.target.as_str();
    let Source::Filesystem { kind, options } = &mount.source else {
        let at = failure(Stage::Mount, Some(target));
        let tree = mount.build(trees, &WORKSPACE).map_err(&at)?;
        return attach_target(&tree, target, root).map_err(BuildError::from).map_err(&at);
    };
    let moved = match (target, kind.as_str()) {
        ("/proc", "proc") => Some((fixtures::PROC, Stage::Proc)),
        ("/sys", "sysfs") => Some((fixtures::SYS, Stage::Sys)),
        ("/dev", "tmpfs") => Some((fixtures::DEV, Stage::Dev)),
        // Part of the /dev that was moved.
        ("/dev/pts", "devpts") | ("/dev/mqueue", "mqueue") if fixtures.dev_is_placed => {
            return Ok(());
        }
        ("/dev/shm", "tmpfs") if fixtures.dev_is_placed => {
            return resize_shm(fixtures, options).map_err(failure(Stage::Mount, Some("/dev/shm")));
        }
        _ => None,
    };
    match moved {
        Some((from, stage)) => {
            fixtures.dev_is_placed |= stage == Stage::Dev;
            let place = root.target(target, true).map_err(failure(stage, None))?;
            rustix::mount::move_mount(
                CWD,
                from,
                place,
                c"",
                MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
            )
            .map_err(failure(stage, None))
        }
        None => {
            let at = failure(Stage::Mount, Some(target));
            let tree = mount.build(trees, &WORKSPACE).map_err(&at)?;
            attach_target(&tree, target, root).map_err(BuildError::from).map_err(&at)
        }
    }
}

fn attach_target(tree: &OwnedFd, target: &str, root: &mut Root) -> io::Result<()> {
    let place = root.target(target, is_directory(tree)?)?;
    attach(tree, place)
}

fn resize_shm(fixtures: &Fixtures, options: &[(String, Option<String>)]) -> Result<(), BuildError> {
    let size = options.iter().find(|(key, _)| key == "size").and_then(|(_, size)| size.as_deref());
    match size {
        None | Some(devices::SHM_SIZE) => Ok(()),
        Some(size) => {
            let context = rustix::mount::fspick(
                &fixtures.dev,
                "shm",
                rustix::mount::FsPickFlags::FSPICK_CLOEXEC,
            )?;
            rustix::mount::fsconfig_set_string(&context, "size", size)?;
            rustix::mount::fsconfig_reconfigure(&context)?;
            Ok(())
        }
    }
}

fn wants_writable_sys(mounts: &[MountPlan]) -> bool {
    mounts
        .iter()
        .any(|mount| mount.target == "/sys" && mount.attributes.set & libc::MOUNT_ATTR_RDONLY == 0)
}

/// Writes a file that was handed over in memory and mounts it.
fn provide(file: &FilePlan, number: usize, content: &[u8], root: &mut Root) -> io::Result<()> {
    let path = format!("{}/{number}", fixtures::FILES);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(file.mode & 0o7777);
    let written = rustix::fs::openat(CWD, &path, flags, mode)?;
    let mut rest = content;
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&written, rest)?..];
    }
    if (file.uid, file.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(file.uid), Gid::from_raw(file.gid));
        rustix::fs::fchown(&written, Some(uid), Some(gid))?;
    }
    let tree = clone_tree(open_path(&path)?, false)?;
    let read_only = if file.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    sys::mount_setattr(
        &tree,
        MountAttributes {
            set: libc::MOUNT_ATTR_NOSUID
                | libc::MOUNT_ATTR_NODEV
                | libc::MOUNT_ATTR_NOEXEC
                | read_only,
            ..Default::default()
        },
    )?;
    let place = root.target(&file.target, false)?;
    attach(tree, place)
}

/// Makes the mount `root` the root and forgets the old one.
fn pivot(root: &OwnedFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => {
            // The old root now lies over the new one.
            rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        }
        // The first root of a machine (initramfs) cannot be exchanged, only covered.
        Err(rustix::io::Errno::INVAL) => {
            rustix::mount::mount_move(".", "/")?;
            rustix::process::chroot(".")?;
        }
        Err(errno) => return Err(errno.into()),
    }
    rustix::process::chdir("/")?;
    Ok(())
}

fn report_start(
    socket: &OwnedFd,
    root: &Root,
    terminal: Option<&Terminal>,
    notes: &[String],
) -> Result<(), Failure> {
    let mut descriptors: Vec<_> = terminal.iter().map(|terminal| terminal.master.as_fd()).collect();
    descriptors.extend(root.parents.iter().map(AsFd::as_fd));
    let report = Report::Starting {
        terminal: terminal.is_some(),
        stubs: root.stubs.clone(),
        notes: notes.to_vec(),
    };
    handshake::send(socket, &report, &[], &descriptors).map_err(failure(Stage::Exec, None))
}

/// Puts the standard streams in their places. The request's first three descriptors are they,
/// unless there is a terminal.
fn take_streams(
    plan: &Plan,
    terminal: Option<Terminal>,
    descriptors: &mut [Option<OwnedFd>],
) -> io::Result<()> {
    let owner = (Some(Uid::from_raw(plan.uid)), Some(Gid::from_raw(plan.gid)));
    if let Some(terminal) = terminal {
        // The group stays: devpts gives terminals to "tty".
        give(&terminal.slave, owner.0, None)?;
        rustix::process::ioctl_tiocsctty(&terminal.slave)?;
        for number in 0..3 {
            sys::duplicate_onto(&terminal.slave, number)?;
        }
        return Ok(());
    }
    // The streams arrived as descriptors above 3, so none overwrites another.
    for (number, stream) in descriptors.iter_mut().take(3).enumerate() {
        let stream = stream.take().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        if plan.own_streams && number > 0 && plan.uid != 0 {
            // So that /dev/stdout can be opened by a user who is not root.
            give(&stream, owner.0, owner.1)?;
        }
        sys::duplicate_onto(&stream, number as libc::c_int)?;
    }
    Ok(())
}

/// Changes the owner of a stream; that there is no such user is for the change of user to say.
fn give(stream: &OwnedFd, uid: Option<Uid>, gid: Option<Gid>) -> io::Result<()> {
    match rustix::fs::fchown(stream, uid, gid) {
        Err(rustix::io::Errno::INVAL) => Ok(()),
        result => Ok(result?),
    }
}

/// Closes everything but the streams and the socket, which becomes descriptor 3.
fn keep_only(socket: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    sys::duplicate_onto(socket, SOCKET)?;
    sys::close_from(SOCKET + 1)?;
    // SAFETY: just made; whatever object had this number before belongs to the helper, whose
    // memory this process only has a copy of and never returns to.
    let socket = unsafe { OwnedFd::from_raw_fd(SOCKET) };
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(socket)
}

/// An error made a [`Failure`] of `stage`, about `object`.
pub(super) fn failure<E: Into<BuildError>>(
    stage: Stage,
    object: Option<&str>,
) -> impl Fn(E) -> Failure {
    move |error| {
        let BuildError { errno, log } = error.into();
        Failure { stage, object: object.map(str::to_owned), message: log, errno }
    }
}
