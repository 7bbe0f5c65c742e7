//! Builds for several platforms, and for one that is not the machine's.

use fs_err as fs;
use serde_json::Value;

use crate::sealed::{Identity, Outcome, Sealed};

fn build(sealed: &Sealed, arguments: &[&str], dockerfile: &str) -> Outcome {
    sealed.write("context/Dockerfile", dockerfile);
    let context = sealed.path().join("context").display().to_string();
    sealed.strake([&["build"], arguments, &[context.as_str()]].concat())
}

/// A platform that is not this machine's, and its architecture as ELF has it.
fn foreign() -> (&'static str, u8) {
    match std::env::consts::ARCH {
        "s390x" => ("linux/arm64", 183),
        _ => ("linux/s390x", 22),
    }
}

fn document(layout: &str, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
    serde_json::from_slice(&fs::read(format!("{layout}/blobs/{digest}")).unwrap()).unwrap()
}

fn index_of(layout: &str) -> Value {
    let table: Value =
        serde_json::from_slice(&fs::read(format!("{layout}/index.json")).unwrap()).unwrap();
    assert_eq!(table["manifests"].as_array().unwrap().len(), 1, "{table}");
    document(layout, &table["manifests"][0])
}

const STAGES: &str = "FROM --platform=$BUILDPLATFORM busybox AS tools
RUN cat /proc/sys/kernel/random/uuid > /stamp
FROM scratch
ARG TARGETARCH
LABEL arch=$TARGETARCH
COPY --from=tools /stamp /stamp
";

#[test]
fn several_platforms_make_an_index_in_the_order_asked_for_and_build_shared_stages_once() {
    for &identity in Identity::all() {
        let sealed = Sealed::with_busybox(identity);
        let layout = sealed.path().join("tmp/layout").display().to_string();
        let local = sealed.path().join("tmp/local").display().to_string();
        let tar = sealed.path().join("tmp/files.tar").display().to_string();
        let oci = format!("type=oci,tar=false,dest={layout}");
        let tar_output = format!("type=tar,dest={tar}");
        let platforms = "--platform=linux/s390x,linux/amd64,linux/arm/v7";
        build(
            &sealed,
            &[platforms, "-t", "x", "-o", &oci, "-o", &local, "-o", &tar_output],
            STAGES,
        )
        .success();
        let index = index_of(&layout);
        let manifests = index["manifests"].as_array().unwrap();
        let named: Vec<String> = manifests
            .iter()
            .map(|entry| {
                let config = document(&layout, &document(&layout, entry)["config"]);
                let part = |name: &str| entry["platform"][name].as_str().unwrap_or("-").to_owned();
                assert_eq!(config["config"]["Labels"]["arch"], entry["platform"]["architecture"]);
                [part("os"), part("architecture"), part("variant")].join("/")
            })
            .collect();
        assert_eq!(named, ["linux/s390x/-", "linux/amd64/-", "linux/arm/v7"]);
        let stamps = ["linux_s390x", "linux_amd64", "linux_arm_v7"]
            .map(|place| fs::read_to_string(format!("{local}/{place}/stamp")).unwrap());
        assert!(stamps.iter().all(|stamp| *stamp == stamps[0]), "{stamps:?} of {identity:?}");
        let mut archive = tar::Archive::new(fs::File::open(&tar).unwrap());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .filter(|name| name.ends_with("/stamp"))
            .collect();
        assert_eq!(names, ["linux_s390x/stamp", "linux_amd64/stamp", "linux_arm_v7/stamp"]);
    }
}

