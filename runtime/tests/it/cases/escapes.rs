//! Ways out of the box that others had.

use std::os::unix::fs::symlink;
use std::path::Path;

use runtime::{RuntimeError, Stage};
use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags};

use crate::harness::Role;
use crate::sandbox::{Sandbox, mount};

cases! {
    EVERYBODY:
        a_device_node_from_inside_cannot_be_opened,
        a_working_directory_through_an_open_descriptor_is_refused,
        a_working_directory_through_a_link_stays_inside,
        a_mount_target_through_a_link_stays_inside,
        a_dev_or_proc_that_is_a_link_stays_inside,
        masked_paths_cannot_be_aimed_elsewhere,
        the_engine_cannot_be_overwritten_through_proc_self_exe,
        a_replaced_program_is_started_from_a_sealed_copy,
        the_engine_is_not_visible;
}

/// Who is root may make the node of any disk; reading it would be reading the machine.
fn a_device_node_from_inside_cannot_be_opened(role: Role) {
    let sandbox = Sandbox::new();
    let outside = sandbox.path("outside");
    fs_err::create_dir(&outside).unwrap();
    let script = "for dir in / /dev /dev/shm /bound /memory; do
            mknod ${dir%/}/zero-too c 1 5 2>/dev/null || echo $dir: cannot be made
            head -c 1 ${dir%/}/zero-too 2>/dev/null | wc -c
        done";
    let bound = mount("/bound", "bind", Some(&outside), &["rbind", "rw"]);
    let memory = mount("/memory", "tmpfs", Some(Path::new("tmpfs")), &[]);
    let read = |spec: oci_spec::runtime::Spec| {
        let mut request = sandbox.request(&["sh", "-c", script]);
        let process = request.spec.process().clone();
        request.spec = spec;
        let capabilities = request.spec.process().as_ref().unwrap().capabilities().clone();
        request.spec.set_process(process);
        request.spec.process_mut().as_mut().unwrap().set_capabilities(capabilities);
        let mut mounts = request.spec.mounts().clone().unwrap();
        mounts.extend([bound.clone(), memory.clone()]);
        request.spec.set_mounts(Some(mounts));
        let output = sandbox.run(&request);
        assert_eq!(output.status.code, Some(0), "{output:?}");
        let _ = fs_err::remove_file(outside.join("zero-too"));
        output.stdout
    };
    let confined = read(runtime::default_spec());
    // In a user namespace there are no nodes to be made.
    let ids = fs_err::read_to_string("/proc/self/uid_map").unwrap();
    let is_root = role == Role::Starter && ids.trim().ends_with(&u32::MAX.to_string());
    assert_eq!(confined.contains("cannot be made"), !is_root, "{confined}");
    assert!(!confined.lines().any(|line| line.trim() == "1"), "{confined}");
    // That it is the box which keeps it from them, not this machine.
    if is_root {
        let insecure = read(runtime::insecure_spec());
        assert_eq!(insecure.lines().filter(|line| line.trim() == "1").count(), 4, "{insecure}");
    }
}

/// `WORKDIR /proc/self/fd/N` (CVE-2024-21626).
fn a_working_directory_through_an_open_descriptor_is_refused(_: Role) {
    let sandbox = Sandbox::new();
    for number in 0..20 {
        let mut request = sandbox.request(&["pwd"]);
        let directory = format!("/proc/self/fd/{number}");
        request.spec.process_mut().as_mut().unwrap().set_cwd(directory.into());
        let error = sandbox.spawn(&request).unwrap_err();
        assert!(
            matches!(error, RuntimeError::Setup { stage: Stage::WorkingDirectory, .. }),
            "{error:?}"
        );
    }
}

fn a_working_directory_through_a_link_stays_inside(_: Role) {
    let sandbox = Sandbox::new();
    symlink("../../../../../../etc", sandbox.path("lower/climb")).unwrap();
    symlink("/proc/1/root/etc", sandbox.path("lower/magic")).unwrap();
    let mut request = sandbox.request(&["sh", "-c", "touch here; pwd"]);
    request.spec.process_mut().as_mut().unwrap().set_cwd("/climb".into());
    assert_eq!(sandbox.run(&request).stdout, "/etc\n");
    assert!(sandbox.path("upper/etc/here").exists());
    let mut request = sandbox.request(&["pwd"]);
    request.spec.process_mut().as_mut().unwrap().set_cwd("/magic".into());
    sandbox.spawn(&request).unwrap_err();
}

fn a_mount_target_through_a_link_stays_inside(_: Role) {
    let sandbox = Sandbox::new();
    let outside = sandbox.path("outside");
    fs_err::create_dir(&outside).unwrap();
    let climb = format!("../../../../../..{}", outside.display());
    symlink(&climb, sandbox.path("lower/climb")).unwrap();
    symlink(&outside, sandbox.path("lower/absolute")).unwrap();
    for target in ["/climb/made", "/absolute/made", "/../../made", "/climb"] {
        let mut request = sandbox.request(&["sh", "-c", &format!("touch {target}/x && echo ok")]);
        let mut mounts = request.spec.mounts().clone().unwrap();
        mounts.push(mount(target, "tmpfs", None, &[]));
        request.spec.set_mounts(Some(mounts));
        assert_eq!(sandbox.run(&request).stdout, "ok\n", "{target}");
    }
    assert_eq!(fs_err::read_dir(&outside).unwrap().count(), 0);
}

