//! RUN: an [`ExecOp`] becomes a process with its mounts.

use std::net::UdpSocket;
use std::time::Instant;

use cache::snapshot::ActiveSnapshot;
use runtime::NetworkMode;
use solver::llb::{self, CopyAction, ExecMount, ExecOp, MountKind, SecurityMode, Selector, Vertex};
use solver::{InputValue, LogSink, OpError, Output, Stream};

use super::cache_mount::{CacheMount, HeldCache};
use super::{CancelOnDrop, LocalWorker, input};
use crate::copy::FileOperation;
use crate::executor::blocking;
use crate::ssh::agent::AgentSocket;
use crate::{ExecutorError, MountSource, Process, ProcessIo, ProcessMount};

/// The host name of build containers, as BuildKit's.
const HOSTNAME: &str = "buildkitsandbox";

/// Where the copied part of a context lies in its temporary snapshot.
const COPY_NAME: &str = "mounted";

/// A process, and what must outlive it.
struct Prepared {
    process: Process,
    mounts: Vec<ProcessMount>,
    caches: Vec<HeldCache>,
    agents: Vec<AgentSocket>,
    copies: Vec<ActiveSnapshot>,
}

impl LocalWorker {
    pub(super) async fn exec_op(
        &self,
        vertex: &Vertex,
        op: &ExecOp,
        inputs: &[InputValue],
        log: &LogSink,
    ) -> Result<Output, OpError> {
        let base = self.rootfs(inputs).map_err(OpError::worker)?;
        let active = self.prepare(base.as_ref()).map_err(OpError::worker)?;
        let prepared = self.prepare_exec(vertex, op, inputs, log).await.map_err(OpError::worker)?;
        let Prepared { process, mounts, caches, agents, copies } = prepared;
        let io = ProcessIo::Log(log.clone(), self.config.secrets.redactions());
        let began = Instant::now();
        let started = self.executor.start(&process, &active, mounts, io).await;
        let mut running = started.map_err(OpError::worker)?;
        let status = running.wait().await.map_err(OpError::worker)?;
        let log_tail = running.log_tail();
        self.took(vertex, status.usage, began.elapsed());
        drop((running, caches, agents, copies));
        if status.code != Some(0) {
            return Err(OpError::Exit {
                command: op.args.join(" "),
                code: status.code,
                signal: status.signal,
                oom: status.oom,
                memory_limit: status.memory_limit,
                log_tail,
            });
        }
        self.commit(active).await.map_err(OpError::worker)
    }

    async fn prepare_exec(
        &self,
        vertex: &Vertex,
        op: &ExecOp,
        inputs: &[InputValue],
        log: &LogSink,
    ) -> Result<Prepared, ExecutorError> {
        let mut prepared = Prepared {
            process: self.process(op)?,
            mounts: Vec::new(),
            caches: Vec::new(),
            agents: Vec::new(),
            copies: Vec::new(),
        };
        for secret in &op.secret_env {
            let value = self.secret(&secret.id, secret.required)?.unwrap_or_default();
            prepared.process.env.push((secret.name.clone(), text(&secret.id, value)?));
        }
        let devices = self.config.devices.edits(&op.devices, &self.config.identity)?;
        for name in devices.missing {
            let text = format!("the optional device {name} is not registered here\n");
            log.write(Stream::Stderr, text);
        }
        prepared.process.env.extend(devices.env);
        prepared.process.additional_gids = devices.gids;
        prepared.mounts.extend(devices.mounts);
        for mount in &op.mounts {
            self.add_mount(vertex, mount, inputs, &mut prepared).await?;
        }
        Ok(prepared)
    }

    fn process(&self, op: &ExecOp) -> Result<Process, ExecutorError> {
        let allowed = |entitlement: &'static str| match self
            .config
            .allow
            .iter()
            .any(|allowed| allowed == entitlement)
        {
            true => Ok(()),
            false => Err(ExecutorError::NotAllowed { entitlement }),
        };
        let mut process = Process::new(op.args.clone());
        let env = op.env.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        process.env = env.chain(op.proxy_env.iter().cloned()).collect();
        process.cwd = if op.cwd.is_empty() { "/".to_owned() } else { op.cwd.clone() };
        process.user.clone_from(&op.user);
        process.hostname = op.hostname.clone().unwrap_or_else(|| HOSTNAME.to_owned());
        process.network = match op.network {
            llb::NetworkMode::Default if self.config.offline => NetworkMode::None,
            llb::NetworkMode::Default => NetworkMode::Proxied,
            llb::NetworkMode::None => NetworkMode::None,
            llb::NetworkMode::Host => {
                allowed("network.host")?;
                self.needs_network(|| "--network=host".to_owned())?;
                NetworkMode::Host
            }
        };
        process.privileged = op.security == SecurityMode::Insecure;
        if process.privileged {
            allowed("security.insecure")?;
        }
        process.shm_size = op.shm_size;
        process.limits = self.config.limits.clone();
        process.ulimits = op.ulimits.iter().map(|u| (u.name.clone(), u.soft, u.hard)).collect();
        for host in &op.extra_hosts {
            let address = match host.address.as_str() {
                "host-gateway" => {
                    self.needs_network(|| format!("the address `host-gateway` of {}", host.name))?;
                    host_address()?
                }
                address => address.to_owned(),
            };
            process.extra_hosts.push((host.name.clone(), address));
        }
        Ok(process)
    }