#[test]
fn files_of_several_platforms_share_a_directory_if_they_do_not_meet() {
    let sealed = Sealed::new();
    let place = |name: &str| sealed.path().join("tmp").join(name).display().to_string();
    let split = |kind: &str, dest: &str, split: bool| {
        format!("type={kind},dest={},platform-split={split}", place(dest))
    };
    let platforms = "--platform=linux/amd64,linux/s390x";
    let apart = "FROM scratch\nARG TARGETARCH\nCOPY <<E /d/$TARGETARCH\nE\n";
    fs::create_dir_all(place("one")).unwrap();
    fs::write(sealed.path().join("tmp/one/old"), "").unwrap();
    let local = split("local", "one", false) + ",mode=delete";
    let tar = split("tar", "one.tar", false);
    build(&sealed, &[platforms, "-o", &local, "-o", &tar], apart).success();
    let names = |directory: &str| {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&place("one")), ["d"]);
    assert_eq!(names(&place("one/d")), ["amd64", "s390x"]);
    let mut archive = tar::Archive::new(fs::File::open(place("one.tar")).unwrap());
    let entries = archive.entries().unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.header().entry_type().is_file());
    let files: Vec<_> = files.map(|entry| entry.path().unwrap().display().to_string()).collect();
    assert_eq!(files, ["d/amd64", "d/s390x"]);
    let same = "FROM scratch\nCOPY <<E /d/same\nE\n";
    let outcome = build(&sealed, &[platforms, "-o", &split("local", "two", false)], same);
    let message = "cannot overwrite /d/same of linux/amd64 with that of linux/s390x";
    assert!(outcome.failure(1).contains(message), "{outcome}");
    // One platform has a directory of its own if that is asked for.
    let one = ["--platform=linux/s390x", "-o", &split("local", "three", true)];
    build(&sealed, &one, same).success();
    assert_eq!(names(&place("three")), ["linux_s390x"]);
}

#[test]
fn a_name_in_the_local_store_finds_the_platform() {
    let sealed = Sealed::new();
    let base = "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\n";
    let platforms = "--platform=linux/amd64,linux/s390x";
    build(&sealed, &[platforms, "-t", "base"], base).success();
    for architecture in ["amd64", "s390x"] {
        let layout = sealed.path().join("tmp").join(architecture).display().to_string();
        let output = format!("type=oci,tar=false,dest={layout}");
        let platform = format!("--platform=linux/{architecture}");
        build(&sealed, &[&platform, "-o", &output], "FROM base\n").success();
        let config = document(&layout, &index_of(&layout)["config"]);
        assert_eq!(config["config"]["Labels"]["arch"], architecture);
    }
}

#[test]
fn one_platform_is_an_index_if_the_build_argument_says_so() {
    let sealed = Sealed::new();
    let layout = sealed.path().join("tmp/layout").display().to_string();
    let output = format!("type=oci,tar=false,dest={layout}");
    let argument = ["--build-arg", "BUILDKIT_MULTI_PLATFORM=1"];
    build(&sealed, &[&argument[..], &["-o", &output]].concat(), "FROM scratch\nLABEL a=b\n")
        .success();
    assert_eq!(index_of(&layout)["manifests"].as_array().unwrap().len(), 1);
}

#[test]
fn docker_archives_refuse_several_platforms() {
    let sealed = Sealed::new();
    let arguments = ["--platform=linux/amd64,linux/s390x", "-o", "type=docker,dest=x.tar"];
    let outcome = build(&sealed, &arguments, "FROM scratch\nLABEL a=b\n");
    assert!(outcome.failure(1).contains("manifest lists"), "{outcome}");
}

#[test]
fn a_program_of_another_machine_says_what_is_missing() {
    let (platform, machine) = foreign();
    let sealed = Sealed::new();
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    if platform == "linux/s390x" {
        program[5] = 2;
    }
    program.resize(64, 0);
    let number = u16::from(machine);
    let numbers = match program[5] {
        2 => [2u16.to_be_bytes(), number.to_be_bytes()],
        _ => [2u16.to_le_bytes(), number.to_le_bytes()],
    };
    program[16..18].copy_from_slice(&numbers[0]);
    program[18..20].copy_from_slice(&numbers[1]);
    sealed.write("context/program", &program);
    let dockerfile = "FROM scratch\nCOPY --chmod=755 program /program\nRUN [\"/program\"]\n";
    let outcome = build(&sealed, &[&format!("--platform={platform}")], dockerfile);
    let error = outcome.failure(1);
    let emulator = format!("qemu-{}", if machine == 22 { "s390x" } else { "aarch64" });
    let is_registered = std::path::Path::new("/proc/sys/fs/binfmt_misc").join(&emulator).exists();
    // With an emulator the program is started, and is no program.
    if !is_registered {
        assert!(error.contains("exec format error") && error.contains(&emulator), "{outcome}");
        assert!(error.contains("$BUILDPLATFORM"), "{outcome}");
    }
}

