//! Images in and out: the store, archives, a registry on loopback, and what skopeo says to them.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::oci::Image;
use crate::sealed::{Identity, Outcome, Sealed, run};

pub(crate) fn skopeo(sealed: &Sealed, arguments: &[&str]) -> Outcome {
    let mut command = sealed.command("skopeo");
    // No policy file of the machine is asked: it may not have one.
    command.arg("--insecure-policy").args(arguments);
    run(command, Duration::from_secs(120))
}

fn built(sealed: &Sealed) -> String {
    sealed.write(
        "context/Dockerfile",
        "FROM busybox\nRUN mkdir /d && echo content > /d/f && ln /d/f /d/h && chmod 4755 /d/f && rm /etc/group\n\
         LABEL greeting=hello\nCMD [\"cat\", \"/d/f\"]\n",
    );
    let context = sealed.path().join("context").display().to_string();
    sealed.strake(["build", "-t", "made:1", &context]).success();
    "made:1".to_owned()
}

/// A registry of Debian's docker-registry on loopback; ends with the value.
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: String,
    log: PathBuf,
}

impl Registry {
    pub(crate) fn start(sealed: &Sealed) -> Registry {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let storage = sealed.path().join("registry");
        let configuration = sealed.write(
            "registry.yml",
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
                 http: {{addr: '{address}', secret: loopback}}\n",
                storage.display()
            ),
        );
        let mut command = sealed.command("docker-registry");
        let log = sealed.path().join("registry.log");
        let file = fs_err::File::create(&log).unwrap().into_file();
        command.arg("serve").arg(configuration).stdout(file).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let started = Instant::now();
        while TcpStream::connect(&address).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "the registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Registry { child, address, log }
    }

    /// The requests until now, as `GET /v2/team/cache/blobs/sha256:…`.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = fs_err::read_to_string(&self.log).unwrap();
        let requests = log.lines().filter_map(|line| line.split('"').nth(1));
        requests.map(|request| request.trim_end_matches(" HTTP/1.1").to_owned()).collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back() {
    for &identity in Identity::all() {
        let sealed = Sealed::with_busybox(identity);
        let registry = Registry::start(&sealed);
        let name = built(&sealed);
        let remote = format!("{}/some/made:1", registry.address);
        sealed.strake(["tag", &name, &remote]).success();
        let pushed = sealed.strake(["push", "-q", &remote]);
        let digest = pushed.success().trim().to_owned();
        assert!(digest.starts_with("sha256:"), "{pushed}");

        let raw = skopeo(
            &sealed,
            &["inspect", "--tls-verify=false", "--raw", &format!("docker://{remote}")],
        );
        assert_eq!(crate::oci::sha256(raw.success().as_bytes()), digest);

        sealed.strake(["rmi", &remote, &name]).success();
        assert_eq!(sealed.strake(["run", "--rm", "--pull", "never", &remote]).code, 125);
        sealed.strake(["pull", &remote]).success();
        assert_eq!(sealed.strake(["run", "--rm", &remote]).success(), "content\n");
        let script = "stat -c '%a %h' /d/f /d/h; test -e /etc/group || echo gone";
        let outcome = sealed.strake(["run", "--rm", &remote, "sh", "-c", script]);
        assert_eq!(outcome.success(), "4755 2\n4755 2\ngone\n");
    }
}

#[test]
fn a_base_image_is_pulled_when_a_build_needs_it() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let registry = Registry::start(&sealed);
    let remote = format!("{}/base:1", registry.address);
    let name = built(&sealed);
    sealed.strake(["tag", &name, &remote]).success();
    sealed.strake(["push", &remote]).success();
    sealed.strake(["rmi", &remote]).success();
    sealed.write("two/Dockerfile", format!("FROM {remote}\nRUN cat /d/f > /copied\n"));
    let context = sealed.path().join("two").display().to_string();
    sealed.strake(["build", "-t", "two", &context]).success();
    assert_eq!(sealed.strake(["run", "--rm", "two", "cat", "/copied"]).success(), "content\n");
}

#[test]
fn archives_are_read_by_skopeo_and_skopeos_by_us() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let name = built(&sealed);
    let path = |name: &str| sealed.path().join(name).display().to_string();
    let saved = path("saved.tar");
    sealed.strake(["save", "-o", &saved, &name]).success();
    let layout = format!("oci:{}:copied", path("layout"));
    skopeo(&sealed, &["copy", &format!("docker-archive:{saved}"), &layout]).success();
    let config = skopeo(&sealed, &["inspect", "--config", &layout]);
    assert!(config.success().contains("\"greeting\": \"hello\""), "{config}");

    for (transport, file) in [("docker-archive", "docker.tar"), ("oci-archive", "oci.tar")] {
        let archive = path(file);
        skopeo(&sealed, &["copy", &layout, &format!("{transport}:{archive}:again:{transport}")])
            .success();
        sealed.strake(["rmi", &name]);
        sealed.strake(["load", "-i", &archive]).success();
        let loaded = format!("again:{transport}");
        assert_eq!(sealed.strake(["run", "--rm", &loaded]).success(), "content\n", "{transport}");
        sealed.strake(["rmi", &loaded]).success();
    }
}

