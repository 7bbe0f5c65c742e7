//! Git checkouts, by the `git` program.
//!
//! A repository is foreign input: nothing of it is executed (no hooks, no configuration of the
//! machine or of the user, no prompts), it is spoken to over an allow-list of protocols, also for
//! its submodules, and the directory that a subpath names is resolved inside the checkout.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use cache::Store;
use cache::hash::FingerprintBuilder;
use rustix::fs::{AtFlags, CWD};
use solver::llb::{ChmodSpec, CopyAction, GitSource};
use solver::{Content, Ingredient, LogSink, Output, Stream};
use tokio::process::Command;

use super::http::without_credentials;
use super::{CancelOnDrop, LocalWorker, lock};
use crate::context::{UnpackedContext, new_directory};
use crate::copy::FileOperation;
use crate::executor::blocking;
use crate::source_tree::SourceTree;
use crate::ssh::Agent;
use crate::ssh::agent::AgentSocket;
use crate::{ExecutorError, SecretStore, SshAgents};

/// What may be spoken; `file` and `ext` would reach this machine.
const PROTOCOLS: &str = "https:http:ssh:git";

impl LocalWorker {
    /// The commit that the reference means now.
    pub(super) async fn git_state(&self, source: &GitSource) -> Result<Content, ExecutorError> {
        let commit = self.commit_of(source).await?;
        let fingerprint = FingerprintBuilder::new("strake git state v1")
            .field("commit", commit.as_bytes())
            .finish();
        let ingredients = vec![Ingredient { part: "git.commit".to_owned(), value: commit }];
        Ok(Content { fingerprint, ingredients })
    }

    /// A snapshot of the checkout.
    pub(super) async fn fetch_git(
        &self,
        source: &GitSource,
        log: &LogSink,
    ) -> Result<Output, ExecutorError> {
        let commit = self.commit_of(source).await?;
        self.needs_network(|| format!("`{}`", shown_reference(source)))?;
        log.write(Stream::Stderr, format!("{} is {commit}\n", shown_reference(source)));
        let checkout = new_directory(&self.config.store)?;
        let git = self.git(source, Some(checkout.path()));
        git.check_out(&commit).await?;
        let commit_time = git.wanted_time(&commit).await?;
        let active = self.prepare(None)?;
        let (owners, source) = (self.owners, source.clone());
        let cancel = CancelOnDrop::default();
        let cancelled = cancel.flag.clone();
        let active = blocking(move || {
            let operation = FileOperation::new(&active, owners)?.cancelled_by(cancelled);
            copy_checkout(checkout.path(), &source, commit_time, &operation)?;
            Ok(active)
        })
        .await?;
        self.commit(active).await
    }

    /// The commit of the reference, asked once per build.
    async fn commit_of(&self, source: &GitSource) -> Result<String, ExecutorError> {
        let reference = source.reference.as_deref().unwrap_or("HEAD");
        let key = (source.url.clone(), reference.to_owned());
        let known = lock(&self.commits).get(&key).cloned();
        let commit = match known {
            Some(commit) => commit,
            None if is_commit(reference) => reference.to_owned(),
            None => {
                self.needs_network(|| format!("`{}`", shown_reference(source)))?;
                let commit = self.git(source, None).resolve(reference).await?;
                lock(&self.commits).insert(key, commit.clone());
                commit
            }
        };
        verified(source, commit)
    }

    fn git<'a>(&'a self, source: &'a GitSource, dir: Option<&'a Path>) -> Git<'a> {
        Git { secrets: &self.config.secrets, ssh: &self.config.ssh, source, dir }
    }
}