#[test]
fn an_image_that_is_here_for_another_platform_is_named_with_it() {
    let (platform, _) = foreign();
    let sealed = Sealed::with_busybox(Identity::Caller);
    let outcome = build(&sealed, &[&format!("--platform={platform}")], "FROM busybox\n");
    let error = outcome.failure(1);
    let expected = format!("not for {platform}");
    assert!(error.contains("image `busybox:latest` is here for linux/"), "{outcome}");
    assert!(error.contains(&expected), "{outcome}");
}

#[test]
fn the_source_date_is_the_time_of_everything_and_has_to_be_a_number() {
    let sealed = Sealed::new();
    let layout = sealed.path().join("tmp/layout").display().to_string();
    let local = sealed.path().join("tmp/local").display().to_string();
    let oci = format!("type=oci,tar=false,dest={layout}");
    let dockerfile = "FROM scratch\nCOPY <<E /made\nE\nLABEL a=b\n";
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1000000000"];
    build(&sealed, &[&epoch[..], &["-o", &oci, "-o", &local]].concat(), dockerfile).success();
    let config = document(&layout, &index_of(&layout)["config"]);
    assert_eq!(config["created"], "2001-09-09T01:46:40Z");
    for entry in config["history"].as_array().unwrap() {
        assert_eq!(entry["created"], "2001-09-09T01:46:40Z");
    }
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(format!("{local}/made")).unwrap().mtime(), 1_000_000_000);

    let global = format!("ARG SOURCE_DATE_EPOCH=1000000001\n{dockerfile}");
    build(&sealed, &["-o", &oci, "-o", &local], &global).success();
    let config = document(&layout, &index_of(&layout)["config"]);
    assert_eq!(config["created"], "2001-09-09T01:46:41Z");
    assert_eq!(fs::metadata(format!("{local}/made")).unwrap().mtime(), 1_000_000_001);

    let outcome = build(&sealed, &["--build-arg", "SOURCE_DATE_EPOCH=now"], dockerfile);
    assert!(outcome.failure(1).contains("invalid SOURCE_DATE_EPOCH: now"), "{outcome}");
}

#[test]
fn build_arguments_change_the_sandbox_and_hosts_are_added() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let dockerfile = "FROM busybox
RUN test \"$(hostname)\" = lab
RUN grep -E '^10[.]1[.]2[.]3[[:space:]]+db$' /etc/hosts
RUN grep -E '^[0-9.]+[[:space:]]+gateway$' /etc/hosts
";
    let arguments = [
        "--build-arg=BUILDKIT_SANDBOX_HOSTNAME=lab",
        "--add-host=db:10.1.2.3",
        "--add-host=gateway:host-gateway",
    ];
    build(&sealed, &arguments, dockerfile).success();
}

#[test]
fn cache_mounts_of_another_namespace_are_others() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let step =
        |command: &str| format!("FROM busybox\nRUN --mount=type=cache,target=/c {command}\n");
    let space = |name: &str| format!("--build-arg=BUILDKIT_CACHE_MOUNT_NS={name}");
    build(&sealed, &[&space("one")], &step("touch /c/one")).success();
    build(&sealed, &[&space("two")], &step("test ! -e /c/one")).success();
    build(&sealed, &[&space("one")], &step("test -e /c/one")).success();
}

#[test]
fn secrets_have_a_limit() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=s wc -c < /run/secrets/s\n";
    let file = |size: usize| {
        let path = sealed.write("context/secret", vec![b'x'; size]);
        format!("--secret=id=s,src={}", path.display())
    };
    build(&sealed, &[&file(500_000)], dockerfile).success();
    let outcome = build(&sealed, &["--no-cache", &file(500_001)], dockerfile);
    assert!(outcome.failure(1).contains("secret s too big. max size 500KB"), "{outcome}");
}
