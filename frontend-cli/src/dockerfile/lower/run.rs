//! RUN and its mounts.

use parser::{Instruction, MountError, MountSpec, Run, Script};
use solver::llb::{
    DeviceRequest, Edge, ExecMount, ExecOp, ExtraHost, InlineFile, Input, MountKind, NetworkMode,
    Op, SecurityMode, Selector, Sharing, SourceOp, Ulimit,
};

use super::stage::{StageState, clean, join};
use super::{Lowering, OriginEdge, history};
use crate::dockerfile::fault::Fault;
use crate::dockerfile::plan::{Reference, ReferenceUser};

/// Where BuildKit puts the script of a heredoc that starts with `#!`.
const SCRIPT_DIRECTORY: &str = "/dev/pipes";

/// Build arguments that RUN gets without a declaration; they enter no key and no history.
const PROXY_VARIABLES: [&str; 5] =
    ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

impl Lowering<'_> {
    pub(super) fn run(
        &mut self,
        state: &mut StageState,
        run: &Run,
        instruction: &Instruction,
    ) -> Result<(), Fault> {
        let mut inputs = vec![Input::rootfs(state.edge)];
        let mut mounts = Vec::new();
        let args = match run.script() {
            Script::Exec(words) => words,
            Script::Shell(text) => shell_command(state, text),
            Script::File { name, content } => {
                let target = format!("{SCRIPT_DIRECTORY}/{name}");
                let file =
                    InlineFile { path: name.clone(), content: content.into_bytes(), mode: 0o755 };
                let script = self
                    .source(SourceOp::Inline { files: vec![file] }, "[internal] heredoc".into());
                let source = format!("/{name}");
                inputs.push(Input::content(script, Selector::path(source.clone())));
                let kind = MountKind::Bind { input: inputs.len() - 1, source, writable: false };
                mounts.push(ExecMount { target: target.clone(), kind });
                shell_command(state, target)
            }
        };

        let mut agents = 0;
        for mount in &run.mounts {
            let mut unset = Vec::new();
            let spec = {
                let variables = &state.variables;
                let expander = parser::Expander { escape: self.dockerfile.directives.escape };
                mount
                    .resolve(&mut |text| {
                        let expanded = expander
                            .expand(text, &|name| variables.value(name).map(str::to_owned))?;
                        unset.extend(expanded.unset);
                        Ok(expanded.text)
                    })
                    .map_err(|error| mount_fault(error, mount))?
            };
            self.note_unset(state, &unset, mount.span);
            let from = mount.options.iter().find(|option| option.key.value == "from");
            let from_span =
                from.and_then(|option| option.value.as_ref()).map_or(mount.span, |v| v.span);
            mounts.push(self.mount(
                state,
                spec,
                mount.span,
                from_span,
                &mut inputs,
                &mut agents,
            )?);
        }

        let network = self.network(run)?;
        let security = self.security(run)?;
        let op = ExecOp {
            env: state.variables.pairs().clone(),
            proxy_env: self.proxy_variables(state),
            cwd: process_directory(state.working_dir()),
            user: state.config.config.user.clone().unwrap_or_default(),
            hostname: self.settings.build_args.get("BUILDKIT_SANDBOX_HOSTNAME").cloned(),
            network,
            security,
            mounts,
            extra_hosts: self
                .settings
                .extra_hosts
                .iter()
                .map(|(name, address)| ExtraHost { name: name.clone(), address: address.clone() })
                .collect(),
            shm_size: self.settings.shm_size,
            ulimits: self
                .settings
                .ulimits
                .iter()
                .map(|(name, soft, hard)| Ulimit { name: name.clone(), soft: *soft, hard: *hard })
                .collect(),
            devices: run.devices.iter().map(|device| request(&device.value)).collect(),
            ..ExecOp::new(args.clone(), state.platform.clone())
        };
        let meta = self.step_meta(state, &instruction.text);
        state.edge = self.vertex(Op::Exec(op), inputs, meta);
        let created_by = history::run(&args, state.args.now(&state.variables));
        state.add_history(created_by, true);
        Ok(())
    }

    fn mount(
        &mut self,
        state: &StageState,
        spec: MountSpec,
        span: parser::Span,
        from_span: parser::Span,
        inputs: &mut Vec<Input>,
        agents: &mut usize,
    ) -> Result<ExecMount, Fault> {
        let absolute = |target: Option<String>| -> Result<String, Fault> {
            let target = join(state.working_dir(), &target.unwrap_or_default());
            if target == "/" {
                return Err(Fault::new("invalid mount target \"/\"", span)
                    .hint("name a place with target=PATH"));
            }
            Ok(target)
        };
        match spec {
            MountSpec::Bind { target, source, from, read_only } => {
                let edge = match from {
                    Some(name) => self.mount_origin(name, from_span)?.edge,
                    None => self.context(),
                };
                let source = clean(source.as_deref().unwrap_or("/"));
                let input = add_input(inputs, edge, &source);
                let kind = MountKind::Bind { input, source, writable: !read_only };
                Ok(ExecMount { target: absolute(target)?, kind })
            }
            MountSpec::Cache { target, id, from, source, sharing, mode, uid, gid, read_only } => {
                let target = absolute(target)?;
                let id = id.unwrap_or_else(|| target.clone());
                let id = match self.settings.build_args.get("BUILDKIT_CACHE_MOUNT_NS") {
                    Some(namespace) => format!("{namespace}/{id}"),
                    None => id,
                };
                let input = match from {
                    Some(name) => {
                        let edge = self.mount_origin(name, from_span)?.edge;
                        let source = clean(source.as_deref().unwrap_or("/"));
                        Some((add_input(inputs, edge, &source), source))
                    }
                    None => None,
                };
                let sharing = match sharing {
                    parser::Sharing::Shared => Sharing::Shared,
                    parser::Sharing::Private => Sharing::Private,
                    parser::Sharing::Locked => Sharing::Locked,
                };
                let kind = MountKind::Cache {
                    id,
                    sharing,
                    input,
                    mode: mode.unwrap_or(0o755),
                    uid: uid.unwrap_or(0),
                    gid: gid.unwrap_or(0),
                    readonly: read_only,
                };
                Ok(ExecMount { target, kind })
            }
            MountSpec::Tmpfs { target, size, read_only } => {
                let kind = MountKind::Tmpfs { size, readonly: read_only };
                Ok(ExecMount { target: absolute(target)?, kind })
            }
            MountSpec::Secret { id, target, env, required, mode, uid, gid } => {
                let id = match (id, &target) {
                    (Some(id), _) => id,
                    (None, Some(target)) => base_name(target).to_owned(),
                    (None, None) => match &env {
                        Some(env) => env.clone(),
                        None => {
                            return Err(Fault::new("secret mount needs an id or a target", span));
                        }
                    },
                };
                let file = target.is_some() || env.is_none();
                let target = match target {
                    Some(target) => absolute(Some(target))?,
                    None if file => format!("/run/secrets/{}", base_name(&id)),
                    None => String::new(),
                };
                let kind = MountKind::Secret {
                    id,
                    required,
                    mode: mode.unwrap_or(0o400),
                    uid: uid.unwrap_or(0),
                    gid: gid.unwrap_or(0),
                    env,
                    file,
                };
                Ok(ExecMount { target, kind })
            }
            MountSpec::Ssh { id, target, required, mode, uid, gid } => {
                let target = match target {
                    Some(target) => absolute(Some(target))?,
                    None => format!("/run/buildkit/ssh_agent.{agents}"),
                };
                *agents += 1;
                let kind = MountKind::Ssh {
                    id: id.unwrap_or_else(|| "default".into()),
                    required,
                    mode: mode.unwrap_or(0o600),
                    uid: uid.unwrap_or(0),
                    gid: gid.unwrap_or(0),
                };
                Ok(ExecMount { target, kind })
            }
        }
    }

    fn mount_origin(&mut self, name: String, span: parser::Span) -> Result<OriginEdge, Fault> {
        self.origin(&Reference { name, span, user: ReferenceUser::Mount })
    }

    fn network(&self, run: &Run) -> Result<NetworkMode, Fault> {
        let (mode, span) = match &run.network {
            Some(network) if network.value != parser::Network::Default => {
                (network.value, Some(network.span))
            }
            _ => (self.settings.network, None),
        };
        match mode {
            parser::Network::Default => Ok(NetworkMode::Default),
            parser::Network::None => Ok(NetworkMode::None),
            parser::Network::Host if span.is_none() || self.settings.allow_network_host => {
                Ok(NetworkMode::Host)
            }
            parser::Network::Host => Err(Fault {
                message: "network.host is not allowed".into(),
                span,
                hint: Some("grant it with `--allow network.host`".into()),
            }),
        }
    }

    fn security(&self, run: &Run) -> Result<SecurityMode, Fault> {
        match &run.security {
            Some(security) if security.value == parser::Security::Insecure => {
                if self.settings.allow_insecure {
                    return Ok(SecurityMode::Insecure);
                }
                Err(Fault::new("security.insecure is not allowed", security.span)
                    .hint("grant it with `--allow security.insecure`"))
            }
            _ => Ok(SecurityMode::Sandbox),
        }
    }

    fn proxy_variables(&mut self, state: &StageState) -> Vec<(String, String)> {
        let mut variables = Vec::new();
        for name in PROXY_VARIABLES {
            let lower = name.to_lowercase();
            for spelling in [name, lower.as_str()] {
                let Some(value) = self.settings.build_args.get(spelling) else { continue };
                self.used_build_args.push(spelling.to_owned());
                let declared =
                    state.args.names().any(|declared| declared.eq_ignore_ascii_case(name));
                if !declared {
                    variables.push((name.to_owned(), value.clone()));
                    variables.push((lower.clone(), value.clone()));
                }
                break;
            }
        }
        variables
    }
}

/// Where a process starts. `..` is left to the kernel: what stands before it may be a link, or has
/// to be made.
fn process_directory(directory: &str) -> String {
    match directory.split('/').any(|part| part == "..") {
        true => directory.to_owned(),
        false => clean(directory),
    }
}

fn shell_command(state: &StageState, text: String) -> Vec<String> {
    let mut words = state.shell();
    words.push(text);
    words
}

fn request(device: &parser::Device) -> DeviceRequest {
    DeviceRequest { name: device.name.clone(), required: device.required }
}

fn add_input(inputs: &mut Vec<Input>, edge: Edge, source: &str) -> usize {
    let selector = if source == "/" { Selector::everything() } else { Selector::path(source) };
    inputs.push(Input::content(edge, selector));
    inputs.len() - 1
}

fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

fn mount_fault(error: MountError, mount: &parser::Mount) -> Fault {
    match error {
        MountError::Invalid { message, span, hint } => Fault { message, span: Some(span), hint },
        MountError::Expand { ref source, .. } => {
            Fault::new(format!("{error}: {source}"), mount.span)
        }
    }
}