#[test]
fn a_build_for_several_platforms_is_pushed_as_an_index() {
    let sealed = Sealed::new();
    let registry = Registry::start(&sealed);
    sealed.write("context/Dockerfile", "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\n");
    let context = sealed.path().join("context").display().to_string();
    let remote = format!("{}/many:1", registry.address);
    let platforms = "--platform=linux/amd64,linux/arm64";
    sealed.strake(["build", "--push", platforms, "-t", &remote, &context]).success();
    let docker = format!("docker://{remote}");
    let raw = skopeo(&sealed, &["inspect", "--tls-verify=false", "--raw", &docker]);
    let index: serde_json::Value = serde_json::from_str(raw.success()).unwrap();
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    let platform = |at: usize| &index["manifests"][at]["platform"];
    assert_eq!(
        (&platform(0)["os"], &platform(0)["architecture"]),
        (&"linux".into(), &"amd64".into())
    );
    assert_eq!(platform(1)["architecture"], "arm64");
    for architecture in ["amd64", "arm64"] {
        let choice = ["--override-arch", architecture, "inspect", "--tls-verify=false", "--config"];
        let config = skopeo(&sealed, &[&choice[..], &[&docker]].concat());
        let config: serde_json::Value = serde_json::from_str(config.success()).unwrap();
        assert_eq!(config["config"]["Labels"]["arch"], architecture);
    }
}

#[test]
fn archives_may_be_compressed_as_layers_may_not() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let name = built(&sealed);
    let path = |name: &str| sealed.path().join(name).display().to_string();
    let saved = path("saved.tar");
    sealed.strake(["save", "-o", &saved, &name]).success();
    sealed.strake(["rmi", &name]).success();
    let script = "import sys, lzma, bz2
data = open(sys.argv[1], 'rb').read()
open(sys.argv[1] + '.xz', 'wb').write(lzma.compress(data, preset=0))
open(sys.argv[1] + '.bz2', 'wb').write(bz2.compress(data, 1))";
    for file in [&saved, &path("context/files.tar")] {
        if file.ends_with("files.tar") {
            let mut tar = sealed.command("tar");
            tar.args(["-C", &path("context"), "-cf", file, "Dockerfile"]);
            run(tar, Duration::from_secs(60)).success();
        }
        let mut compress = sealed.command("python3");
        compress.args(["-c", script, file]);
        run(compress, Duration::from_secs(120)).success();
    }
    for kind in ["xz", "bz2"] {
        sealed.strake(["load", "-i", &format!("{saved}.{kind}")]).success();
        assert_eq!(sealed.strake(["run", "--rm", &name]).success(), "content\n", "{kind}");
        sealed.strake(["rmi", &name]).success();
        let files = format!("{}.{kind}", path("context/files.tar"));
        sealed.strake(["import", &files, "imported"]).success();
        sealed.write("two/Dockerfile", "FROM imported\nCOPY --from=imported Dockerfile /\n");
        sealed.strake(["build", &path("two")]).success();
    }
}

#[test]
fn skopeo_reads_the_store_itself() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let context = sealed.path().join("context").display().to_string();
    sealed.write("context/Dockerfile", "FROM busybox\nLABEL only=one\n");
    sealed.strake(["build", "-t", "made", &context]).success();
    let content = sealed.path().join("store/content");
    let file = |name: &str| fs_err::read(content.join(name)).ok();
    let index: serde_json::Value = serde_json::from_slice(&file("index.json").unwrap()).unwrap();
    let names: Vec<&str> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|manifest| {
            manifest["annotations"]["org.opencontainers.image.ref.name"].as_str()
        })
        .collect();
    let name = names.iter().find(|name| name.contains("made")).expect("the image is in index.json");
    let outcome =
        skopeo(&sealed, &["inspect", "--config", &format!("oci:{}:{name}", content.display())]);
    assert!(outcome.success().contains("\"only\": \"one\""), "{outcome}");
}

#[test]
fn an_image_has_names_an_id_and_a_history() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let name = built(&sealed);
    sealed.strake(["tag", &name, "other/name:2"]).success();
    let list = sealed.strake(["images"]);
    assert!(list.success().contains("other/name"), "{list}");
    let inspect = |name: &str| -> serde_json::Value {
        serde_json::from_str(sealed.strake(["image", "inspect", name]).success()).unwrap()
    };
    let (one, two) = (inspect(&name), inspect("other/name:2"));
    let id = one[0]["Id"].as_str().unwrap().to_owned();
    assert_eq!(id, two[0]["Id"]);
    assert_eq!(one[0]["Config"]["Labels"]["greeting"], "hello");
    assert!(sealed.strake(["history", &name]).success().contains("mkdir /d"));

    sealed.strake(["rmi", &name]).success();
    assert_eq!(sealed.strake(["run", "--rm", "--pull", "never", &name, "true"]).code, 125);
    let by_id = &id["sha256:".len()..][..12];
    assert_eq!(sealed.strake(["run", "--rm", by_id]).success(), "content\n");
    assert!(sealed.strake(["rmi", "no/such:image"]).failure(1).contains("no/such:image"));
}

#[test]
fn the_same_build_gives_the_same_layers_in_every_store() {
    let mut layers = Vec::new();
    for &identity in Identity::all() {
        let sealed = Sealed::with_busybox(identity);
        sealed.write(
            "context/Dockerfile",
            "FROM busybox\nCOPY f /f\nRUN mkdir -m 750 /d && chown 12:34 /d && touch -d @1500000000 /d\n",
        );
        sealed.write("context/f", "same");
        let context = sealed.path().join("context").display().to_string();
        let archive = sealed.path().join("tmp/image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let outcome = sealed.strake(["build", "-o", &output, &context]);
        if identity == Identity::Single && outcome.code != 0 {
            // Without ranges chown to others cannot work; the message has to say what to install.
            assert!(outcome.stderr.contains("uidmap"), "{outcome}");
            continue;
        }
        outcome.success();
        let image = Image::read_archive(&archive);
        layers.push(image.layers[2].clone());
    }
    for layer in &layers {
        assert_eq!((layer["d"].uid, layer["d"].gid, layer["d"].mode), (12, 34, 0o750));
    }
}
