//! The ssh agent of a step: a socket of its own whose connections go to the user's agent.
//!
//! The user's socket itself belongs to the user; the step's may belong to whomever the step runs
//! as. It lives in a directory that only we can enter and goes away with this.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::ExecutorError;

/// A socket that stands for an agent. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct AgentSocket {
    dir: tempfile::TempDir,
    accepting: JoinHandle<()>,
}

impl AgentSocket {
    /// Listens for the agent at `agent`.
    pub(crate) fn new(agent: &Path, mode: u32, uid: u32, gid: u32) -> Result<Self, ExecutorError> {
        let dir = tempfile::Builder::new()
            .prefix("strake-ssh-")
            .tempdir()
            .map_err(ExecutorError::file("make a directory for", "the ssh agent"))?;
        let path = dir.path().join("agent");
        let listener =
            UnixListener::bind(&path).map_err(ExecutorError::file("listen at", &path))?;
        let set = || -> std::io::Result<()> {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
            Ok(rustix::fs::chown(&path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
        };
        set().map_err(ExecutorError::file("set the owner of", &path))?;
        let agent = agent.to_owned();
        let accepting = tokio::spawn(accept(listener, agent));
        Ok(Self { dir, accepting })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("agent")
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: UnixListener, agent: PathBuf) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((mut inside, _)) = listener.accept().await {
        let agent = agent.clone();
        connections.spawn(async move {
            // Both errors mean that a side has gone; the other sees its connection end.
            if let Ok(mut outside) = UnixStream::connect(agent).await {
                let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_go_to_the_agent_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let agent = UnixListener::bind(&path).unwrap();
        let socket = AgentSocket::new(&path, 0o600, 0, 0).unwrap();
        let client = async {
            let mut stream = UnixStream::connect(socket.path()).await.unwrap();
            stream.write_all(b"ask").await.unwrap();
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).await.unwrap();
            answer
        };
        let server = async {
            let (mut stream, _) = agent.accept().await.unwrap();
            let mut question = [0; 3];
            stream.read_exact(&mut question).await.unwrap();
            stream.write_all(b"reply").await.unwrap();
            question
        };
        let (answer, question) = tokio::join!(client, server);
        assert_eq!((&answer, &question), (b"reply", b"ask"));
        let gone = socket.path();
        drop(socket);
        assert!(!gone.exists());
    }
}
