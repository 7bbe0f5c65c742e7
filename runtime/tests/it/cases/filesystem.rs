//! What the container sees of files: the root, /proc, /sys, /dev, mounts and injected files.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use runtime::{ContainerRequest, InjectedFile, SCRATCH_OPTION, SUBPATH_OPTION};

use crate::harness::Role;
use crate::sandbox::{Sandbox, mount};

cases! {
    EVERYBODY:
        changes_go_to_the_upper_directory,
        a_deleted_file_becomes_a_whiteout,
        the_devices_are_dockers,
        nothing_of_the_fixtures_is_left_in_the_root,
        mount_targets_leave_no_trace,
        a_bind_can_be_read_only,
        a_bind_of_a_file_covers_a_file,
        a_subpath_stays_inside_its_source,
        writes_to_a_scratch_overlay_are_gone_afterwards,
        a_tmpfs_has_its_size,
        the_shared_memory_has_its_size,
        injected_files_are_there_and_read_only,
        a_socket_can_be_bound,
        a_read_only_root_is_read_only,
        an_upper_directory_can_be_used_again,
        many_layers_with_long_paths_are_mounted,
        the_engine_mounts_and_unmounts_a_snapshot;
}

/// The kernel refuses an upper directory that a `volatile` overlay has used before; one snapshot
/// is mounted several times nevertheless: to copy into it, to run in it.
fn an_upper_directory_can_be_used_again(_: Role) {
    let sandbox = Sandbox::new();
    let request = sandbox.request(&["sh", "-c", "echo x >> /etc/log; cat /etc/log"]);
    let target = sandbox.path("target");
    fs_err::create_dir(&target).unwrap();
    {
        let _guard = runtime::mount(&request.rootfs, &target).unwrap();
        fs_err::write(target.join("etc/log"), "copied\n").unwrap();
    }
    assert_eq!(sandbox.run(&request).stdout, "copied\nx\n");
    assert_eq!(sandbox.run(&request).stdout, "copied\nx\nx\n");
}

fn with_mounts(
    sandbox: &Sandbox,
    script: &str,
    extra: &[oci_spec::runtime::Mount],
) -> ContainerRequest {
    let mut request = sandbox.request(&["sh", "-c", script]);
    let mut mounts = request.spec.mounts().clone().unwrap();
    mounts.extend_from_slice(extra);
    request.spec.set_mounts(Some(mounts));
    request
}

fn changes_go_to_the_upper_directory(_: Role) {
    let sandbox = Sandbox::new();
    sandbox.shell("echo hello > /etc/motd; mkdir /srv");
    assert_eq!(fs_err::read_to_string(sandbox.path("upper/etc/motd")).unwrap(), "hello\n");
    assert!(sandbox.path("upper/srv").is_dir());
    assert!(!sandbox.path("lower/etc/motd").exists());
}

