//! The agent of a step: a socket of its own, behind which two requests are answered.
//!
//! The protocol is draft-ietf-sshm-ssh-agent: messages of a length, a kind and fields. Only asking
//! for the keys and for a signature go on, to the user's agent or to the keys of this process. All
//! else (adding and removing keys, locking, extensions) fails, as it does in BuildKit: a step must
//! not be able to change what the user's agent holds.
//!
//! The user's socket itself belongs to the user; the step's may belong to whomever the step runs
//! as. It lives in a directory that only we can enter and goes away with this.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::fs::{Gid, Uid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use super::{Agent, SshKey};
use crate::ExecutorError;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// The longest message, as OpenSSH has it.
const MAX_MESSAGE: usize = 256 * 1024;

/// Connections that a step may have to its agent at the same time.
const MAX_CONNECTIONS: usize = 64;

/// A socket that stands for an agent. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct AgentSocket {
    dir: tempfile::TempDir,
    accepting: JoinHandle<()>,
}

impl AgentSocket {
    /// Listens in the name of `agent`.
    pub(crate) fn new(agent: &Agent, mode: u32, uid: u32, gid: u32) -> Result<Self, ExecutorError> {
        let dir = tempfile::Builder::new()
            .prefix("strake-ssh-")
            .tempdir()
            .map_err(ExecutorError::file("make a directory for", "the ssh agent"))?;
        let path = dir.path().join("agent");
        let listener =
            UnixListener::bind(&path).map_err(ExecutorError::file("listen at", &path))?;
        let set = || -> io::Result<()> {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
            Ok(rustix::fs::chown(&path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
        };
        set().map_err(ExecutorError::file("set the owner of", &path))?;
        let accepting = tokio::spawn(accept(listener, agent.clone()));
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

async fn accept(listener: UnixListener, agent: Agent) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if connections.len() < MAX_CONNECTIONS {
            // An error means that a side has gone; the other sees its connection end.
            connections.spawn(serve(client, agent.clone()));
        }
    }
}

/// Answers the requests of one connection until a side goes.
async fn serve(mut client: UnixStream, agent: Agent) -> io::Result<()> {
    let mut outside = match &agent {
        Agent::Socket(path) => Some(UnixStream::connect(path).await?),
        Agent::Keys(_) => None,
    };
    loop {
        let request = receive(&mut client).await?;
        let answer = match (request.first(), &agent, &mut outside) {
            (Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)), _, Some(outside)) => {
                send(outside, &request).await?;
                receive(outside).await?
            }
            (Some(&REQUEST_IDENTITIES), Agent::Keys(keys), _) => identities(keys),
            (Some(&SIGN_REQUEST), Agent::Keys(keys), _) => {
                signature(keys, &request[1..]).unwrap_or_else(|| vec![FAILURE])
            }
            _ => vec![FAILURE],
        };
        send(&mut client, &answer).await?;
    }
}

async fn receive(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await? as usize;
    if length == 0 || length > MAX_MESSAGE {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn send(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let whole: Vec<u8> = Message::new().string(message).into();
    stream.write_all(&whole).await
}

fn identities(keys: &[SshKey]) -> Vec<u8> {
    let mut answer = Message(vec![IDENTITIES_ANSWER]);
    answer.0.extend(u32::try_from(keys.len()).unwrap_or(0).to_be_bytes());
    for key in keys {
        answer = answer.string(key.public()).string(key.comment().as_bytes());
    }
    answer.into()
}

/// `string key, string data, uint32 flags`
fn signature(keys: &[SshKey], request: &[u8]) -> Option<Vec<u8>> {
    let (wanted, rest) = split_string(request)?;
    let (data, rest) = split_string(rest)?;
    let flags = u32::from_be_bytes(*rest.first_chunk()?);
    let key = keys.iter().find(|key| key.public() == wanted)?;
    let signature = key.sign(data, flags)?;
    Some(Message(vec![SIGN_RESPONSE]).string(&signature).into())
}

/// A length and bytes, and what follows.
pub(super) fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

/// Fields put together (RFC 4251 section 5).
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// A length and bytes.
    pub(super) fn string(mut self, bytes: &[u8]) -> Self {
        // All that is put into messages is far below 4 GiB.
        self.0.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// A positive number, big-endian: no zero byte in front but where the first bit would be a sign.
    pub(super) fn number(self, bytes: &[u8]) -> Self {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        let mut number = bytes[start..].to_vec();
        if number.first().is_some_and(|byte| byte & 0x80 != 0) {
            number.insert(0, 0);
        }
        self.string(&number)
    }
}

impl From<Message> for Vec<u8> {
    fn from(message: Message) -> Self {
        message.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step's view: asks and gets the answer.
    async fn ask(socket: &AgentSocket, request: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(socket.path()).await.unwrap();
        send(&mut stream, request).await.unwrap();
        receive(&mut stream).await.unwrap()
    }

    #[tokio::test]
    async fn questions_go_to_the_agent_and_changes_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let agent = UnixListener::bind(&path).unwrap();
        let socket = AgentSocket::new(&Agent::Socket(path), 0o600, 0, 0).unwrap();
        let server = async {
            let (mut stream, _) = agent.accept().await.unwrap();
            let question = receive(&mut stream).await.unwrap();
            send(&mut stream, b"\x0creply").await.unwrap();
            question
        };
        let (answer, question) = tokio::join!(ask(&socket, &[REQUEST_IDENTITIES]), server);
        assert_eq!((&answer[..], &question[..]), (&b"\x0creply"[..], &[REQUEST_IDENTITIES][..]));
        // Remove all keys: 19. Nobody accepts this connection's requests at the agent.
        assert_eq!(ask(&socket, &[19]).await, [FAILURE]);
        let gone = socket.path();
        drop(socket);
        assert!(!gone.exists());
    }

    #[tokio::test]
    async fn requests_cut_short_fail() {
        let socket = AgentSocket::new(&Agent::Keys([].into()), 0o600, 0, 0).unwrap();
        assert_eq!(ask(&socket, &[REQUEST_IDENTITIES]).await, [IDENTITIES_ANSWER, 0, 0, 0, 0]);
        assert_eq!(ask(&socket, &[SIGN_REQUEST, 0, 0, 0, 9, 1]).await, [FAILURE]);
        assert_eq!(ask(&socket, &[SIGN_REQUEST]).await, [FAILURE]);
    }
}
