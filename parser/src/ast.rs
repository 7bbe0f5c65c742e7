//! The tree: what a Dockerfile says, before any variable is expanded.
//!
//! Every text is as written after the lexer joined continuation lines; quotes, escapes and
//! `$variables` are still in it, because what they mean depends on the environment of the
//! instruction. [`crate::Expander`] resolves them. The exceptions are the words of the JSON
//! form, which JSON has unquoted already, and flag values, whose quotes belong to the flag.
//!
//! Comparison ignores places: two trees are equal when they say the same.

use std::time::Duration;

use crate::lint::{Checks, Skip};
use crate::mount::Mount;
use crate::span::{Lines, Span, Spanned};

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dockerfile {
    /// The `# key=value` lines at the top.
    pub directives: Directives,
    /// `ARG` instructions before the first `FROM`, in order.
    pub global_args: Vec<Instruction<Arg>>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
}

/// Parser directives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`, also in its `//` and JSON spellings: the frontend image, then its arguments.
    pub syntax: Option<Spanned<String>>,
    /// `# escape=`: a backslash unless given as a backtick.
    pub escape: char,
    /// `# check=`: which build checks run; the default when not given.
    pub check: Checks,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, escape: '\\', check: Checks::default() }
    }
}

/// One `FROM` and what follows it.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The name behind `AS`, in lower case: names match whatever their case is.
    pub name: Option<Spanned<String>>,
    /// The image or stage it starts from, unexpanded.
    pub base: Spanned<String>,
    /// `--platform`, unexpanded.
    pub platform: Option<Spanned<String>>,
    /// The instructions behind `FROM`, in order.
    pub instructions: Vec<Instruction>,
    /// From `FROM` to the end of the stage's last instruction.
    pub span: Span,
    /// The `FROM` instruction alone.
    pub from_span: Span,
    /// The lines of the `FROM` instruction alone.
    pub from_lines: Lines,
    /// The `FROM` instruction as written, continuations joined.
    pub text: String,
    /// The comment lines directly above `FROM`, without `#`.
    pub comments: Vec<String>,
    /// Build checks that a comment above `FROM` switches off for this `FROM`.
    pub skip: Skip,
}

impl PartialEq for Stage {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.base == other.base
            && self.platform == other.platform
            && self.instructions == other.instructions
    }
}

impl Eq for Stage {}

/// One instruction with its place. `K` narrows the kind where only one is possible.
#[derive(Clone, Debug)]
pub struct Instruction<K = InstructionKind> {
    /// What it says.
    pub kind: K,
    /// From the keyword to the end of the last line, heredoc bodies included.
    pub span: Span,
    /// The lines of `span`.
    pub lines: Lines,
    /// The instruction as written: keyword and arguments, continuation lines joined, comments
    /// dropped, heredoc bodies left out.
    pub text: String,
    /// The comment lines directly above, without `#`.
    pub comments: Vec<String>,
    /// Build checks that a comment above switches off for this instruction.
    pub skip: Skip,
}

impl<K: PartialEq> PartialEq for Instruction<K> {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl<K: Eq> Eq for Instruction<K> {}

/// All instructions but `FROM`, which is a [`Stage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstructionKind {
    /// `ADD`
    Add(Add),
    /// `ARG`
    Arg(Arg),
    /// `CMD`
    Cmd(Cmd),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(Entrypoint),
    /// `ENV`
    Env(Env),
    /// `EXPOSE`
    Expose(Expose),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Label),
    /// `MAINTAINER`
    Maintainer(Maintainer),
    /// `ONBUILD`
    Onbuild(Onbuild),
    /// `RUN`
    Run(Run),
    /// `SHELL`
    Shell(Shell),
    /// `STOPSIGNAL`
    Stopsignal(Stopsignal),
    /// `USER`
    User(User),
    /// `VOLUME`
    Volume(Volume),
    /// `WORKDIR`
    Workdir(Workdir),
}

impl InstructionKind {
    /// The keyword in upper case.
    pub fn keyword(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// How a command was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandForm {
    /// One text for the stage's `SHELL`; never expanded by the build.
    Shell(String),
    /// An argument vector, from a JSON array.
    Exec(Vec<String>),
}

/// A document inside the Dockerfile.
#[derive(Clone, Debug)]
pub struct Heredoc {
    /// The delimiter without quotes; also the file's name in `COPY` and `ADD`.
    pub name: String,
    /// The digits before `<<`.
    pub fd: Option<u32>,
    /// `<<-`: leading tabs are stripped from the body; see [`Heredoc::body`].
    pub strip_tabs: bool,
    /// Whether variables in the body are expanded, i.e. the delimiter had no quotes.
    pub expand: bool,
    /// The lines between, byte for byte, the last newline included.
    pub content: String,
    /// The word `<<NAME` in the instruction.
    pub word: Spanned<String>,
    /// The body in the source.
    pub span: Span,
}

impl PartialEq for Heredoc {
    fn eq(&self, other: &Self) -> bool {
        let said = |h: &Self| (h.fd, h.strip_tabs, h.expand);
        said(self) == said(other) && self.name == other.name && self.content == other.content
    }
}

impl Eq for Heredoc {}

/// `RUN`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The command; with heredocs it still contains the `<<NAME` words. See [`Run::script`].
    pub command: CommandForm,
    /// Heredoc bodies in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order, unexpanded; see [`Mount::resolve`].
    pub mounts: Vec<Mount>,
    /// `--network`
    pub network: Option<Spanned<Network>>,
    /// `--security`
    pub security: Option<Spanned<Security>>,
    /// `--device`, in order.
    pub devices: Vec<Spanned<Device>>,
}