fn a_deleted_file_becomes_a_whiteout(_: Role) {
    let sandbox = Sandbox::new();
    fs_err::create_dir(sandbox.path("lower/data")).unwrap();
    fs_err::write(sandbox.path("lower/data/file"), "x").unwrap();
    fs_err::write(sandbox.path("lower/etc/file"), "x").unwrap();
    sandbox.shell("rm /etc/file && rm -r /data && mkdir /data && touch /data/new");
    let whiteout = fs_err::symlink_metadata(sandbox.path("upper/etc/file")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let mut value = [0; 8];
    let length =
        rustix::fs::lgetxattr(sandbox.path("upper/data"), "user.overlay.opaque", &mut value);
    assert_eq!((length, value[0]), (Ok(1), b'y'));
    assert!(sandbox.path("upper/data/new").exists());
}

fn the_devices_are_dockers(_: Role) {
    let sandbox = Sandbox::new();
    let host = || fs_err::metadata("/dev/null").unwrap();
    assert!(host().file_type().is_char_device() && host().rdev() == rustix::fs::makedev(1, 3));
    let listing = sandbox.shell(
        "for name in null zero full random urandom tty; do stat -c '%n %F %t:%T' /dev/$name; done
         for name in fd stdin stdout stderr ptmx; do echo $name $(readlink /dev/$name); done
         echo x > /dev/null; head -c 2 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c
         ls /dev | grep -vx core; stat -c %a /dev/shm",
    );
    assert_eq!(
        listing,
        "/dev/null character special file 1:3\n\
         /dev/zero character special file 1:5\n\
         /dev/full character special file 1:7\n\
         /dev/random character special file 1:8\n\
         /dev/urandom character special file 1:9\n\
         /dev/tty character special file 5:0\n\
         fd /proc/self/fd\nstdin /proc/self/fd/0\nstdout /proc/self/fd/1\n\
         stderr /proc/self/fd/2\nptmx pts/ptmx\n\
         2\n3\n\
         fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\n\
         urandom\nzero\n1777\n"
    );
    assert!(host().file_type().is_char_device() && host().rdev() == rustix::fs::makedev(1, 3));
    // runc makes this link where the kernel has what it leads to.
    let core = sandbox.shell("readlink /dev/core || true");
    assert_eq!(core == "/proc/kcore\n", fs_err::exists("/proc/kcore").unwrap(), "{core}");
}

fn nothing_of_the_fixtures_is_left_in_the_root(_: Role) {
    let sandbox = Sandbox::new();
    let mounts = sandbox.shell("cat /proc/self/mounts");
    let targets: Vec<&str> = mounts.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    for target in ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/proc/sys"]
    {
        assert!(targets.contains(&target), "{target} is missing in {targets:?}");
    }
    assert_eq!(targets.iter().filter(|target| **target == "/").count(), 1, "{mounts}");
    assert!(!mounts.contains("/spot") && !mounts.contains("/scratch"), "{mounts}");
    // As BuildKit leaves them in a layer: empty directories.
    for name in ["dev", "proc", "sys"] {
        let entries = fs_err::read_dir(sandbox.path("upper").join(name)).unwrap().count();
        assert_eq!(entries, 0, "{name}");
    }
}

fn mount_targets_leave_no_trace(_: Role) {
    let sandbox = Sandbox::new();
    let lower = fs_err::metadata(sandbox.path("lower/etc")).unwrap();
    let mut request = with_mounts(
        &sandbox,
        "test -d /cache/deep && cat /etc/resolv.conf",
        &[mount("/cache/deep", "tmpfs", None, &[])],
    );
    request.files.push(file("/etc/resolv.conf", "nameserver 192.0.2.1\n"));
    request.files.push(file("/run/secrets/key", "s"));
    let output = sandbox.run(&request);
    assert_eq!(output.stdout, "nameserver 192.0.2.1\n", "{output:?}");
    for name in ["cache", "run", "etc/resolv.conf"] {
        assert!(!sandbox.path("upper").join(name).exists(), "{name} was left");
    }
    let upper = fs_err::metadata(sandbox.path("upper/etc")).unwrap();
    assert_eq!((lower.mtime(), lower.mtime_nsec()), (upper.mtime(), upper.mtime_nsec()));
}

fn file(target: &str, content: &str) -> InjectedFile {
    InjectedFile {
        target: target.into(),
        content: content.into(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        read_only: true,
    }
}

fn a_bind_can_be_read_only(_: Role) {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    fs_err::create_dir(&source).unwrap();
    fs_err::write(source.join("file"), "x").unwrap();
    let script = "cat /ro/file; touch /rw/new && touch /ro/new 2>/dev/null || echo denied";
    let request = with_mounts(
        &sandbox,
        script,
        &[
            mount("/ro", "bind", Some(&source), &["rbind", "ro"]),
            mount("/rw", "bind", Some(&source), &["bind"]),
        ],
    );
    assert_eq!(sandbox.run(&request).stdout, "xdenied\n");
    assert!(source.join("new").exists());
}

fn a_bind_of_a_file_covers_a_file(_: Role) {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    fs_err::write(&source, "bound").unwrap();
    fs_err::write(sandbox.path("lower/etc/there"), "covered").unwrap();
    let request = with_mounts(
        &sandbox,
        "cat /a/new/file /etc/there",
        &[
            mount("/a/new/file", "bind", Some(&source), &["ro"]),
            mount("/etc/there", "bind", Some(&source), &["ro"]),
        ],
    );
    assert_eq!(sandbox.run(&request).stdout, "boundbound");
}

/// `--mount=from=image,source=link-to-/` stays in the image (CVE-2024-1753).
fn a_subpath_stays_inside_its_source(_: Role) {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    fs_err::create_dir_all(source.join("etc")).unwrap();
    fs_err::write(source.join("etc/inside"), "inside").unwrap();
    fs_err::os::unix::fs::symlink("/etc", source.join("link")).unwrap();
    fs_err::os::unix::fs::symlink("../../../../etc", source.join("climb")).unwrap();
    for subpath in ["link", "climb", "../../etc", "/etc"] {
        let option = format!("{SUBPATH_OPTION}={subpath}");
        let over = format!("lowerdir={}:{}", source.display(), sandbox.path("lower").display());
        for seen in [
            mount("/seen", "bind", Some(&source), &["ro", &option]),
            mount("/seen", "overlay", None, &["ro", &option, &over]),
        ] {
            let request = with_mounts(&sandbox, "cat /seen/inside", &[seen]);
            assert_eq!(sandbox.run(&request).stdout, "inside", "{subpath}");
        }
    }
}

fn writes_to_a_scratch_overlay_are_gone_afterwards(_: Role) {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    fs_err::create_dir(&source).unwrap();
    fs_err::write(source.join("file"), "old").unwrap();
    let lowerdir = format!("lowerdir={}", source.display());
    let script = "echo new > /m/file && touch /m/other && cat /m/file && ls /m";
    let request = with_mounts(
        &sandbox,
        script,
        &[mount("/m", "overlay", None, &[&lowerdir, SCRATCH_OPTION])],
    );
    let output = sandbox.run(&request);
    assert_eq!(output.stdout, "new\nfile\nother\n", "{output:?}");
    assert_eq!(fs_err::read_to_string(source.join("file")).unwrap(), "old");
    assert!(!source.join("other").exists());
}

fn a_tmpfs_has_its_size(_: Role) {
    let sandbox = Sandbox::new();
    let request = with_mounts(
        &sandbox,
        "stat -c %a /t; dd if=/dev/zero of=/t/file bs=1024 count=2048 2>/dev/null || echo full",
        &[mount("/t", "tmpfs", None, &["size=1048576", "mode=1770"])],
    );
    assert_eq!(sandbox.run(&request).stdout, "1770\nfull\n");
}

fn the_shared_memory_has_its_size(_: Role) {
    let sandbox = Sandbox::new();
    let mut request = sandbox.request(&["sh", "-c", "df -k /dev/shm | tail -n 1"]);
    let mut mounts = request.spec.mounts().clone().unwrap();
    for wanted in &mut mounts {
        if wanted.destination() == std::path::Path::new("/dev/shm") {
            *wanted = mount("/dev/shm", "tmpfs", None, &["size=8388608"]);
        }
    }
    request.spec.set_mounts(Some(mounts));
    let line = sandbox.run(&request).stdout;
    assert_eq!(line.split_whitespace().nth(1), Some("8192"), "{line}");
}

fn injected_files_are_there_and_read_only(role: Role) {
    let sandbox = Sandbox::new();
    let owner = if role == Role::Alone { 0 } else { 1000 };
    let mut request = sandbox.request(&[
        "sh",
        "-c",
        "stat -c '%a %u:%g' /run/secrets/key; cat /run/secrets/key; grep ' /run/secrets/key ' \
         /proc/self/mounts | grep -c 'ro,nosuid,nodev,noexec'; \
         echo x 2>/dev/null > /run/secrets/key || echo denied; echo more >> /etc/hosts; \
         cat /etc/hosts",
    ]);
    let secret = InjectedFile {
        target: "/run/secrets/key".into(),
        content: b"\xffsecret\0\n".to_vec(),
        mode: 0o400,
        uid: owner,
        gid: owner,
        read_only: true,
    };
    let hosts = InjectedFile { read_only: false, ..file("/etc/hosts", "127.0.0.1 localhost\n") };
    request.files = vec![secret, hosts];
    let mut container = sandbox.spawn(&request).unwrap();
    let mut stdout = Vec::new();
    use std::io::Read;
    std::fs::File::from(container.take_stdout().unwrap()).read_to_end(&mut stdout).unwrap();
    let expected = [
        format!("400 {owner}:{owner}\n").into_bytes(),
        b"\xffsecret\0\n1\ndenied\n127.0.0.1 localhost\nmore\n".to_vec(),
    ]
    .concat();
    assert_eq!(String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&expected));
    container.wait().unwrap();
    assert!(!sandbox.path("upper/run").exists());
}

fn a_socket_can_be_bound(_: Role) {
    let sandbox = Sandbox::new();
    let path = sandbox.path("agent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let request = with_mounts(
        &sandbox,
        "test -S /run/buildkit/ssh_agent.0 && echo socket",
        &[mount("/run/buildkit/ssh_agent.0", "bind", Some(&path), &[])],
    );
    assert_eq!(sandbox.run(&request).stdout, "socket\n");
    assert!(!sandbox.path("upper/run").exists());
}

fn a_read_only_root_is_read_only(_: Role) {
    let sandbox = Sandbox::new();
    let mut request = sandbox.request(&[
        "sh",
        "-c",
        "touch /x 2>/dev/null || echo denied; touch /dev/shm/x && echo ok",
    ]);
    request.spec.root_mut().as_mut().unwrap().set_readonly(Some(true));
    assert_eq!(sandbox.run(&request).stdout, "denied\nok\n");
}

fn many_layers_with_long_paths_are_mounted(_: Role) {
    let sandbox = Sandbox::new();
    let base = sandbox.path(&"long".repeat(40));
    let mut layers = Vec::new();
    for number in 0..60 {
        let layer = base.join(number.to_string());
        fs_err::create_dir_all(&layer).unwrap();
        fs_err::write(layer.join("top"), number.to_string()).unwrap();
        layers.insert(0, layer.display().to_string());
    }
    layers.push(sandbox.path("lower").display().to_string());
    let mut request = sandbox.request(&["cat", "/top"]);
    let options = [
        format!("lowerdir={}", layers.join(":")),
        format!("upperdir={}", sandbox.path("upper").display()),
        format!("workdir={}", sandbox.path("work").display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    request.rootfs = vec![mount("/", "overlay", None, &options)];
    assert!(layers.join(":").len() > 8192);
    assert_eq!(sandbox.run(&request).stdout, "59");
}

fn the_engine_mounts_and_unmounts_a_snapshot(_: Role) {
    let sandbox = Sandbox::new();
    let target = sandbox.path("target");
    fs_err::create_dir(&target).unwrap();
    {
        let _guard = runtime::mount(&[sandbox.rootfs()], &target).unwrap();
        fs_err::write(target.join("etc/written"), "x").unwrap();
        fs_err::read(target.join("bin/busybox")).unwrap();
    }
    assert_eq!(fs_err::read_dir(&target).unwrap().count(), 0);
    assert!(sandbox.path("upper/etc/written").exists());
    let read_only = mount("/", "bind", Some(&sandbox.path("lower")), &["ro"]);
    let _guard = runtime::mount(&[read_only], &target).unwrap();
    let error = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(target.join("new"))
        .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    let error = runtime::mount(&[read_only_of("/no/such/source")], &target).unwrap_err();
    assert!(error.to_string().contains("/no/such/source"), "{error}");
}

fn read_only_of(source: &str) -> oci_spec::runtime::Mount {
    mount("/", "bind", Some(source.as_ref()), &["ro"])
}
