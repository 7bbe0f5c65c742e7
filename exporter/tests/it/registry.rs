//! Pushing to, and pulling from, a real registry on loopback.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cache::image::unpack::unpack_image;
use cache::layer::Compression;
use cache::oci::{ImageName, Platform};
use cache::remote::{CredentialFiles, PushTarget, Registries, RegistryConfig};
use exporter::{LayerForm, LocalOptions, PushOptions, push, write_local};

use crate::world::{TREE, World, listing, run};

/// Debian's docker-registry with an empty storage.
struct DockerRegistry {
    process: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl DockerRegistry {
    fn start() -> DockerRegistry {
        let directory = tempfile::tempdir().unwrap();
        // The port may be taken between here and there; then another one is tried.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = directory.path().join("config.yml");
            let storage = directory.path().join("storage");
            let text = format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
                storage.display()
            );
            fs_err::write(&config, text).unwrap();
            let mut process = Command::new("docker-registry")
                .arg("serve")
                .arg(&config)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("`docker-registry` is needed (`make test` installs it)");
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline && process.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return DockerRegistry { process, port, _directory: directory };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let mut words = String::new();
            let _ = process.kill();
            if let Some(mut stderr) = process.stderr.take() {
                let _ = stderr.read_to_string(&mut words);
            }
            let _ = process.wait();
            eprintln!("docker-registry did not start on port {port}: {words}");
        }
        panic!("docker-registry does not start");
    }

    fn name(&self, rest: &str) -> ImageName {
        format!("127.0.0.1:{}/{rest}", self.port).parse().unwrap()
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn registries() -> Registries {
    Registries::new(RegistryConfig {
        credentials: CredentialFiles::none(),
        ..RegistryConfig::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_skopeo_copies_and_we_pull() {
    let (registry, world) = (DockerRegistry::start(), World::new());
    let image = world.image();
    let name = registry.name("team/app:1");
    let options = PushOptions::default();
    let digest =
        push(&world.store, &registries(), &image, &name, &options, &|_, _, _| {}).await.unwrap();
    let source = format!("docker://{name}");
    let inspected = run("skopeo", &["inspect", "--tls-verify=false", &source]);
    assert!(inspected.contains(&digest.to_string()), "{inspected}");
    let copy = format!("dir:{}", world.path("copy").display());
    let arguments = ["copy", "--insecure-policy", "--src-tls-verify=false", &source, &copy];
    run("skopeo", &arguments);

    let other = World::new();
    let resolved =
        registries().pull(&other.store, &name, &Platform::host(), &|_, _, _| {}).await.unwrap();
    assert_eq!(resolved.image.manifest_digest, digest);
    assert_eq!(resolved.image.config_digest, image.config_digest);
    let tree = unpack_image(&other.store, &resolved.image).unwrap().unwrap();
    let directory = other.path("out");
    write_local(Some(&tree), LocalOptions::default(), &directory).unwrap();
    assert_eq!(listing(&directory), TREE);
    // A pulled image goes on as it came.
    let next = registry.name("team/next:1");
    let again = push(&other.store, &registries(), &resolved.image, &next, &options, &|_, _, _| {})
        .await
        .unwrap();
    assert_eq!(again, digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_push_compresses_and_sends_nothing() {
    let (registry, world) = (DockerRegistry::start(), World::new());
    let image = world.image();
    let steps = Mutex::new(Vec::new());
    let report = |_: &_, done, all| steps.lock().unwrap().push((done, all));
    for name in ["app:1", "app:2"] {
        steps.lock().unwrap().clear();
        let name = registry.name(name);
        push(&world.store, &registries(), &image, &name, &PushOptions::default(), &report)
            .await
            .unwrap();
    }
    let steps = steps.into_inner().unwrap();
    assert_eq!(steps.len(), 3, "each blob is only asked for: {steps:?}");
    let blobs = world.store.blobs().list().unwrap().len();
    assert_eq!(blobs, 4, "two documents and two layers, each compressed once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pushed_by_digest_and_in_zstd() {
    let (registry, world) = (DockerRegistry::start(), World::new());
    let image = world.image();
    let name = registry.name("app:1");
    let options = PushOptions {
        form: LayerForm { compression: Compression::Zstd(3), force: false },
        target: PushTarget::Digest,
        ..PushOptions::default()
    };
    let digest =
        push(&world.store, &registries(), &image, &name, &options, &|_, _, _| {}).await.unwrap();
    let platform = Platform::host();
    let other = World::new();
    let blobs = other.store.blobs();
    let missing = registries().resolve(&name, &platform, blobs).await.unwrap_err();
    assert!(matches!(missing, cache::remote::RemoteError::NotFound { .. }), "{missing}");
    let pinned = name.with_digest(digest);
    let resolved = registries().resolve(&pinned, &platform, blobs).await.unwrap();
    let media_type = resolved.image.manifest.layers()[0].media_type().to_string();
    assert!(media_type.ends_with("tar+zstd"), "{media_type}");
}