/// `RUN --network`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// What the command line chose.
    Default,
    /// Loopback only.
    None,
    /// The host's own network.
    Host,
}

/// `RUN --security`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// The default rights.
    Sandbox,
    /// All rights.
    Insecure,
}

/// `RUN --device=name[,required]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// A CDI name: `vendor/class=device`, or a class.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
}

/// What a `RUN` with or without heredocs executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// One text for the shell: the command, the body of a lone heredoc, or the command with its
    /// heredoc bodies behind it for the shell to read.
    Shell(String),
    /// An argument vector, no shell.
    Exec(Vec<String>),
    /// A lone heredoc that starts with `#!`: a file of this name and content, executable, that
    /// the shell is given the path of.
    File {
        /// The file's name: the delimiter.
        name: String,
        /// The file's content.
        content: String,
    },
}

/// `COPY`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// `--from`, never expanded: a stage, its number, a named context or an image.
    pub from: Option<Spanned<String>>,
    /// `--chown`, unexpanded.
    pub chown: Option<Spanned<String>>,
    /// `--chmod`, unexpanded; see [`crate::ModeChange`].
    pub chmod: Option<Spanned<String>>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`, in order; never expanded.
    pub excludes: Vec<Spanned<String>>,
    /// What to copy; at least one.
    pub sources: Vec<Source>,
    /// Where to, unexpanded.
    pub destination: Spanned<String>,
}

/// `ADD`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// `--chown`, unexpanded.
    pub chown: Option<Spanned<String>>,
    /// `--chmod`, unexpanded; see [`crate::ModeChange`].
    pub chmod: Option<Spanned<String>>,
    /// `--link`
    pub link: bool,
    /// `--exclude`, in order; never expanded.
    pub excludes: Vec<Spanned<String>>,
    /// `--checksum`, unexpanded.
    pub checksum: Option<Spanned<String>>,
    /// `--keep-git-dir`, if given.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`, if given: without it local archives are unpacked and downloads are not.
    pub unpack: Option<bool>,
    /// What to add; at least one.
    pub sources: Vec<Source>,
    /// Where to, unexpanded.
    pub destination: Spanned<String>,
}

/// One source of `COPY` or `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path, pattern or URL, unexpanded.
    Path(Spanned<String>),
    /// A file whose content stands in the Dockerfile.
    Heredoc(Heredoc),
}

/// `ENV`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env {
    /// The variables in order, keys and values unexpanded.
    pub pairs: Vec<KeyValue>,
    /// Whether it was written `ENV key value`.
    pub legacy: bool,
}

/// `LABEL`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The labels in order, keys and values unexpanded.
    pub pairs: Vec<KeyValue>,
    /// Whether it was written `LABEL key value`.
    pub legacy: bool,
}

/// `key=value`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Left of the first `=`.
    pub key: Spanned<String>,
    /// Right of it.
    pub value: Spanned<String>,
}

/// `ARG`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// The arguments in order; at least one.
    pub args: Vec<ArgDefinition>,
}

/// `name[=default]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgDefinition {
    /// The name, as written.
    pub name: Spanned<String>,
    /// The default, unexpanded.
    pub default: Option<Spanned<String>>,
}

/// `CMD`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmd {
    /// The command; `Exec(vec![])` resets it.
    pub command: CommandForm,
}

/// `ENTRYPOINT`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrypoint {
    /// The command; `Exec(vec![])` resets it.
    pub command: CommandForm,
}

/// `EXPOSE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expose {
    /// The words, unexpanded; one may expand to several. See [`crate::parse_expose`].
    pub ports: Vec<Spanned<String>>,
}

/// `HEALTHCHECK`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`: an inherited check is switched off.
    None,
    /// `HEALTHCHECK CMD`. Options that were not given are `None`.
    Test {
        /// What to run.
        command: CommandForm,
        /// `--interval`
        interval: Option<Duration>,
        /// `--timeout`
        timeout: Option<Duration>,
        /// `--start-period`
        start_period: Option<Duration>,
        /// `--start-interval`
        start_interval: Option<Duration>,
        /// `--retries`
        retries: Option<u32>,
    },
}

/// `MAINTAINER`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintainer {
    /// The author; never expanded.
    pub name: Spanned<String>,
}

/// `ONBUILD`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Onbuild {
    /// The trigger as it is stored in the image: the text behind `ONBUILD`, heredoc bodies and
    /// their delimiters behind it.
    pub trigger: String,
    /// The same, parsed; absent where it cannot be, which is an error only once it fires.
    pub instruction: Option<Box<Instruction>>,
}

/// `SHELL`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shell {
    /// The program and its arguments; at least one word.
    pub command: Vec<String>,
}

/// `STOPSIGNAL`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopsignal {
    /// The signal, unexpanded; see [`crate::parse_signal`].
    pub signal: Spanned<String>,
}

/// `USER`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The rest of the line, unexpanded: `USER a b` names the user `a b`.
    pub user: Spanned<String>,
}

/// `VOLUME`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The paths, unexpanded; none is empty.
    pub paths: Vec<Spanned<String>>,
}

/// `WORKDIR`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workdir {
    /// The rest of the line, unexpanded.
    pub path: Spanned<String>,
}
