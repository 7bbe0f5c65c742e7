//! What a stage is between two of its instructions.

use std::collections::HashMap;

use cache::oci::{HistoryEntry, ImageConfiguration, Platform};
use parser::{ExpandError, Expander, Span, Spanned};
use solver::llb::{Edge, VertexMeta};

use super::Lowering;
use super::args::Args;
use crate::dockerfile::fault::{Fault, nearest};
use crate::dockerfile::plan::{ImageRequest, ResolvedImage};
use crate::dockerfile::variables::Variables;

/// `PATH` of an image that names none (BuildKit's `system.DefaultPathEnvUnix`).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    pub(super) edge: Edge,
    pub(super) config: ImageConfiguration,
    pub(super) base: Option<ImageRequest>,
    pub(super) platform: Platform,
    /// ENV and ARG together, the later one wins (decision D1).
    pub(super) variables: Variables,
    pub(super) args: Args,
    /// Where each variable of ENV stands in the configuration.
    env_places: HashMap<String, usize>,
    /// CMD was set in this stage: ENTRYPOINT keeps it.
    pub(super) cmd_set: bool,
    /// The Dockerfile has set WORKDIR: what a relative one is relative to stands in it.
    pub(super) workdir_set: bool,
    pub(super) no_cache: bool,
    pub(super) label: String,
    /// Of a stage upon a named directory, which is a layer without history: the last step that
    /// made a layer. BuildKit names the missing entry after it.
    pub(super) unrecorded: Option<String>,
    pub(super) steps: Steps,
}

/// Numbers the steps of a stage for the progress: `[builder 2/4] `.
#[derive(Debug, Clone)]
pub(super) struct Steps {
    /// Absent where the file has one stage only.
    stage: Option<String>,
    /// Absent where one platform is built only.
    platform: Option<String>,
    total: usize,
    done: usize,
    /// The next step comes from an ONBUILD trigger.
    pub(super) is_trigger: bool,
}

impl Steps {
    pub(super) fn new(stage: Option<String>, platform: Option<String>, total: usize) -> Self {
        Steps { stage, platform, total, done: 0, is_trigger: false }
    }

    /// The prefix of the next step's name.
    pub(super) fn advance(&mut self) -> String {
        self.done += 1;
        let number = format!("{}/{}", self.done, self.total);
        let words = self.platform.iter().chain(&self.stage).chain(std::iter::once(&number));
        let words = words.map(String::as_str).collect::<Vec<_>>().join(" ");
        let trigger = if self.is_trigger { "ONBUILD " } else { "" };
        format!("[{words}] {trigger}")
    }
}

impl StageState {
    pub(super) fn scratch(edge: Edge, platform: Platform, steps: Steps) -> Self {
        let mut config = ImageConfiguration {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..ImageConfiguration::default()
        };
        config.config.working_dir = Some("/".into());
        StageState::new(edge, config, None, platform, steps)
    }

    pub(super) fn from_image(
        edge: Edge,
        request: ImageRequest,
        image: &ResolvedImage,
        steps: Steps,
    ) -> Self {
        let mut config = image.config.clone();
        // What made the base is no part of what is made of it.
        for field in ["container", "container_config", "docker_version"] {
            config.extra.remove(field);
        }
        let platform = request.platform.clone();
        StageState::new(edge, config, Some(request), platform, steps)
    }

    fn new(
        edge: Edge,
        mut config: ImageConfiguration,
        base: Option<ImageRequest>,
        platform: Platform,
        steps: Steps,
    ) -> Self {
        let mut variables = Variables::from_entries(config.config.env.iter().flatten());
        if variables.value("PATH").is_none() {
            variables.set("PATH", DEFAULT_PATH);
            config.config.env = Some(variables.entries());
        }
        let mut env_places = HashMap::new();
        for (place, entry) in config.config.env.iter().flatten().enumerate() {
            env_places.entry(name_of(entry).to_owned()).or_insert(place);
        }
        StageState {
            edge,
            config,
            base,
            platform,
            variables,
            args: Args::default(),
            env_places,
            cmd_set: false,
            workdir_set: false,
            no_cache: false,
            label: String::new(),
            unrecorded: None,
            steps,
        }
    }

    /// The start of a stage `FROM` this one: everything is inherited but what counts per stage.
    pub(super) fn child(&self, steps: Steps) -> Self {
        StageState { cmd_set: false, steps, ..self.clone() }
    }

    pub(super) fn working_dir(&self) -> &str {
        match self.config.config.working_dir.as_deref() {
            None | Some("") => "/",
            Some(directory) => directory,
        }
    }