    async fn add_mount(
        &self,
        vertex: &Vertex,
        mount: &ExecMount,
        inputs: &[InputValue],
        prepared: &mut Prepared,
    ) -> Result<(), ExecutorError> {
        let target = &mount.target;
        let mut add = |source, readonly| {
            prepared.mounts.push(ProcessMount { target: target.clone(), source, readonly });
        };
        match &mount.kind {
            MountKind::Tmpfs { size, readonly } => {
                add(MountSource::Tmpfs { size: *size, mode: 0o1777 }, *readonly);
            }
            MountKind::Secret { id, required, mode, uid, gid, env, file } => {
                let value = self.secret(id, *required)?;
                if let Some(content) = value.clone().filter(|_| *file) {
                    let (mode, uid, gid) = (*mode, *uid, *gid);
                    add(MountSource::File { content, mode, uid, gid }, true);
                }
                if let Some(name) = env {
                    let value = text(id, value.unwrap_or_default())?;
                    prepared.process.env.push((name.clone(), value));
                }
            }
            MountKind::Ssh { id, required, mode, uid, gid } => {
                match self.config.ssh.agent(id) {
                    Some(agent) => {
                        let socket = AgentSocket::new(agent, *mode, *uid, *gid)?;
                        add(MountSource::Path(socket.path()), false);
                        prepared.agents.push(socket);
                    }
                    None if *required => return Err(ExecutorError::NoAgent { id: id.clone() }),
                    None => {}
                }
                // Set even without an agent, as BuildKit does; the first of several counts.
                let env = &mut prepared.process.env;
                if !env.iter().any(|(name, _)| name == "SSH_AUTH_SOCK") {
                    env.push(("SSH_AUTH_SOCK".to_owned(), target.clone()));
                }
            }
            MountKind::Cache { id, sharing, input: first, mode, uid, gid, readonly } => {
                let first = match first {
                    None => None,
                    Some((position, path)) => {
                        let value = input(inputs, *position)?;
                        let tree = self.tree(value)?;
                        let counted = tree.clone();
                        let selector = Selector::path(path.clone());
                        let state = blocking(move || counted.content(&selector)).await?;
                        Some((tree, state.fingerprint.to_string(), path.clone()))
                    }
                };
                let (id, sharing) = (id.clone(), *sharing);
                let cache = CacheMount { id, sharing, mode: *mode, uid: *uid, gid: *gid, first };
                let store = &self.config.store;
                let held = cache.hold(store, self.owners, vertex.meta.no_cache).await?;
                add(MountSource::Path(held.data.clone()), *readonly);
                prepared.caches.push(held);
            }
            MountKind::Bind { input: position, source, writable } => {
                let value = input(inputs, *position)?;
                if let InputValue::Output(output) = value
                    && let Some(snapshot) = self.snapshot(output)?
                {
                    // Says what is missing in the user's words.
                    self.tree(value)?.find(source, false, true)?;
                    let tree = snapshot.mounts();
                    add(MountSource::Tree { mounts: tree, path: source.clone() }, !writable);
                    return Ok(());
                }
                // A context is mounted as a copy: without what is ignored, owned by root, and
                // whatever the user does to the files meanwhile.
                let copy = self.copy_for_mount(value, source).await?;
                add(MountSource::Path(copy.upper().join(COPY_NAME)), !writable);
                prepared.copies.push(copy);
            }
        }
        Ok(())
    }

    async fn copy_for_mount(
        &self,
        value: &InputValue,
        source: &str,
    ) -> Result<ActiveSnapshot, ExecutorError> {
        let tree = self.tree(value)?;
        let active = self.prepare(None)?;
        let owners = self.owners;
        let source = source.to_owned();
        let cancel = CancelOnDrop::default();
        let cancelled = cancel.flag.clone();
        blocking(move || {
            let operation = FileOperation::new(&active, owners)?.cancelled_by(cancelled);
            let action = CopyAction {
                from_context: tree.is_context,
                ..CopyAction::plain(source, format!("/{COPY_NAME}"))
            };
            operation.copy(&action, &tree)?;
            Ok(active)
        })
        .await
    }

    fn secret(&self, id: &str, required: bool) -> Result<Option<Vec<u8>>, ExecutorError> {
        match self.config.secrets.read(id)? {
            None if required => Err(ExecutorError::NoSecret { id: id.to_owned() }),
            value => Ok(value),
        }
    }
}

fn text(id: &str, value: Vec<u8>) -> Result<String, ExecutorError> {
    match String::from_utf8(value) {
        Ok(value) if !value.contains('\0') => Ok(value),
        _ => Err(ExecutorError::SecretNotText { id: id.to_owned() }),
    }
}

/// The address under which containers reach this machine (`host-gateway`): that of the way out.
///
/// # Errors
///
/// [`ExecutorError::Process`] if there is no way out.
pub fn host_address() -> Result<String, ExecutorError> {
    // Nothing is sent: connecting a datagram socket only asks the routing table.
    let address = UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()));
    match address {
        Ok(address) => Ok(address.ip().to_string()),
        Err(error) => Err(ExecutorError::Process {
            reason: format!("this machine has no address for `host-gateway`: {error}"),
        }),
    }
}
