//! Who the engine becomes, by who starts it.

use runtime::{IdRange, Identity, RuntimeError};

use crate::harness::Role;
use crate::sandbox::Sandbox;

cases! {
    EVERYBODY:
        a_second_call_returns_the_first_ones_answer,
        with_threads_it_is_refused;
    NOT_ALONE:
        files_of_other_users_can_be_made;
    ONLY_ALONE:
        without_ranges_there_is_root_only;
    ONLY_MASKED:
        a_masked_proc_is_shared_and_said_to_be;
    ONLY_CONTAINED:
        root_without_rights_keeps_its_ids;
    ONLY_FORBIDDEN:
        the_knob_that_forbids_it_is_named;
}

fn a_second_call_returns_the_first_ones_answer(role: Role) {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let first = runtime::isolate().unwrap();
    assert_eq!(runtime::isolate().unwrap(), first);
    if role == Role::Ranges {
        let Identity::Ranges { uids, gids } = first.identity else { panic!("{first:?}") };
        assert_eq!(uids[0], IdRange { inside: 0, outside: uid, count: 1 });
        assert_eq!(gids[0], IdRange { inside: 0, outside: gid, count: 1 });
        assert_eq!((uids[1].inside, gids[1].inside), (1, 1));
    }
}

fn with_threads_it_is_refused(_: Role) {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || receiver.recv());
    let error = runtime::isolate().unwrap_err();
    assert!(matches!(error, RuntimeError::Threads { threads: 2 }), "{error:?}");
    drop(sender);
    thread.join().unwrap().unwrap_err();
}

fn files_of_other_users_can_be_made(_: Role) {
    let sandbox = Sandbox::new();
    let script = "touch /file && chown 1234:2345 /file && stat -c %u:%g /file";
    assert_eq!(sandbox.shell(script), "1234:2345\n");
}

fn without_ranges_there_is_root_only(_: Role) {
    let ours = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let sandbox = Sandbox::new();
    let script = "touch /file; chown 1234:2345 /file 2>/dev/null || stat -c %u:%g /file";
    assert_eq!(sandbox.shell(script), "0:0\n");
    let Identity::Single { uid, gid, reason } = &sandbox.isolation.identity else {
        panic!("{:?}", sandbox.isolation)
    };
    assert_eq!((*uid, *gid), ours);
    assert!(reason.starts_with("/etc/subuid has no range for "), "{reason}");
}

fn a_masked_proc_is_shared_and_said_to_be(_: Role) {
    let sandbox = Sandbox::new();
    let request = sandbox.request(&["cat", "/proc/self/status"]);
    let mut container = sandbox.spawn(&request).unwrap();
    let notes = container.notes().to_vec();
    assert!(notes.iter().any(|note| note.contains("/proc")), "{notes:?}");
    let stdout = crate::sandbox::read(container.take_stdout().unwrap());
    assert!(stdout.contains("Seccomp:\t2"), "{stdout}");
    // It is still the first process of a pid namespace of its own, inside ours.
    assert!(stdout.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")));
    assert_eq!(container.wait().unwrap().code, Some(0));
    assert_eq!(
        sandbox.shell("echo x 2>/dev/null > /proc/sys/vm/swappiness || echo denied"),
        "denied\n"
    );
}

fn root_without_rights_keeps_its_ids(_: Role) {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.isolation.identity, Identity::Root);
    assert_ne!(
        fs_err::read_link("/proc/self/ns/user").unwrap(),
        fs_err::read_link("/proc/1/ns/user").unwrap_or_default()
    );
    let script = "touch /file && chown 1234:2345 /file && stat -c %u:%g /file";
    assert_eq!(sandbox.shell(script), "1234:2345\n");
}

fn the_knob_that_forbids_it_is_named(_: Role) {
    let error = runtime::isolate().unwrap_err();
    assert!(error.to_string().contains("user.max_user_namespaces"), "{error}");
}