    /// The words before a shell-form command.
    pub(super) fn shell(&self) -> Vec<String> {
        match &self.config.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ => vec!["/bin/sh".into(), "-c".into()],
        }
    }

    /// Sets an ENV variable, for the steps to come and for the image.
    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        self.variables.set(name, value);
        let entry = format!("{name}={value}");
        let env = self.config.config.env.get_or_insert_default();
        match self.env_places.get(name) {
            Some(place) => env[*place] = entry,
            None => {
                self.env_places.insert(name.to_owned(), env.len());
                env.push(entry);
            }
        }
        self.args.changed(name);
    }

    /// Brings an ARG into scope.
    pub(super) fn declare_arg(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = &value {
            self.variables.set(name, value);
        }
        self.args.declare(name, value, &self.variables);
    }

    pub(super) fn add_history(&mut self, created_by: String, has_layer: bool) {
        self.config.history.push(HistoryEntry {
            created_by: Some(created_by),
            comment: Some("buildkit.dockerfile.v0".into()),
            author: None,
            created: None,
            empty_layer: (!has_layer).then_some(true),
        });
    }
}

impl Lowering<'_> {
    fn expander(&self) -> Expander {
        Expander { escape: self.dockerfile.directives.escape }
    }

    /// One word with its variables expanded.
    pub(super) fn expand(
        &mut self,
        state: &StageState,
        word: &Spanned<String>,
    ) -> Result<String, Fault> {
        self.expand_text(state, word.as_str(), word.span)
    }

    pub(super) fn expand_text(
        &mut self,
        state: &StageState,
        text: &str,
        span: Span,
    ) -> Result<String, Fault> {
        let lookup = |name: &str| state.variables.value(name).map(str::to_owned);
        let expanded = self
            .expander()
            .expand(text, &lookup)
            .map_err(|error| expansion_fault(&error, text, span))?;
        self.note_unset(state, &expanded.unset, span);
        Ok(expanded.text)
    }

    /// One word that may expand to several.
    pub(super) fn expand_words(
        &mut self,
        state: &StageState,
        word: &Spanned<String>,
    ) -> Result<Vec<String>, Fault> {
        let lookup = |name: &str| state.variables.value(name).map(str::to_owned);
        let expanded = self
            .expander()
            .expand_words(word.as_str(), &lookup)
            .map_err(|error| expansion_fault(&error, word.as_str(), word.span))?;
        self.note_unset(state, &expanded.unset, word.span);
        Ok(expanded.words)
    }

    pub(super) fn expand_heredoc(
        &mut self,
        state: &StageState,
        body: &str,
        span: Span,
    ) -> Result<String, Fault> {
        let lookup = |name: &str| state.variables.value(name).map(str::to_owned);
        let expanded = self
            .expander()
            .expand_heredoc(body, &lookup)
            .map_err(|error| expansion_fault(&error, "heredoc", span))?;
        self.note_unset(state, &expanded.unset, span);
        Ok(expanded.text)
    }

    /// `SOURCE_DATE_EPOCH`, in seconds: the time of what the build itself makes. Only a
    /// `--build-arg` and an ARG before the first FROM count.
    pub(super) fn epoch(&self) -> Option<i64> {
        let given = self.settings.build_args.get("SOURCE_DATE_EPOCH").map(String::as_str);
        let text = given.or_else(|| self.plan.globals.value("SOURCE_DATE_EPOCH"))?;
        text.parse().ok()
    }

    pub(super) fn note_unset(&mut self, state: &StageState, unset: &[String], span: Span) {
        for name in unset {
            // An ARG without a value is declared all the same.
            if state.args.has(name) || state.steps.is_trigger {
                continue;
            }
            let mut fault = Fault::new(format!("Usage of undefined variable '${name}'"), span);
            if let Some(near) = nearest(name, state.variables.names()) {
                fault = fault.hint(format!("did you mean ${near}?"));
            }
            self.warnings.push(("UndefinedVar", fault));
        }
    }

    /// The description of the instruction's vertex, numbered within its stage.
    pub(super) fn step_meta(&mut self, state: &mut StageState, text: &str) -> VertexMeta {
        let name = format!("{}{text}", state.steps.advance());
        if let Some(last) = &mut state.unrecorded {
            last.clone_from(&name);
        }
        self.meta(name, state.no_cache, Some(state.label.clone()))
    }
}

/// The name of an entry `NAME=value`.
fn name_of(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

fn expansion_fault(error: &ExpandError, text: &str, span: Span) -> Fault {
    Fault::new(format!("failed to process \"{text}\": {error}"), span)
}

/// Joins a path to a directory and cleans it, as Go's `path.Join` does.
pub(super) fn join(directory: &str, path: &str) -> String {
    let full = if path.starts_with('/') { path.to_owned() } else { format!("{directory}/{path}") };
    clean(&full)
}

/// An absolute path without `.`, `..` and doubled slashes; it never leaves the root.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
