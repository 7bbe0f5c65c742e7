//! Instructions that change the configuration only, and WORKDIR, which also makes a directory.

use std::time::Duration;

use cache::oci::Healthcheck;
use parser::{CommandForm, Instruction, InstructionKind, KeyValue, Workdir};
use solver::llb::{FileAction, FileOp, Input, MkdirAction, Op};

use super::stage::{StageState, clean, join};
use super::{Lowering, history};
use crate::dockerfile::fault::Fault;

impl Lowering<'_> {
    /// Applies an instruction that makes no layer.
    pub(super) fn configure(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
    ) -> Result<(), Fault> {
        let created_by = match &instruction.kind {
            InstructionKind::Env(env) => {
                let pairs = self.expand_pairs(state, &env.pairs)?;
                for (name, value) in &pairs {
                    state.set_env(name, value);
                }
                format!("ENV{}", history::pairs(&pairs))
            }
            InstructionKind::Label(label) => {
                let pairs = self.expand_pairs(state, &label.pairs)?;
                let labels = state.config.config.labels.get_or_insert_default();
                labels.extend(pairs.iter().cloned());
                format!("LABEL{}", history::pairs(&pairs))
            }
            InstructionKind::Arg(arg) => self.declare_args(state, arg)?,
            InstructionKind::User(user) => {
                let user = self.expand(state, &user.user)?;
                state.config.config.user = Some(user.clone());
                format!("USER {user}")
            }
            InstructionKind::Cmd(cmd) => {
                let command = command_words(state, &cmd.command);
                state.config.config.cmd = Some(command.clone());
                state.config.config.args_escaped = Some(true);
                state.cmd_set = true;
                format!("CMD {}", history::quoted_list(&command))
            }
            InstructionKind::Entrypoint(entrypoint) => {
                let command = command_words(state, &entrypoint.command);
                state.config.config.entrypoint = Some(command.clone()).filter(|c| !c.is_empty());
                if !state.cmd_set {
                    state.config.config.cmd = None;
                }
                format!("ENTRYPOINT {}", history::quoted_list(&command))
            }
            InstructionKind::Shell(shell) => {
                state.config.config.shell = Some(shell.command.clone());
                format!("SHELL {}", history::plain_list(&shell.command))
            }
            InstructionKind::Expose(expose) => self.expose(state, expose)?,
            InstructionKind::Volume(volume) => {
                let mut paths = Vec::new();
                for path in &volume.paths {
                    let expanded = self.expand(state, path)?;
                    if expanded.is_empty() {
                        return Err(Fault::new(
                            "VOLUME specified can not be an empty string",
                            path.span,
                        ));
                    }
                    paths.push(expanded);
                }
                let volumes = state.config.config.volumes.get_or_insert_default();
                volumes.extend(paths.iter().map(|path| (path.clone(), empty_object())));
                format!("VOLUME {}", history::plain_list(&paths))
            }
            InstructionKind::Stopsignal(stopsignal) => {
                let signal = self.expand(state, &stopsignal.signal)?;
                parser::parse_signal(&signal)
                    .map_err(|error| Fault::of_value(error, stopsignal.signal.span))?;
                state.config.config.stop_signal = Some(signal.clone());
                format!("STOPSIGNAL {signal}")
            }
            InstructionKind::Healthcheck(check) => {
                let check = healthcheck(check);
                let created_by = history::healthcheck(&check);
                state.config.config.healthcheck = Some(check);
                created_by
            }
            InstructionKind::Maintainer(maintainer) => {
                state.config.author = Some(maintainer.name.value.clone());
                format!("MAINTAINER {}", maintainer.name)
            }
            InstructionKind::Onbuild(onbuild) => {
                // BuildKit keeps no history of triggers.
                state.config.config.on_build.get_or_insert_default().push(onbuild.trigger.clone());
                return Ok(());
            }
            InstructionKind::Run(_)
            | InstructionKind::Copy(_)
            | InstructionKind::Add(_)
            | InstructionKind::Workdir(_) => return self.instruction(state, instruction),
        };
        state.add_history(created_by, false);
        Ok(())
    }

    /// All values see the variables as they were before the instruction.
    fn expand_pairs(
        &mut self,
        state: &StageState,
        pairs: &[KeyValue],
    ) -> Result<Vec<(String, String)>, Fault> {
        let mut expanded = Vec::new();
        for pair in pairs {
            let key = self.expand(state, &pair.key)?;
            expanded.push((key, self.expand(state, &pair.value)?));
        }
        Ok(expanded)
    }

    fn declare_args(&mut self, state: &mut StageState, arg: &parser::Arg) -> Result<String, Fault> {
        let mut created_by = String::from("ARG");
        for definition in &arg.args {
            let name = definition.name.as_str();
            let given = self.settings.build_args.get(name).cloned();
            if given.is_some() {
                self.used_build_args.push(name.to_owned());
            }
            let value = match (given, &definition.default) {
                (Some(value), _) => Some(value),
                (None, Some(default)) => Some(self.expand(state, default)?),
                (None, None) => self.plan.globals.value(name).map(str::to_owned),
            };
            created_by.push(' ');
            created_by.push_str(name);
            if let Some(value) = &value {
                created_by.push('=');
                created_by.push_str(value);
            }
            state.declare_arg(name, value);
        }
        Ok(created_by)
    }

    fn expose(&mut self, state: &mut StageState, expose: &parser::Expose) -> Result<String, Fault> {
        let mut ports = Vec::new();
        // In BuildKit's order: the words are sorted as they are written.
        let mut words: Vec<_> = expose.ports.iter().collect();
        words.sort_by(|a, b| a.value.cmp(&b.value));
        for word in words {
            for text in self.expand_words(state, word)? {
                let exposed = parser::parse_expose(&text)
                    .map_err(|error| Fault::of_value(error, word.span))?;
                if let Some(proto) = &exposed.proto_casing {
                    let message = format!(
                        "Defined protocol '{proto}' in EXPOSE instruction should be lowercase"
                    );
                    self.warnings.push(("ExposeProtoCasing", Fault::new(message, word.span)));
                }
                if exposed.host_part {
                    let message = format!(
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'"
                    );
                    self.warnings.push(("ExposeInvalidFormat", Fault::new(message, word.span)));
                }
                ports.extend(exposed.ports);
            }
        }
        let exposed = state.config.config.exposed_ports.get_or_insert_default();
        exposed.extend(ports.iter().map(|port| (port.clone(), empty_object())));
        Ok(format!("EXPOSE {}", history::plain_list(&ports)))
    }

    /// WORKDIR: the directory is made, as the current user's, unless it is the root.
    ///
    /// As in BuildKit an absolute path stays as it is written (`/app/`), a relative one is joined
    /// and cleaned.
    pub(super) fn workdir(
        &mut self,
        state: &mut StageState,
        workdir: &Workdir,
        instruction: &Instruction,
    ) -> Result<(), Fault> {
        let path = self.expand(state, &workdir.path)?;
        // The working directory of a base image does not count: it may change with the image.
        if !path.starts_with('/') && !state.workdir_set && !state.steps.is_trigger {
            let message = format!(
                "Relative workdir \"{path}\" can have unexpected results if the base image changes"
            );
            self.warnings.push(("WorkdirRelativePath", Fault::new(message, workdir.path.span)));
        }
        state.workdir_set |= !state.steps.is_trigger;
        let directory = match path.chars().next() {
            Some('/') => path,
            Some(_) => join(state.working_dir(), &path),
            None => state.working_dir().to_owned(),
        };
        state.config.config.working_dir = Some(directory.clone());
        let has_layer = directory != "/";
        if has_layer {
            let mkdir = MkdirAction {
                path: clean(&directory),
                mode: 0o755,
                owner: state.config.config.user.as_deref().and_then(super::copy::owner),
                parents: true,
                created: self.epoch(),
            };
            let op = Op::File(FileOp { actions: vec![FileAction::Mkdir(mkdir)] });
            let mut meta = self.step_meta(state, &instruction.text);
            // --no-cache is for steps that can have another result the next time.
            meta.no_cache = false;
            state.edge = self.vertex(op, vec![Input::rootfs(state.edge)], meta);
        }
        state.add_history(format!("WORKDIR {directory}"), has_layer);
        Ok(())
    }
}