/// Checks a repository out into a directory of the store; see [`crate::context::from_git`].
pub(crate) async fn check_out_context(
    source: &GitSource,
    secrets: &SecretStore,
    ssh: &SshAgents,
    store: &Store,
) -> Result<UnpackedContext, ExecutorError> {
    let checkout = new_directory(store)?;
    let git = Git { secrets, ssh, source, dir: Some(checkout.path()) };
    let reference = source.reference.as_deref().unwrap_or("HEAD");
    let commit = match is_commit(reference) {
        true => reference.to_owned(),
        false => git.resolve(reference).await?,
    };
    let commit = verified(source, commit)?;
    git.check_out(&commit).await?;
    let commit_time = git.wanted_time(&commit).await?;
    let (context, source) = (new_directory(store)?, source.clone());
    blocking(move || {
        let operation = FileOperation::plain(context.path())?;
        copy_checkout(checkout.path(), &source, commit_time, &operation)?;
        Ok(context)
    })
    .await
}

fn verified(source: &GitSource, commit: String) -> Result<String, ExecutorError> {
    match &source.checksum {
        Some(expected) if !commit.starts_with(expected.as_str()) => {
            Err(ExecutorError::Checksum { expected: expected.clone(), found: commit })
        }
        _ => Ok(commit),
    }
}

/// Takes what the source asks for out of a checkout.
fn copy_checkout(
    checkout: &Path,
    source: &GitSource,
    commit_time: Option<i64>,
    operation: &FileOperation,
) -> Result<(), ExecutorError> {
    if let Some(time) = commit_time {
        set_times(checkout, time).map_err(ExecutorError::file("set the times of", checkout))?;
    }
    let name = format!("the repository {}", without_credentials(&source.url));
    let tree = SourceTree::context(checkout, name, &[], None)?;
    let exclude = if source.keep_git_dir { Vec::new() } else { vec!["**/.git".to_owned()] };
    let action = CopyAction {
        // Git knows 0644 and 0755; what the umask of this process made of them is no matter.
        mode: Some(ChmodSpec::Symbolic("u=rwX,go=rX".to_owned())),
        exclude,
        from_context: true,
        ..CopyAction::plain(source.subdir.as_deref().unwrap_or("/"), "/")
    };
    operation.copy(&action, &tree)?;
    Ok(())
}

/// One repository, and where it is checked out.
struct Git<'a> {
    secrets: &'a SecretStore,
    ssh: &'a SshAgents,
    source: &'a GitSource,
    dir: Option<&'a Path>,
}

