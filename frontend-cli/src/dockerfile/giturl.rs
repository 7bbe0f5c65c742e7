//! Git addresses as BuildKit takes them, for ADD and for contexts.
//!
//! | form | example |
//! |---|---|
//! | http | `https://host/path.git#ref:subdir` |
//! | ssh | `ssh://git@host/path`, `git@host:path.git` |
//! | git | `git://host/path` |
//! | query | `https://host/path.git?branch=main&subdir=src&keep-git-dir=true` |

/// An address taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GitUrl {
    /// What `git` is given.
    pub(crate) remote: String,
    pub(crate) reference: Option<String>,
    pub(crate) subdir: Option<String>,
    pub(crate) checksum: Option<String>,
    pub(crate) keep_git_dir: Option<bool>,
    pub(crate) submodules: bool,
    pub(crate) commit_time: bool,
}

impl GitUrl {
    /// Whether `text` is an address of a repository and not of a file.
    pub(crate) fn is_git(text: &str) -> bool {
        if text.starts_with("git://") || text.starts_with("ssh://") {
            return true;
        }
        let address = text.split(['?', '#']).next().unwrap_or(text);
        if text.starts_with("http://") || text.starts_with("https://") {
            return address.ends_with(".git");
        }
        is_scp_like(address)
    }

    pub(crate) fn parse(text: &str) -> Result<GitUrl, String> {
        let (address, fragment) = match text.split_once('#') {
            Some((address, fragment)) => (address, Some(fragment)),
            None => (text, None),
        };
        let (remote, query) = match address.split_once('?') {
            Some((remote, query)) if !is_scp_like(remote) => (remote, Some(query)),
            _ => (address, None),
        };
        let mut url = GitUrl { remote: remote.to_owned(), submodules: true, ..GitUrl::default() };
        if let Some(fragment) = fragment {
            let (reference, subdir) = match fragment.split_once(':') {
                Some((reference, subdir)) => (reference, Some(subdir)),
                None => (fragment, None),
            };
            url.reference = Some(reference).filter(|text| !text.is_empty()).map(str::to_owned);
            url.subdir = subdir.filter(|text| !text.is_empty()).map(str::to_owned);
        }
        for field in query.into_iter().flat_map(|query| query.split('&')) {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            url.set(key, value)?;
        }
        // A leading dash would be an option of git's.
        for word in std::iter::once(&url.remote).chain(&url.reference) {
            if word.starts_with('-') {
                return Err(format!("invalid git address `{text}`: `{word}` starts with a dash"));
            }
        }
        Ok(url)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let once = |slot: &mut Option<String>, value: String| match slot {
            Some(known) if *known != value => {
                Err(format!("conflicting values for {key} in the git address"))
            }
            _ => {
                *slot = Some(value);
                Ok(())
            }
        };
        match key {
            "ref" => once(&mut self.reference, value.to_owned()),
            "branch" => once(&mut self.reference, format!("refs/heads/{value}")),
            "tag" => once(&mut self.reference, format!("refs/tags/{value}")),
            "subdir" => once(&mut self.subdir, value.to_owned()),
            "checksum" | "commit" => once(&mut self.checksum, value.to_owned()),
            "keep-git-dir" => {
                self.keep_git_dir = Some(boolean(key, value)?);
                Ok(())
            }
            "submodules" => {
                self.submodules = boolean(key, value)?;
                Ok(())
            }
            "mtime" => match value {
                "commit" | "checkout" => {
                    self.commit_time = value == "commit";
                    Ok(())
                }
                _ => {
                    Err(format!("invalid mtime \"{value}\" in the git address: commit or checkout"))
                }
            },
            _ => Err(format!("unexpected query \"{key}\" in the git address")),
        }
    }
}

fn boolean(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("invalid value \"{value}\" for {key} in the git address")),
    }
}

/// `user@host:path`
fn is_scp_like(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    let plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    plain(user) && plain(host) && !path.is_empty() && !path.starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::GitUrl;

    #[test]
    fn repositories_are_told_from_files() {
        for (text, is_git) in [
            ("https://host/a.git", true),
            ("https://host/a.git#v1:sub", true),
            ("https://host/a.tar.gz", false),
            ("git@host:a/b", true),
            ("ssh://git@host/a", true),
            ("a@b", false),
            ("dir/file", false),
        ] {
            assert_eq!(GitUrl::is_git(text), is_git, "{text}");
        }
    }

    #[test]
    fn an_address_is_taken_apart() {
        let url = GitUrl::parse("https://host/a.git#v1:sub/dir").unwrap();
        assert_eq!(url.remote, "https://host/a.git");
        assert_eq!(url.reference.as_deref(), Some("v1"));
        assert_eq!(url.subdir.as_deref(), Some("sub/dir"));
        let url = GitUrl::parse("https://host/a.git?tag=v2&submodules=false").unwrap();
        assert_eq!(url.reference.as_deref(), Some("refs/tags/v2"));
        assert!(!url.submodules);
        assert!(GitUrl::parse("https://host/a.git?what=1").is_err());
        assert!(GitUrl::parse("https://host/a.git#--upload-pack=x").is_err());
    }
}
