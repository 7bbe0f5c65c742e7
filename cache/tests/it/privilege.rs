//! Running a test with and without rights.
//!
//! Trees of layers have owners, devices and overlay marks. Root makes them as they are; an ordinary
//! user makes them in a user namespace with one id, where owners and devices are recorded instead.
//! Both must come to the same layers, so these tests run in both worlds wherever they are started.

use std::process::Command;

const INSIDE: &str = "STRAKE_TEST_INSIDE";

/// Runs `body` in a user namespace with one id and, if the test is run as root, as root too.
/// `name` is the test's path, e.g. `layers::some_test`.
pub(crate) fn in_both_worlds(name: &str, body: impl Fn()) {
    let inside = std::env::var_os(INSIDE).is_some();
    if inside || rustix::process::geteuid().is_root() {
        body();
    }
    if !inside {
        inside_namespace(name);
    }
}

/// Runs `body` in a user and mount namespace only, where it may mount.
pub(crate) fn in_namespace(name: &str, body: impl Fn()) {
    if std::env::var_os(INSIDE).is_some() {
        body();
    } else {
        inside_namespace(name);
    }
}

fn inside_namespace(name: &str) {
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (util-linux) is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "in a user namespace:\n{text}{errors}"
    );
}