impl Git<'_> {
    /// The commit that a branch or tag means now.
    async fn resolve(&self, reference: &str) -> Result<String, ExecutorError> {
        let patterns = [reference.to_owned(), format!("{reference}^{{}}")];
        let mut arguments = vec!["ls-remote", "--", &self.source.url];
        arguments.extend(patterns.iter().map(String::as_str));
        let listed = self.run("ask", &arguments).await?;
        choose(&listed, reference).ok_or_else(|| {
            self.failed("ask", format!("it has no branch, tag or commit `{reference}`"))
        })
    }

    /// The time that every file gets, if the source asks for one.
    async fn wanted_time(&self, commit: &str) -> Result<Option<i64>, ExecutorError> {
        match self.source.commit_time {
            true => self.commit_time(commit).await.map(Some),
            false => Ok(None),
        }
    }

    async fn check_out(&self, commit: &str) -> Result<(), ExecutorError> {
        let url = self.source.url.as_str();
        self.run("check out", &["init", "-q"]).await?;
        let origin = without_credentials(url);
        self.run("check out", &["remote", "add", "origin", &origin]).await?;
        let shallow = ["fetch", "-q", "--depth=1", "--no-tags", "--", url, commit];
        if self.run("fetch", &shallow).await.is_err() {
            // Not every server gives a commit by its name; then by the reference, then everything.
            let reference = self.source.reference.as_deref().unwrap_or("HEAD");
            let mut fetched = false;
            if !is_commit(reference) {
                let by_name = ["fetch", "-q", "--depth=1", "--no-tags", "--", url, reference];
                fetched = self.run("fetch", &by_name).await.is_ok();
            }
            if !fetched {
                let all = [
                    "fetch",
                    "-q",
                    "--",
                    url,
                    "+refs/heads/*:refs/remotes/origin/*",
                    "+refs/tags/*:refs/tags/*",
                ];
                self.run("fetch", &all).await?;
            }
        }
        self.run("check out", &["checkout", "-q", "--detach", commit]).await?;
        if self.source.submodules {
            let update = ["submodule", "update", "-q", "--init", "--recursive", "--depth=1"];
            self.run("fetch the submodules of", &update).await?;
        }
        Ok(())
    }

    async fn commit_time(&self, commit: &str) -> Result<i64, ExecutorError> {
        let time = self.run("read", &["show", "-s", "--format=%ct", commit]).await?;
        let parsed = time.trim().parse();
        parsed.map_err(|_| self.failed("read", format!("`{}` is not a time", time.trim())))
    }

    /// Runs git and gives what it printed.
    async fn run(
        &self,
        attempt: &'static str,
        arguments: &[&str],
    ) -> Result<String, ExecutorError> {
        let reference = self.source.reference.as_deref().unwrap_or_default();
        if self.source.url.starts_with('-') || reference.starts_with('-') {
            return Err(self.failed(attempt, "an address or reference cannot begin with `-`"));
        }
        let mut command = Command::new("git");
        command
            .args(["-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never"])
            .args([
                "-c",
                "core.symlinks=true",
                "-c",
                "core.autocrlf=false",
                "-c",
                "safe.directory=*",
            ])
            .args(["-c", "advice.detachedHead=false", "-c", "init.defaultBranch=main"])
            .args(["-c", "credential.helper=", "-c", "submodule.recurse=false"])
            .args(arguments)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", PROTOCOLS)
            .env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
            .env("GIT_HTTP_LOW_SPEED_LIMIT", "1000")
            .env("GIT_HTTP_LOW_SPEED_TIME", "60")
            .env("LC_ALL", "C")
            .envs(self.authorization()?)
            .current_dir(self.dir.unwrap_or(Path::new("/")))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for variable in
            ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_EXEC_PATH", "GIT_ASKPASS"]
        {
            command.env_remove(variable);
        }
        // Not every TLS library behind git knows this variable, by which everything else here trusts.
        if std::env::var_os("GIT_SSL_CAINFO").is_none()
            && let Some(authorities) = std::env::var_os("SSL_CERT_FILE")
        {
            command.env("GIT_SSL_CAINFO", authorities);
        }
        // The socket lives as long as the command.
        let _agent = match self.ssh.agent("default") {
            Some(Agent::Socket(socket)) => {
                command.env("SSH_AUTH_SOCK", socket);
                None
            }
            Some(keys) => {
                let socket = AgentSocket::new(keys, 0o600, 0, 0)?;
                command.env("SSH_AUTH_SOCK", socket.path());
                Some(socket)
            }
            None => None,
        };
        let output = command.output().await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                self.failed(attempt, "the program `git` is not installed")
            }
            _ => self.failed(attempt, error.to_string()),
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
        let last = last.unwrap_or("git failed without a word");
        Err(self.failed(
            attempt,
            last.replace(&self.source.url, &without_credentials(&self.source.url)),
        ))
    }

    /// Credentials for the repository, from the build's secrets, where no command line shows them:
    /// `GIT_AUTH_HEADER.<host>`, `GIT_AUTH_TOKEN.<host>`, then both without a host; the first counts.
    fn authorization(&self) -> Result<Vec<(String, String)>, ExecutorError> {
        let Some(host) = host(&self.source.url) else { return Ok(Vec::new()) };
        let mut header = None;
        for suffix in [format!(".{host}"), String::new()] {
            for (name, is_token) in [("GIT_AUTH_HEADER", false), ("GIT_AUTH_TOKEN", true)] {
                let Some(value) = self.secrets.line(&format!("{name}{suffix}"))? else { continue };
                let value = match is_token {
                    true => {
                        format!("basic {}", base64(format!("x-access-token:{value}").as_bytes()))
                    }
                    false => value,
                };
                header.get_or_insert(value);
            }
        }
        let Some(header) = header else { return Ok(Vec::new()) };
        let key = format!("http.{}.extraheader", scope(&self.source.url));
        Ok(vec![
            ("GIT_CONFIG_COUNT".to_owned(), "1".to_owned()),
            ("GIT_CONFIG_KEY_0".to_owned(), key),
            ("GIT_CONFIG_VALUE_0".to_owned(), format!("Authorization: {header}")),
        ])
    }

    fn failed(&self, attempt: &'static str, reason: impl Into<String>) -> ExecutorError {
        let url = without_credentials(&self.source.url);
        ExecutorError::Git { attempt, url, reason: reason.into() }
    }
}

