//! Registry credentials, from where `docker login` and `podman login` put them.
//!
//! `REGISTRY_AUTH_FILE` alone where it is set; otherwise the containers tools' `auth.json` and
//! Docker's `config.json`, in this order. Within a file a helper program for exactly this registry
//! goes before a stored password, and a stored password before the general helper. Keys that name
//! a repository below the registry win over those that name the registry, the longest first, as
//! containers-auth.json(5) has it.
//!
//! Files are read when a registry asks for credentials, never before, and nothing here is printed
//! or logged.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::RemoteError;

/// How long a helper program may think; some ask a key ring that asks the user.
const HELPER_PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer of a helper, in bytes.
const HELPER_LIMIT: u64 = 1 << 20;
/// The key under which everybody keeps Docker Hub.
const HUB_KEY: &str = "index.docker.io";

/// What proves to a registry who we are.
#[derive(Clone, PartialEq)]
pub(super) enum Credential {
    /// User name and password.
    Basic { user: String, password: String },
    /// A long-lived token that buys access tokens.
    Identity(String),
}

/// Where credentials are looked for.
#[derive(Debug, Clone, Default)]
pub struct CredentialFiles {
    files: Vec<PathBuf>,
}

impl CredentialFiles {
    /// No credentials at all.
    pub fn none() -> CredentialFiles {
        CredentialFiles::default()
    }

    /// These files, first one first. Files that do not exist are passed over.
    pub fn at(files: Vec<PathBuf>) -> CredentialFiles {
        CredentialFiles { files }
    }