/// `/dev` is a symlink in the image (CVE-2026-41579).
fn a_dev_or_proc_that_is_a_link_stays_inside(_: Role) {
    let sandbox = Sandbox::new();
    let outside = sandbox.path("outside");
    fs_err::create_dir(&outside).unwrap();
    for name in ["dev", "proc", "sys"] {
        symlink(outside.join(name), sandbox.path("lower").join(name)).unwrap();
    }
    let script = "test -c /dev/null && test -d /proc/1 && cat /proc/self/status";
    assert!(sandbox.shell(script).contains("Seccomp:\t2"));
    assert_eq!(fs_err::read_dir(&outside).unwrap().count(), 0);
}

/// `/dev/null` swapped under masked paths (CVE-2025-31133), procfs writes that go elsewhere
/// (CVE-2025-52881): what hides a file is a device of our own making, not whatever the image calls
/// so.
fn masked_paths_cannot_be_aimed_elsewhere(_: Role) {
    let sandbox = Sandbox::new();
    fs_err::create_dir(sandbox.path("lower/dev")).unwrap();
    symlink("/proc/sysrq-trigger", sandbox.path("lower/dev/null")).unwrap();
    fs_err::create_dir(sandbox.path("lower/dev/pts")).unwrap();
    symlink("/proc/sys/kernel/core_pattern", sandbox.path("lower/dev/pts/0")).unwrap();
    let seen = sandbox.shell(
        "stat -c %t:%T /proc/keys; { echo b > /proc/sysrq-trigger; } 2>/dev/null || echo denied",
    );
    assert_eq!(seen, "1:3\ndenied\n");
}

/// CVE-2019-5736: `#!/proc/self/exe` makes the engine's own program the interpreter.
fn the_engine_cannot_be_overwritten_through_proc_self_exe(_: Role) {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    let ours = fs_err::read("/proc/self/exe").unwrap();
    let script = sandbox.path("lower/bin/script");
    fs_err::write(&script, "#!/proc/self/exe\n").unwrap();
    fs_err::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    // Whatever comes of executing ourselves in there, nothing may be written to.
    if let Ok(container) = sandbox.spawn(&sandbox.request(&["script", "--list"])) {
        let path = format!("/proc/{}/exe", container.pid());
        if let Err(error) = std::fs::OpenOptions::new().write(true).open(&path) {
            // ESRCH, ENOENT: it has ended by now.
            let refused =
                [libc::EROFS, libc::ETXTBSY, libc::EACCES, libc::EPERM, libc::ENOENT, libc::ESRCH];
            assert!(refused.contains(&error.raw_os_error().unwrap()), "{error}");
        } else {
            panic!("{path} can be written to");
        }
        container.wait().unwrap();
    }
    assert!(fs_err::read("/proc/self/exe").unwrap() == ours);

    // While any process executes the file it is "busy" for writers, and we are such a process. What
    // must hold when no longer so: whoever got hold of it through the helper has it read-only.
    let link = format!("/proc/{}/exe", children()[0]);
    let held = rustix::fs::open(link, OFlags::PATH, Mode::empty()).unwrap();
    let flags = rustix::fs::fstatvfs(&held).unwrap().f_flag;
    assert!(flags.contains(StatVfsMountFlags::RDONLY), "{flags:?}");
    let ours = rustix::fs::open("/proc/self/exe", OFlags::PATH, Mode::empty()).unwrap();
    let inode = |fd| rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH).unwrap().st_ino;
    assert_eq!(inode(&held), inode(&ours));
}

/// The same where no read-only view of the program can be had: here, because its path leads to
/// something else by now.
fn a_replaced_program_is_started_from_a_sealed_copy(_: Role) {
    runtime::isolate().unwrap();
    let path = fs_err::read_link("/proc/self/exe").unwrap();
    rustix::mount::mount_bind("/dev/null", &path).unwrap();
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.shell("echo $$"), "1\n");
    let helper = children()[0];
    let program = fs_err::read_link(format!("/proc/{helper}/exe")).unwrap();
    assert!(program.to_string_lossy().starts_with("/memfd:"), "{program:?}");
}

fn children() -> Vec<i32> {
    let pid = std::process::id();
    let text = fs_err::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn the_engine_is_not_visible(_: Role) {
    let sandbox = Sandbox::new();
    let processes = sandbox.shell("ls /proc | grep -c '^[0-9]'");
    // The shell, `ls`, `grep`.
    assert!(processes.trim().parse::<u32>().unwrap() <= 3, "{processes}");
    assert_eq!(sandbox.shell("readlink /proc/1/exe"), "/bin/busybox\n");
}