/// The words of CMD and ENTRYPOINT as they stand in the configuration.
pub(super) fn command_words(state: &StageState, command: &CommandForm) -> Vec<String> {
    match command {
        CommandForm::Exec(words) => words.clone(),
        CommandForm::Shell(text) => {
            let mut words = state.shell();
            words.push(text.clone());
            words
        }
    }
}

fn healthcheck(check: &parser::Healthcheck) -> Healthcheck {
    match check {
        parser::Healthcheck::None => {
            Healthcheck { test: Some(vec!["NONE".into()]), ..Healthcheck::default() }
        }
        parser::Healthcheck::Test {
            command,
            interval,
            timeout,
            start_period,
            start_interval,
            retries,
        } => {
            let nanoseconds = |duration: &Option<Duration>| {
                duration
                    .and_then(|duration| i64::try_from(duration.as_nanos()).ok())
                    .filter(|nanoseconds| *nanoseconds != 0)
            };
            let test = match command {
                CommandForm::Exec(words) => {
                    std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect()
                }
                CommandForm::Shell(text) => vec!["CMD-SHELL".into(), text.clone()],
            };
            Healthcheck {
                test: Some(test),
                interval: nanoseconds(interval),
                timeout: nanoseconds(timeout),
                start_period: nanoseconds(start_period),
                start_interval: nanoseconds(start_interval),
                retries: retries.filter(|retries| *retries != 0).map(i64::from),
            }
        }
    }
}

fn empty_object() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}
