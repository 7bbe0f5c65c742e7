//! `--ssh`: which agent, or which keys, a build may use.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use executor::{KeyError, SshAgents, SshKey};

use crate::report::CliError;

/// `default`, `ID`, `ID=SOCKET` or `ID=KEY[,KEY…]`.
pub(super) fn agents(specs: &[String]) -> Result<SshAgents, CliError> {
    let mut agents = SshAgents::new();
    for spec in specs {
        let (id, paths) = match spec.split_once('=') {
            Some((id, paths)) => (id, paths.split(',').map(PathBuf::from).collect()),
            None => (spec.as_str(), vec![from_environment(spec)?]),
        };
        let id = if id.is_empty() { "default" } else { id };
        if agents.contains(id) {
            return Err(invalid(spec, format!("there are two agents `{id}`")));
        }
        match &paths[..] {
            [socket] if is_socket(socket) => agents.insert(id, socket),
            paths => {
                let keys = paths.iter().map(|path| key(spec, id, path));
                agents.insert_keys(id, keys.collect::<Result<_, _>>()?);
            }
        }
    }
    Ok(agents)
}

fn from_environment(spec: &str) -> Result<PathBuf, CliError> {
    let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
    let socket = PathBuf::from(socket.ok_or_else(|| {
        invalid(spec, "SSH_AUTH_SOCK is not set")
            .hint("start an ssh agent, or name its socket or a key: --ssh ID=SOCKET|KEY")
    })?);
    match is_socket(&socket) {
        true => Ok(socket),
        false => {
            let socket = socket.display();
            Err(invalid(spec, format!("SSH_AUTH_SOCK is `{socket}`, which is no socket")))
        }
    }
}

fn key(spec: &str, id: &str, path: &Path) -> Result<SshKey, CliError> {
    let shown = path.display();
    if is_socket(path) {
        let error = invalid(spec, format!("the socket `{shown}` stands among other paths"));
        return Err(error.hint("an id has either one socket or any number of keys"));
    }
    SshKey::read(path).map_err(|error| {
        let reason = match &error {
            KeyError::File(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return invalid(spec, format!("there is no file `{shown}`"));
            }
            KeyError::File(error) => error.to_string(),
            error => format!("`{shown}`: {error}"),
        };
        let with_agent =
            format!("eval $(ssh-agent) && ssh-add {shown}, then build with --ssh {id}");
        match error {
            KeyError::Encrypted | KeyError::Unsupported { .. } | KeyError::Broken { .. } => {
                invalid(spec, reason).hint(format!("let an agent have it: {with_agent}"))
            }
            _ => invalid(spec, reason).hint("name the socket of an agent or a private key"),
        }
    })
}

fn is_socket(path: &Path) -> bool {
    fs_err::metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

fn invalid(spec: &str, reason: impl std::fmt::Display) -> CliError {
    CliError::input(format!("invalid --ssh `{spec}`: {reason}"))
}
