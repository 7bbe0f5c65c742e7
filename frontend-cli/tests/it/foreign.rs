//! A stage for another machine runs through the interpreter that is registered for its programs.
//!
//! The registration is made in a user namespace of the test's own, which kernels from 6.7 on allow;
//! the machine's is left alone. The interpreter is the machine's own busybox: called with the path of
//! a foreign program named `echo`, it is `echo`.

use std::process::Command;
use std::time::Duration;

use fs_err as fs;

use crate::sealed::{Identity, Sealed, base_image, run};

/// Mounts a table of interpreters, registers `$1` and runs the rest.
const REGISTER: &str = r#"
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf '%s' "$1" > /proc/sys/fs/binfmt_misc/register
shift
exec "$@"
"#;

/// A program for s390x, as far as the kernel looks at it before it refuses.
fn program() -> Vec<u8> {
    let mut program = b"\x7fELF\x02\x02\x01".to_vec();
    program.resize(64, 0);
    program[16..20].copy_from_slice(&[0, 2, 0, 22]);
    program
}

fn in_namespace(command: &mut Command, entry: &str) {
    command.args([
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-ec",
        REGISTER,
        "register",
        entry,
    ]);
}

#[test]
fn programs_of_another_machine_run_through_the_registered_interpreter() {
    if std::env::consts::ARCH == "s390x" {
        return;
    }
    let sealed = Sealed::of(Identity::Caller);
    let mut tar = sealed.command("tar");
    tar.arg("-xf").arg(base_image("busybox")).arg("-C").arg(sealed.path());
    tar.args(["--wildcards", "*bin/busybox"]);
    run(tar, Duration::from_secs(60)).success();
    let interpreter = ["bin/busybox", "usr/bin/busybox"].map(|name| sealed.path().join(name));
    let interpreter = interpreter.iter().find(|path| path.is_file()).expect("busybox");
    let magic: String = program()[..20].iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let entry = |flags: &str| format!(":qemu-s390x:M::{magic}::{}:{flags}", interpreter.display());

    let mut probe = sealed.command("unshare");
    in_namespace(&mut probe, &entry("F"));
    probe.arg("true");
    let probed = run(probe, Duration::from_secs(60));
    if probed.code != 0 {
        eprintln!("left out: needs binfmt_misc in user namespaces (Linux 6.7): {}", probed.stderr);
        return;
    }

    fs::create_dir_all(sealed.path().join("context")).unwrap();
    fs::write(sealed.path().join("context/echo"), program()).unwrap();
    let dockerfile =
        "FROM scratch\nCOPY --chmod=755 echo /echo\nRUN [\"/echo\", \"ran\", \"there\"]\n";
    fs::write(sealed.path().join("context/Dockerfile"), dockerfile).unwrap();
    let build = |entry: &str| {
        let mut command = sealed.command("unshare");
        in_namespace(&mut command, entry);
        command.arg(sealed.program()).args(["build", "--progress=plain", "--no-cache"]);
        command.args(["--platform=linux/s390x", "context"]);
        run(command, Duration::from_secs(120))
    };
    let outcome = build(&entry("F"));
    outcome.success();
    assert!(outcome.stderr.contains("ran there"), "{outcome}");
    // Without F the interpreter is looked for in the container, where it is not.
    let outcome = build(&entry(""));
    assert!(
        outcome.failure(1).contains("`qemu-s390x` was registered without the flag F"),
        "{outcome}"
    );
}