    /// Where the environment of this process says they are.
    pub fn from_env() -> CredentialFiles {
        CredentialFiles::from_lookup(|name| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        })
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<PathBuf>) -> CredentialFiles {
        if let Some(only) = lookup("REGISTRY_AUTH_FILE") {
            return CredentialFiles { files: vec![only] };
        }
        let home = lookup("HOME");
        let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let runtime = lookup("XDG_RUNTIME_DIR").map(|base| base.join("containers/auth.json"));
        let config = lookup("XDG_CONFIG_HOME")
            .or_else(|| below_home(".config"))
            .map(|base| base.join("containers/auth.json"));
        let docker = lookup("DOCKER_CONFIG")
            .or_else(|| below_home(".docker"))
            .map(|base| base.join("config.json"));
        CredentialFiles { files: [runtime, config, docker].into_iter().flatten().collect() }
    }

    /// The credentials for a repository of a registry, if there are any.
    pub(super) async fn lookup(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, RemoteError> {
        for path in &self.files {
            let failed = |source| RemoteError::CredentialFile { path: path.clone(), source };
            let bytes = match fs_err::read(path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let file: File =
                serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
            if let Some(credential) = file.lookup(registry, repository).await? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Stored>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "lowercase")]
struct Stored {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl File {
    async fn lookup(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, RemoteError> {
        let keys = keys(registry, repository);
        let by_key = |key: &String| self.cred_helpers.iter().find(|(own, _)| normal(own) == *key);
        if let Some((server, helper)) = keys.iter().find_map(by_key) {
            return ask(helper, server).await;
        }
        let stored = |key: &String| self.auths.iter().find(|(own, _)| normal(own) == *key);
        if let Some(credential) = keys.iter().filter_map(stored).find_map(|(_, entry)| entry.read())
        {
            return Ok(Some(credential));
        }
        let Some(helper) = &self.creds_store else { return Ok(None) };
        // `docker login` registers the server under its key in `auths`, with an empty entry.
        let server = keys.iter().find_map(stored).map(|(own, _)| own.as_str());
        let hub = "https://index.docker.io/v1/";
        ask(helper, server.unwrap_or(if is_hub(registry) { hub } else { registry })).await
    }
}

fn is_hub(registry: &str) -> bool {
    matches!(registry, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// The keys that are for this repository, best first.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let hosts: &[&str] = if is_hub(registry) { &["docker.io", HUB_KEY] } else { &[registry] };
    let mut paths = vec![repository];
    while let Some((parent, _)) = paths[paths.len() - 1].rsplit_once('/') {
        paths.push(parent);
    }
    let below =
        paths.iter().flat_map(|path| hosts.iter().map(move |host| format!("{host}/{path}")));
    below.chain(hosts.iter().map(|host| (*host).to_owned())).collect()
}

/// `https://index.docker.io/v1/` and the like are what old Docker versions wrote.
fn normal(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

impl Stored {
    fn read(&self) -> Option<Credential> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Some(Credential::Identity(token.clone()));
        }
        let (user, password) = match self.auth.as_deref().filter(|auth| !auth.is_empty()) {
            Some(auth) => {
                let text = String::from_utf8(decode_base64(auth)?).ok()?;
                let (user, password) = text.split_once(':')?;
                (user.to_owned(), password.trim_end_matches('\0').to_owned())
            }
            None => (self.username.clone()?, self.password.clone()?),
        };
        (!user.is_empty()).then_some(Credential::Basic { user, password })
    }
}

/// Standard base64, padded or not; `None` for anything else.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim().trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut buffer, mut bits) = (0u32, 0);
    for symbol in text.bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        buffer = (buffer << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
        }
    }
    Some(bytes)
}

/// Asks a helper program, after docker-credential-helpers' protocol.
async fn ask(helper: &str, server: &str) -> Result<Option<Credential>, RemoteError> {
    let program = format!("docker-credential-{helper}");
    let failed =
        |reason: String| RemoteError::CredentialHelper { program: program.clone(), reason };
    // The name comes from a file and becomes a program's: a word, never a path.
    if helper.is_empty()
        || !helper.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    {
        return Err(failed("that is not the name of a helper".to_owned()));
    }
    let talk = async {
        let mut child = tokio::process::Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        if let Some(mut stdin) = stdin {
            // A helper that does not read its question is judged by its answer.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        let mut answer = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(HELPER_LIMIT).read_to_end(&mut answer).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, answer))
    };
    let (status, answer) = tokio::time::timeout(HELPER_PATIENCE, talk)
        .await
        .map_err(|_| failed(format!("no answer in {} seconds", HELPER_PATIENCE.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        // Helpers say on standard output that they know nothing, and exit with 1.
        let unknown = String::from_utf8_lossy(&answer).contains("credentials not found");
        return if unknown { Ok(None) } else { Err(failed(format!("it ended with {status}"))) };
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let Answer { username, secret } = serde_json::from_slice(&answer)
        .map_err(|_| failed("its answer is not the JSON it should be".to_owned()))?;
    Ok(match username.as_str() {
        "" => None,
        "<token>" => Some(Credential::Identity(secret)),
        _ => Some(Credential::Basic { user: username, password: secret }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(file: &str, registry: &str, repository: &str, expected: Option<(&str, &str)>) {
        let file: File = serde_json::from_str(file).unwrap();
        let found = file.lookup(registry, repository).await.unwrap();
        let expected = expected.map(|(user, password)| Credential::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        });
        assert!(found == expected, "{registry}/{repository}");
    }

    #[tokio::test]
    async fn the_longest_key_wins_and_docker_hub_has_many_names() {
        // me:secret, other:pw, hub:pass
        let file = r#"{"auths":{
            "host.io": {"auth":"bWU6c2VjcmV0"},
            "host.io/team/a": {"auth":"b3RoZXI6cHc="},
            "https://index.docker.io/v1/": {"auth":"aHViOnBhc3M="}}}"#;
        check(file, "host.io", "x", Some(("me", "secret"))).await;
        check(file, "host.io", "team/a/b", Some(("other", "pw"))).await;
        check(file, "host.io", "team/ab", Some(("me", "secret"))).await;
        check(file, "docker.io", "library/x", Some(("hub", "pass"))).await;
        check(file, "evil.host.io", "x", None).await;
        check("{}", "host.io", "x", None).await;
    }

    #[test]
    fn the_environment_names_the_files() {
        let files = |variables: &[(&str, &str)]| {
            let lookup = |name: &str| {
                variables
                    .iter()
                    .find(|(own, _)| *own == name)
                    .map(|(_, value)| PathBuf::from(value))
            };
            CredentialFiles::from_lookup(lookup).files
        };
        assert_eq!(
            files(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r")]),
            [
                "/r/containers/auth.json",
                "/h/.config/containers/auth.json",
                "/h/.docker/config.json"
            ]
            .map(PathBuf::from)
        );
        assert_eq!(
            files(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/only")]),
            [PathBuf::from("/only")]
        );
    }

    #[tokio::test]
    async fn a_helper_is_a_word_and_not_a_path() {
        let error = ask("../../bin/sh", "host.io").await.map(drop).unwrap_err();
        assert!(error.to_string().contains("not the name of a helper"), "{error}");
    }

    #[test]
    fn base64_is_read_padded_or_not() {
        assert_eq!(decode_base64("bWU6c2VjcmV0").unwrap(), b"me:secret");
        assert_eq!(decode_base64("b3RoZXI6cHc=").unwrap(), b"other:pw");
        assert_eq!(decode_base64("b3RoZXI6cHc").unwrap(), b"other:pw");
        assert_eq!(decode_base64("b3*"), None);
    }
}
