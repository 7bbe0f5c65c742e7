//! What the program may do: users, capabilities, the seccomp filter, masks, limits.

use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType};
use runtime::{ContainerRequest, RuntimeError, Stage};

use crate::harness::Role;
use crate::sandbox::Sandbox;

cases! {
    EVERYBODY:
        root_has_dockers_capabilities_and_filter,
        the_filter_refuses_what_dockers_refuses,
        the_whole_machine_is_masked,
        an_insecure_container_has_every_right_of_the_engine,
        no_new_privileges_is_off_unless_asked_for,
        limits_are_set_as_far_as_allowed,
        overflowing_ids_never_become_root;
    NOT_ALONE:
        a_user_has_no_capabilities_and_its_groups;
    ONLY_ALONE:
        an_id_that_is_not_mapped_is_refused;
}

fn status(sandbox: &Sandbox, request: &ContainerRequest) -> String {
    let mut request = ContainerRequest { rootfs: vec![sandbox.rootfs()], ..request.clone() };
    let arguments = ["cat", "/proc/self/status"].map(str::to_owned).to_vec();
    request.spec.process_mut().as_mut().unwrap().set_args(Some(arguments));
    sandbox.run(&request).stdout
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim()
}

fn root_has_dockers_capabilities_and_filter(_: Role) {
    let sandbox = Sandbox::new();
    let status = status(&sandbox, &sandbox.request(&[]));
    for (name, value) in [
        ("CapInh", "0000000000000000"),
        ("CapPrm", "00000000a80425fb"),
        ("CapEff", "00000000a80425fb"),
        ("CapBnd", "00000000a80425fb"),
        ("CapAmb", "0000000000000000"),
        ("Seccomp", "2"),
        ("Uid", "0\t0\t0\t0"),
        ("Gid", "0\t0\t0\t0"),
    ] {
        assert_eq!(field(&status, name), value, "{name}");
    }
}

fn a_user_has_no_capabilities_and_its_groups(_: Role) {
    let sandbox = Sandbox::new();
    let mut request = sandbox.request(&[]);
    let user = request.spec.process_mut().as_mut().unwrap().user_mut();
    user.set_uid(1234);
    user.set_gid(2345);
    user.set_additional_gids(Some(vec![10, 20]));
    let status = status(&sandbox, &request);
    for (name, value) in [
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "00000000a80425fb"),
        ("CapAmb", "0000000000000000"),
        ("Seccomp", "2"),
        ("Uid", "1234\t1234\t1234\t1234"),
        ("Gid", "2345\t2345\t2345\t2345"),
        ("Groups", "10 20"),
    ] {
        assert_eq!(field(&status, name), value, "{name}");
    }
}

fn the_filter_refuses_what_dockers_refuses(_: Role) {
    let sandbox = Sandbox::new();
    for refused in
        ["mount -t tmpfs none /tmp", "busybox unshare -U true", "hostname other", "busybox dmesg"]
    {
        let script = format!("{refused} 2>/dev/null || echo refused");
        assert_eq!(sandbox.shell(&script), "refused\n", "{refused}");
    }
}

fn the_whole_machine_is_masked(_: Role) {
    let sandbox = Sandbox::new();
    let seen = sandbox.shell(
        "for path in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug; do
             test -e $path && wc -c < $path
         done
         for path in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do
             test -e $path && ls $path
         done
         for path in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_helper; do
             test -e $path && { echo x > $path; } 2>/dev/null && echo $path is writable
         done
         true",
    );
    assert!(seen.lines().all(|line| line == "0"), "{seen}");
}

fn an_insecure_container_has_every_right_of_the_engine(_: Role) {
    let sandbox = Sandbox::new();
    let mut request = sandbox.request(&[]);
    let process = request.spec.process().clone();
    request.spec = runtime::insecure_spec();
    let capabilities = request.spec.process().as_ref().unwrap().capabilities().clone();
    request.spec.set_process(process);
    request.spec.process_mut().as_mut().unwrap().set_capabilities(capabilities);
    let inside = status(&sandbox, &request);
    let ours = fs_err::read_to_string("/proc/self/status").unwrap();
    assert_eq!(field(&inside, "CapEff"), field(&ours, "CapEff"));
    assert_eq!(field(&inside, "Seccomp"), field(&ours, "Seccomp"));
    let script = "mount -t tmpfs none /tmp && echo mounted; hostname inner; hostname; \
                  grep -c -e ' /sys sysfs rw' -e ' /proc/' /proc/self/mounts";
    let arguments = ["sh", "-c", script].map(str::to_owned).to_vec();
    request.spec.process_mut().as_mut().unwrap().set_args(Some(arguments));
    request.rootfs = vec![sandbox.rootfs()];
    let output = sandbox.run(&request);
    assert_eq!(output.stdout, "mounted\ninner\n1\n", "{output:?}");
}

fn no_new_privileges_is_off_unless_asked_for(_: Role) {
    let sandbox = Sandbox::new();
    let mut request = sandbox.request(&[]);
    assert_eq!(field(&status(&sandbox, &request), "NoNewPrivs"), "0");
    request.spec.process_mut().as_mut().unwrap().set_no_new_privileges(Some(true));
    let status = status(&sandbox, &request);
    assert_eq!((field(&status, "NoNewPrivs"), field(&status, "Seccomp")), ("1", "2"));
}

fn limits_are_set_as_far_as_allowed(_: Role) {
    let sandbox = Sandbox::new();
    let mut request = sandbox.request(&["sh", "-c", "ulimit -n; ulimit -Hn"]);
    let limit = |kind, soft, hard: u64| {
        PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().unwrap()
    };
    request.spec.process_mut().as_mut().unwrap().set_rlimits(Some(vec![
        limit(PosixRlimitType::RlimitNofile, 123u64, 456),
        // More than anybody is allowed without CAP_SYS_RESOURCE.
        limit(PosixRlimitType::RlimitNice, 40u64, 40),
    ]));
    assert_eq!(sandbox.run(&request).stdout, "123\n456\n");
}

/// USER overflow or negative numbers never become root (CVE-2024-40635).
fn overflowing_ids_never_become_root(_: Role) {
    let sandbox = Sandbox::new();
    for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
        let mut request = sandbox.request(&["id"]);
        let user = request.spec.process_mut().as_mut().unwrap().user_mut();
        user.set_uid(uid);
        user.set_gid(gid);
        let error = sandbox.spawn(&request).unwrap_err();
        assert!(matches!(error, RuntimeError::InvalidRequest(_)), "{error:?}");
    }
}

fn an_id_that_is_not_mapped_is_refused(_: Role) {
    let sandbox = Sandbox::new();
    assert!(!sandbox.isolation.identity.can_map(1000));
    let mut request = sandbox.request(&["id"]);
    request.spec.process_mut().as_mut().unwrap().user_mut().set_uid(1000);
    let error = sandbox.spawn(&request).unwrap_err();
    assert!(matches!(error, RuntimeError::Setup { stage: Stage::User, .. }), "{error:?}");
    assert!(error.to_string().contains("usermod --add-subuids"), "{error}");
    let runtime::Identity::Single { reason, .. } = &sandbox.isolation.identity else {
        panic!("{:?}", sandbox.isolation)
    };
    assert!(reason.contains("usermod --add-subuids"), "{reason}");
}
