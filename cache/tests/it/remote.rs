//! The registry client against registries that behave, and registries that do not.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use cache::Store;
use cache::oci::{Digest, MediaType, Platform};
use cache::remote::{
    CredentialFiles, PushBlob, PushManifest, PushTarget, Registries, RegistryConfig, RemoteError,
};

use crate::registry::{FakeRegistry, Fixture, Reply};

fn config() -> RegistryConfig {
    RegistryConfig {
        credentials: CredentialFiles::none(),
        backoff: Duration::from_millis(5),
        patience: Duration::from_secs(10),
        ..RegistryConfig::default()
    }
}

fn registries() -> Registries {
    Registries::new(config())
}

/// `me:secret` for a registry.
fn with_password(directory: &tempfile::TempDir, registry: &str) -> RegistryConfig {
    let path = directory.path().join("auth.json");
    let text = format!(r#"{{"auths":{{"{registry}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#);
    fs_err::write(&path, text).unwrap();
    RegistryConfig { credentials: CredentialFiles::at(vec![path]), ..config() }
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", None)
}

const BASIC: &str = "Basic bWU6c2VjcmV0";

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_image_is_whole_and_named() {
    let fixture = Fixture::new(b"layer", "amd64");
    let answers = fixture.clone();
    let registry = FakeRegistry::start(move |seen, _| answers.answer(seen));
    let (_directory, store) = store();
    let name = registry.name("team/app:1");
    let progress = Mutex::new(Vec::new());
    let report = |layer, done, all| progress.lock().unwrap().push((layer, done, all));
    let resolved = registries().pull(&store, &name, &amd64(), &report).await.unwrap();
    assert_eq!(resolved.image.manifest_digest, Digest::of(&fixture.manifest));
    assert_eq!(resolved.index, None);
    assert!(store.blobs().contains(&Digest::of(&fixture.layer)).unwrap());
    let found = store.images().get(&name, &amd64()).unwrap().unwrap();
    assert_eq!(found.config_digest, Digest::of(&fixture.config));
    assert_eq!(progress.lock().unwrap().last(), Some(&(0, 5, 5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_bought_once_and_the_password_goes_only_to_its_seller() {
    let fixture = Fixture::new(b"layer", "amd64");
    let registry = FakeRegistry::start(move |seen, _| {
        if seen.path.starts_with("/token") {
            let right = seen.authorization.as_deref() == Some(BASIC)
                && seen.path.contains("scope=repository%3Ateam%2Fapp%3Apull")
                && seen.path.contains("service=fake");
            let token = br#"{"token":"T","expires_in":300}"#;
            return if right { Reply::body(token) } else { Reply::new(401) };
        }
        if seen.path != "/v2/" && seen.authorization.as_deref() == Some("Bearer T") {
            return fixture.answer(seen);
        }
        let challenge = format!(r#"Bearer realm="http://{}/token",service="fake""#, seen.host);
        Reply::new(401).header("WWW-Authenticate", challenge)
    });
    let (directory, store) = store();
    let registries = Registries::new(with_password(&directory, &registry.address.to_string()));
    let name = registry.name("team/app:1");
    registries.pull(&store, &name, &amd64(), &|_, _, _| {}).await.unwrap();
    assert_eq!(registry.requests("GET", "/token").len(), 1);
    for seen in registry.seen() {
        let password = seen.authorization.as_deref() == Some(BASIC);
        assert_eq!(password, seen.path.starts_with("/token"), "{}", seen.line());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_on_another_host_gets_no_password() {
    let thief = FakeRegistry::start(|_, _| Reply::body(br#"{"token":"T"}"#));
    let realm = format!(r#"Bearer realm="http://{}/token""#, thief.address);
    let registry =
        FakeRegistry::start(move |_, _| Reply::new(401).header("WWW-Authenticate", &realm));
    let (directory, store) = store();
    let registries = Registries::new(with_password(&directory, &registry.address.to_string()));
    let resolved = registries.resolve(&registry.name("a:1"), &amd64(), store.blobs()).await;
    let error = resolved.unwrap_err();
    assert!(matches!(error, RemoteError::UntrustedRealm { .. }), "{error}");
    assert!(thief.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_host_gets_no_credential() {
    let fixture = Fixture::new(b"layer", "amd64");
    let storage = {
        let fixture = fixture.clone();
        FakeRegistry::start(move |_, _| Reply::body(&fixture.layer))
    };
    let target = format!("http://{}/somewhere", storage.address);
    let layer = format!("/v2/a/blobs/{}", Digest::of(&fixture.layer));
    let answers = fixture.clone();
    let registry = FakeRegistry::start(move |seen, _| match seen.authorization.as_deref() {
        _ if seen.path == "/v2/" => Reply::new(200),
        Some(BASIC) if seen.path == layer => Reply::new(307).header("Location", &target),
        Some(BASIC) => answers.answer(seen),
        _ => Reply::new(401).header("WWW-Authenticate", r#"Basic realm="x""#),
    });
    let (directory, store) = store();
    let registries = Registries::new(with_password(&directory, &registry.address.to_string()));
    registries.pull(&store, &registry.name("a:1"), &amd64(), &|_, _, _| {}).await.unwrap();
    let [seen] = storage.seen().try_into().unwrap();
    assert_eq!(seen.authorization, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_plain_http_elsewhere_is_not_followed() {
    let registry = FakeRegistry::start(|seen, _| match seen.path.as_str() {
        "/v2/" => Reply::new(200),
        _ => Reply::new(302).header("Location", "http://192.0.2.1/x"),
    });
    let (_directory, store) = store();
    let resolved = registries().resolve(&registry.name("a:1"), &amd64(), store.blobs()).await;
    let error = resolved.unwrap_err();
    assert!(matches!(error, RemoteError::Redirect { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_are_made_later() {
    let fixture = Fixture::new(b"layer", "amd64");
    let registry = FakeRegistry::start(move |seen, number| match (seen.path.as_str(), number) {
        ("/v2/", _) => Reply::new(200),
        (_, 0) => Reply::new(429).header("Retry-After", 1),
        (_, 1) => Reply::new(503),
        _ => fixture.answer(seen),
    });
    let (_directory, store) = store();
    let started = Instant::now();
    registries().resolve(&registry.name("a:1"), &amd64(), store.blobs()).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1), "it waited as long as it was asked to");
    assert_eq!(registry.requests("GET", "/v2/a/manifests/1").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_an_hour() {
    let registry = FakeRegistry::start(|seen, _| match seen.path.as_str() {
        "/v2/" => Reply::new(200),
        _ => Reply::new(429).header("Retry-After", 3600),
    });
    let (_directory, store) = store();
    let resolved = registries().resolve(&registry.name("a:1"), &amd64(), store.blobs()).await;
    let error = resolved.unwrap_err();
    assert!(matches!(error, RemoteError::RateLimited { seconds: 3600, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_silent_is_given_up() {
    let registry = FakeRegistry::start(|seen, _| match seen.path.as_str() {
        "/v2/" => Reply::new(200),
        _ => Reply::silent(),
    });
    let (_directory, store) = store();
    let config = RegistryConfig { patience: Duration::from_millis(200), attempts: 2, ..config() };
    let name = registry.name("a:1");
    let resolved = Registries::new(config).resolve(&name, &amd64(), store.blobs()).await;
    let error = resolved.unwrap_err();
    assert!(matches!(error, RemoteError::Stalled { .. }), "{error}");
    assert_eq!(registry.requests("GET", "/v2/a/manifests/1").len(), 2);
}

/// Fetches a layer of 100,000 bytes from a registry that answers as told.
async fn fetch(
    answer: impl Fn(&[u8], Option<&str>, usize) -> Reply + Send + Sync + 'static,
) -> (Result<(), RemoteError>, bool, FakeRegistry) {
    let layer: Vec<u8> = (0..100_000u32).map(|number| (number % 251) as u8).collect();
    let fixture = Fixture::new(&layer, "amd64");
    let descriptor = fixture.layer_descriptor();
    let registry = FakeRegistry::start(move |seen, number| match seen.path.as_str() {
        "/v2/" => Reply::new(200),
        _ => answer(&layer, seen.range.as_deref(), number),
    });
    let (_directory, store) = store();
    let name = registry.name("a:1");
    let patience = Duration::from_secs(1);
    let config = RegistryConfig { attempts: 3, patience, ..config() };
    let result =
        Registries::new(config).fetch_layer(&name, &descriptor, store.blobs(), &|_, _| {}).await;
    let here = store.blobs().contains(&Digest::of(&fixture.layer)).unwrap();
    let leftovers = walk(&store.root().join("ingest"));
    assert_eq!(leftovers, 0, "nothing half-written stays");
    (result, here, registry)
}

/// Files that are neither locks nor leases.
fn walk(directory: &std::path::Path) -> usize {
    let count = |entry: std::io::Result<fs_err::DirEntry>| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path)
        } else {
            usize::from(!path.ends_with("lock") && !path.ends_with("leases"))
        }
    };
    fs_err::read_dir(directory).unwrap().map(count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_read_is_resumed_where_it_ended() {
    let (result, here, registry) = fetch(|layer, range, number| match (number, range) {
        (0, None) => Reply::body(layer).cut(40_000),
        (1, Some("bytes=40000-")) => Reply::body(&layer[40_000..])
            .status(206)
            .header("Content-Range", "bytes 40000-99999/100000")
            .cut(10_000),
        (2, Some("bytes=50000-")) => Reply::body(&layer[50_000..])
            .status(206)
            .header("Content-Range", "bytes 50000-99999/100000"),
        _ => Reply::new(400),
    })
    .await;
    result.unwrap();
    assert!(here);
    assert_eq!(registry.seen().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_stops_moving_is_resumed() {
    let (result, here, registry) = fetch(|layer, range, number| match (number, range) {
        (0, None) => Reply::body(layer).cut(40_000).hang(),
        (1, Some("bytes=40000-")) => Reply::body(&layer[40_000..])
            .status(206)
            .header("Content-Range", "bytes 40000-99999/100000"),
        _ => Reply::new(400),
    })
    .await;
    result.unwrap();
    assert!(here);
    assert_eq!(registry.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_starts_over() {
    let (result, here, _) = fetch(|layer, _, number| match number {
        0 => Reply::body(layer).cut(40_000),
        _ => Reply::body(layer),
    })
    .await;
    result.unwrap();
    assert!(here);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_range_than_the_one_asked_for_is_refused() {
    let (result, here, _) = fetch(|layer, _, number| match number {
        0 => Reply::body(layer).cut(40_000),
        _ => Reply::body(&layer[..60_000])
            .status(206)
            .header("Content-Range", "bytes 0-59999/100000"),
    })
    .await;
    let error = result.unwrap_err();
    assert!(matches!(error, RemoteError::Protocol { .. }), "{error}");
    assert!(!here);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_another_digest_never_commits() {
    let (result, here, _) = fetch(|layer, _, _| {
        let mut layer = layer.to_vec();
        layer[99_999] ^= 1;
        Reply::body(&layer)
    })
    .await;
    let error = result.unwrap_err();
    assert!(matches!(error, RemoteError::Digest { .. }), "{error}");
    assert!(!here);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_does_not_end_is_refused() {
    let (result, here, _) = fetch(|layer, _, _| {
        let mut layer = layer.to_vec();
        layer.push(0);
        Reply::body(&layer)
    })
    .await;
    let error = result.unwrap_err();
    assert!(matches!(error, RemoteError::Size { .. }), "{error}");
    assert!(!here);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_always_breaks_is_given_up() {
    let (result, here, registry) = fetch(|layer, _, _| Reply::body(layer).cut(0)).await;
    result.unwrap_err();
    assert!(!here);
    assert_eq!(registry.seen().len(), 1 + 3, "the greeting and three tries");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_steps_that_need_a_layer_fetch_it_once() {
    let fixture = Fixture::new(b"layer", "amd64");
    let answers = fixture.clone();
    let registry = FakeRegistry::start(move |seen, _| answers.answer(seen));
    let (_directory, store) = store();
    let (registries, name, layer) =
        (registries(), registry.name("a:1"), fixture.layer_descriptor());
    let fetch = || registries.fetch_layer(&name, &layer, store.blobs(), &|_, _| {});
    let (one, other) = tokio::join!(fetch(), fetch());
    one.unwrap();
    other.unwrap();
    let path = format!("/v2/a/blobs/{}", Digest::of(&fixture.layer));
    assert_eq!(registry.requests("GET", &path).len(), 1);
}

/// Resolves `a:1` where the registry's manifest is `body` of type `media_type`.
async fn resolve(media_type: &str, body: Vec<u8>) -> (String, Vec<String>) {
    let media_type = media_type.to_owned();
    let registry = FakeRegistry::start(move |seen, _| match seen.path.as_str() {
        "/v2/" => Reply::new(200),
        "/v2/a/manifests/1" => Reply::body(&body).header("Content-Type", &media_type),
        _ => Reply::new(404),
    });
    let (_directory, store) = store();
    let result = registries().resolve(&registry.name("a:1"), &amd64(), store.blobs()).await;
    let mut error: &dyn std::error::Error = &result.unwrap_err();
    let mut text = error.to_string();
    while let Some(source) = error.source() {
        text += &format!(": {source}");
        error = source;
    }
    (text, registry.seen().iter().map(|seen| seen.line()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_announced_as_something_else_is_refused() {
    let fixture = Fixture::new(b"layer", "amd64");
    let (text, _) = resolve(MediaType::ImageIndex.as_ref(), fixture.manifest).await;
    assert!(text.contains("announced as"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_is_a_path_reaches_no_request() {
    let fixture = Fixture::new(b"layer", "amd64");
    let evil = String::from_utf8(fixture.manifest)
        .unwrap()
        .replace(&Digest::of(&fixture.config).to_string(), "sha256:../../../../etc/passwd");
    let (text, lines) = resolve(MediaType::ImageManifest.as_ref(), evil.into_bytes()).await;
    assert!(text.contains("cannot be used"), "{text}");
    assert_eq!(lines, ["GET /v2/", "GET /v2/a/manifests/1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_manifest_is_not_read_to_its_end() {
    let body = vec![b' '; 5 << 20];
    let (text, _) = resolve(MediaType::ImageManifest.as_ref(), body).await;
    assert!(text.contains("where 4194304 were promised"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_is_said_to_be_none() {
    let fixture = Fixture::new(b"layer", "amd64");
    let chart = String::from_utf8(fixture.manifest)
        .unwrap()
        .replace("vnd.oci.image.config.v1+json", "vnd.cncf.helm.config.v1+json");
    let (text, _) = resolve(MediaType::ImageManifest.as_ref(), chart.into_bytes()).await;
    assert!(text.contains("vnd.cncf.helm.config.v1+json` is not a container image"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_answers_with_the_platform_asked_for() {
    let images =
        ["amd64", "arm64"].map(|architecture| Fixture::new(architecture.as_bytes(), architecture));
    let entries: Vec<String> = images
        .iter()
        .zip(["amd64", "arm64"])
        .map(|(image, architecture)| {
            format!(
                r#"{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
                MediaType::ImageManifest,
                Digest::of(&image.manifest),
                image.manifest.len()
            )
        })
        .collect();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
        MediaType::ImageIndex,
        entries.join(",")
    );
    let index_digest = Digest::of(index.as_bytes());
    let manifests = images.clone();
    let registry = FakeRegistry::start(move |seen, _| {
        if seen.path == "/v2/a/manifests/1" {
            return Reply::body(index.as_bytes()).header("Content-Type", MediaType::ImageIndex);
        }
        let image = manifests.iter().find(|image| {
            [&image.manifest, &image.config, &image.layer]
                .iter()
                .any(|bytes| seen.path.ends_with(&Digest::of(bytes).hex()))
        });
        image.map_or(Reply::new(404), |image| image.answer(seen))
    });
    let (_directory, store) = store();
    let (registries, name) = (registries(), registry.name("a:1"));
    let arm64 = Platform::new("linux", "arm64", None);
    let resolved = registries.pull(&store, &name, &arm64, &|_, _, _| {}).await.unwrap();
    assert_eq!(resolved.image.manifest_digest, Digest::of(&images[1].manifest));
    assert_eq!(resolved.index, Some(index_digest));
    let pinned = name.with_digest(index_digest);
    let found = store.images().get(&pinned, &arm64).unwrap().expect("found by the index's digest");
    assert_eq!(found.manifest_digest, resolved.image.manifest_digest);
    let riscv = Platform::new("linux", "riscv64", None);
    let error = registries.resolve(&name, &riscv, store.blobs()).await.unwrap_err();
    assert!(error.to_string().ends_with("only for linux/amd64, linux/arm64"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_mounts_uploads_and_ends_with_the_manifest() {
    let fixture = Fixture::new(b"layer", "amd64");
    let storage = FakeRegistry::start(|_, _| Reply::new(201));
    let elsewhere = format!("http://{}/upload?state=1", storage.address);
    let registry = FakeRegistry::start(move |seen, _| {
        let authorized = seen.authorization.as_deref() == Some(BASIC);
        match (seen.method.as_str(), seen.path.as_str()) {
            (_, "/v2/") => Reply::new(200),
            _ if !authorized => Reply::new(401).header("WWW-Authenticate", r#"Basic realm="x""#),
            ("HEAD", _) => Reply::new(404),
            ("POST", path) if path.contains("mount=") => Reply::new(201),
            ("POST", _) => Reply::new(202).header("Location", &elsewhere),
            ("PUT", "/v2/a/manifests/1") => Reply::new(201),
            _ => Reply::new(400),
        }
    });
    let (directory, store) = store();
    let registries = Registries::new(with_password(&directory, &registry.address.to_string()));
    store.blobs().put(&fixture.layer).unwrap();
    store.blobs().put(&fixture.config).unwrap();
    let config = cache::image::document::descriptor(
        MediaType::ImageConfig,
        fixture.config.len() as u64,
        &Digest::of(&fixture.config),
    );
    let blobs = [
        PushBlob { descriptor: fixture.layer_descriptor(), mount_from: Some("base".to_owned()) },
        PushBlob { descriptor: config, mount_from: None },
    ];
    let manifest = PushManifest {
        media_type: MediaType::ImageManifest.to_string(),
        bytes: fixture.manifest.clone(),
    };
    let name = registry.name("a:1");
    let digest = registries
        .push(&name, &manifest, &blobs, store.blobs(), PushTarget::Name, &|_, _, _| {})
        .await
        .unwrap();
    assert_eq!(digest, Digest::of(&fixture.manifest));
    let [upload] = storage.seen().try_into().unwrap();
    assert_eq!(upload.body, fixture.config);
    assert_eq!(upload.authorization, None, "another host gets no credential");
    assert!(upload.path.starts_with("/upload?state=1&digest=sha256%3A"), "{}", upload.path);
    let last = registry.seen().pop().unwrap();
    assert_eq!((last.line().as_str(), &last.body), ("PUT /v2/a/manifests/1", &fixture.manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_named_as_the_reason() {
    let registry = FakeRegistry::start(|seen, _| match seen.path.as_str() {
        "/v2/" => Reply::new(200),
        _ => Reply::body(br#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#)
            .status(401)
            .header("WWW-Authenticate", r#"Basic realm="x""#),
    });
    let (directory, store) = store();
    let registries = Registries::new(with_password(&directory, &registry.address.to_string()));
    let resolved = registries.resolve(&registry.name("a:1"), &amd64(), store.blobs()).await;
    let error = resolved.unwrap_err();
    assert!(matches!(error, RemoteError::Unauthorized { authenticated: true, .. }), "{error}");
    assert!(error.to_string().ends_with("refuses access: who are you"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_layers_address_gets_no_credential() {
    let fixture = Fixture::new(b"layer", "amd64");
    let elsewhere = {
        let fixture = fixture.clone();
        FakeRegistry::start(move |_, _| Reply::body(&fixture.layer))
    };
    let registry = FakeRegistry::start(move |seen, _| match seen.authorization {
        _ if seen.path == "/v2/" => Reply::new(200),
        None => Reply::new(401).header("WWW-Authenticate", r#"Basic realm="x""#),
        Some(_) => Reply::new(404),
    });
    let (directory, store) = store();
    let registries = Registries::new(with_password(&directory, &registry.address.to_string()));
    let mut layer = fixture.layer_descriptor();
    let urls = ["http://192.0.2.1/never".to_owned(), format!("http://{}/layer", elsewhere.address)];
    layer.set_urls(Some(urls.into()));
    let name = registry.name("a:1");
    registries.fetch_layer(&name, &layer, store.blobs(), &|_, _| {}).await.unwrap();
    let [seen] = elsewhere.seen().try_into().unwrap();
    assert_eq!(seen.authorization, None);
    assert!(registry.seen().iter().any(|seen| seen.authorization.as_deref() == Some(BASIC)));
}

#[test]
fn a_credential_helper_is_asked_for_its_registry() {
    // A helper is found by PATH, which belongs to a process: this test is one of its own.
    const INSIDE: &str = "STRAKE_TEST_CREDENTIALS";
    if let Some(directory) = std::env::var_os(INSIDE) {
        return ask_a_helper(directory.as_ref());
    }
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("docker-credential-fake");
    let script = "#!/bin/sh\nread -r server || [ -n \"$server\" ] && echo \"$1 $server\" >\"$STRAKE_TEST_CREDENTIALS/asked\"\necho '{\"Username\":\"me\",\"Secret\":\"secret\"}'\n";
    fs_err::write(&program, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(&program, executable).unwrap();
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let name = "remote::a_credential_helper_is_asked_for_its_registry";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("PATH", path)
        .env(INSIDE, directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::main]
async fn ask_a_helper(directory: &std::path::Path) {
    let fixture = Fixture::new(b"layer", "amd64");
    let registry = FakeRegistry::start(move |seen, _| match seen.authorization.as_deref() {
        _ if seen.path == "/v2/" => Reply::new(200),
        Some(BASIC) => fixture.answer(seen),
        _ => Reply::new(401).header("WWW-Authenticate", r#"Basic realm="x""#),
    });
    let file = directory.join("config.json");
    let text = format!(r#"{{"credHelpers":{{"{}":"fake"}}}}"#, registry.address);
    fs_err::write(&file, text).unwrap();
    let credentials = CredentialFiles::at(vec![file]);
    let registries = Registries::new(RegistryConfig { credentials, ..config() });
    let (_directory, store) = store();
    registries.resolve(&registry.name("a:1"), &amd64(), store.blobs()).await.unwrap();
    let asked = fs_err::read_to_string(directory.join("asked")).unwrap();
    assert_eq!(asked.trim(), format!("get {}", registry.address));
}