fn shown_reference(source: &GitSource) -> String {
    let reference = source.reference.as_deref().unwrap_or("HEAD");
    format!("{}#{reference}", without_credentials(&source.url))
}

/// A full commit name, of SHA-1 or SHA-256.
fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The commit that `reference` means among the lines of ls-remote, in the order of rev-parse: the
/// name itself, a tag (what it points to rather than the tag's own object), a branch.
fn choose(listed: &str, reference: &str) -> Option<String> {
    let lines: Vec<(&str, &str)> =
        listed.lines().filter_map(|line| line.split_once('\t')).collect();
    let tag = format!("refs/tags/{reference}");
    let names = [
        format!("{reference}^{{}}"),
        reference.to_owned(),
        format!("{tag}^{{}}"),
        tag,
        format!("refs/heads/{reference}"),
        format!("refs/{reference}"),
    ];
    names.iter().find_map(|name| {
        let found = lines.iter().find(|(_, listed)| listed == name);
        found.filter(|(commit, _)| is_commit(commit)).map(|(commit, _)| (*commit).to_owned())
    })
}

/// Host and port of an address that HTTP is spoken to.
fn host(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    (!host.is_empty()).then(|| host.to_owned())
}

/// The addresses that credentials for `url` are for: the repository alone, since its submodules may
/// be anybody's; as in BuildKit all of github.com, where one token opens them too.
fn scope(url: &str) -> String {
    let github = ["https://github.com/", "https://www.github.com/"];
    let known = github.iter().find(|prefix| url.starts_with(**prefix));
    known.map_or_else(|| without_credentials(url), |prefix| (*prefix).to_owned())
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let group = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// Gives every file of a checkout the same time.
fn set_times(dir: &Path, time: i64) -> std::io::Result<()> {
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == OsStr::new(".git") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            set_times(&entry.path(), time)?;
        }
        let times = crate::copy::timestamps((time, 0));
        rustix::fs::utimensat(CWD, entry.path(), &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_means_its_commit_and_comes_before_a_branch() {
        let (a, b, c) = ("a".repeat(40), "b".repeat(40), "c".repeat(40));
        let listed = format!("{a}\trefs/heads/v1\n{b}\trefs/tags/v1\n{c}\trefs/tags/v1^{{}}\n");
        assert_eq!(choose(&listed, "v1"), Some(c.clone()));
        assert_eq!(choose(&format!("{a}\trefs/heads/x/v1\n"), "v1"), None);
        assert_eq!(choose(&format!("{a}\tHEAD\n{b}\trefs/remotes/HEAD\n"), "HEAD"), Some(a));
    }

    #[test]
    fn base64_pads() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn the_host_of_an_address_of_http_gets_credentials() {
        assert_eq!(host("https://me@example.com:8443/x.git").as_deref(), Some("example.com:8443"));
        assert_eq!(host("http://example.com/x.git").as_deref(), Some("example.com"));
        assert_eq!(host("git@example.com:x.git"), None);
    }
}
