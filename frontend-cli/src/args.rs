//! What was typed: the command line as clap reads it, before anything is made of it.
//!
//! Flags are those of `docker build`, `docker run` and `docker image`, word for word. A flag stands
//! here only if it works; an unknown one is an error with the nearest known one as a hint. What the
//! words *mean* is decided by the commands (`commands::build::BuildOptions` and its like).

mod build;
mod disk;
mod format;
mod history;
mod limits;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, FromArgMatches, Parser, Subcommand, ValueEnum};

pub(crate) use build::{BuildArgs, ProgressMode};
pub(crate) use disk::{DuArgs, FsckArgs, ImagePruneArgs, PruneArgs, SpaceArgs, SystemDfArgs};
pub(crate) use format::FormatArgs;
pub(crate) use history::{
    HistoryArgs, HistoryCommand, HistoryInspectArgs, HistoryListArgs, HistoryLogsArgs,
    HistoryRemoveArgs, ImageHistoryArgs,
};
pub(crate) use limits::LimitArgs;

/// Builds images from Dockerfiles, runs and publishes them: one binary, no daemon, root optional.
#[derive(Debug, Parser)]
#[command(name = "strake", version, max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Where images, layers and the build cache live [default: /var/lib/strake as root, else
    /// $XDG_DATA_HOME/strake]
    #[arg(long, global = true, env = "STRAKE_ROOT", value_name = "DIR", hide_env_values = true)]
    pub(crate) root: Option<PathBuf>,

    /// The only configuration file [default: $XDG_CONFIG_HOME/strake/strake.toml over
    /// /etc/strake/strake.toml]
    #[arg(long, global = true, env = "STRAKE_CONFIG", value_name = "FILE", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
}

impl Cli {
    /// Reads the command line `words`, whose first one is the program.
    pub(crate) fn read(words: &[OsString]) -> Result<Cli, clap::Error> {
        match Cli::read_frequent(words) {
            Some(cli) => Ok(cli),
            None => Cli::try_parse_from(words),
        }
    }

    /// Reads `strake run …` and `strake build …` with the description of that one command: making
    /// that of all commands takes a third of the instructions that a start consists of. `None` for
    /// every other command line, and for one with a mistake or a wish for help, where clap has to
    /// know all.
    fn read_frequent(words: &[OsString]) -> Option<Cli> {
        let command = match words.get(1)?.to_str()? {
            "run" => RunArgs::augment_args(clap::Command::new("run")),
            "build" => BuildArgs::augment_args(clap::Command::new("build")),
            _ => return None,
        };
        let program = GlobalArgs::augment_args(clap::Command::new("strake")).subcommand(command);
        let found = program.try_get_matches_from(words).ok()?;
        let (name, arguments) = found.subcommand()?;
        let command = match name {
            "run" => Command::Run(Box::new(RunArgs::from_arg_matches(arguments).ok()?)),
            _ => Command::Build(Box::new(BuildArgs::from_arg_matches(arguments).ok()?)),
        };
        Some(Cli { global: GlobalArgs::from_arg_matches(&found).ok()?, command })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Run a command in a new container
    Run(Box<RunArgs>),
    /// List images
    Images(ListArgs),
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Remove images
    Rmi(RemoveArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Read images from an archive
    Load(LoadArgs),
    /// Make an image of a root file system archive
    Import(ImportArgs),
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// Publish an image to a registry
    Push(PushArgs),
    /// Show the last builds and their logs, or the steps that made an image
    History(HistoryArgs),
    /// Show images in full, as JSON
    Inspect(InspectArgs),
    /// Explain the cache hits and misses of the last build
    Why(WhyArgs),
    /// List containers that were kept
    Ps(PsArgs),
    /// Remove containers that were kept
    Rm(RmArgs),
    /// Show what the build cache occupies
    Du(DuArgs),
    /// Remove build cache
    Prune(PruneArgs),
    /// Manage the build cache
    #[command(subcommand)]
    Builder(BuilderCommand),
    /// Carry the build cache to another machine
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Look at the whole store
    #[command(subcommand)]
    System(SystemCommand),
    /// Look for damage in the store, and repair it
    Fsck(FsckArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Bring what was stored to the disk (commands that store something start this one)
    #[command(hide = true)]
    SyncStore,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show images in full, as JSON
    Inspect(InspectArgs),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Read images from an archive
    Load(LoadArgs),
    /// Make an image of a root file system archive
    Import(ImportArgs),
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// Publish an image to a registry
    Push(PushArgs),
    /// Show the steps that made an image
    History(ImageHistoryArgs),
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Remove images without a name
    Prune(ImagePruneArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum BuilderCommand {
    /// Remove build cache
    Prune(PruneArgs),
    /// Show what the build cache occupies
    Du(DuArgs),
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Write the build cache with its cache mounts to a directory, a registry or an S3 store
    Export(CacheExportArgs),
    /// Take in a build cache that another store exported
    Import(CacheImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CacheExportArgs {
    /// A directory, or type=local|registry|s3,… as with build --cache-to
    #[arg(value_name = "DEST")]
    pub(crate) destination: String,

    /// Leave the cache mounts out
    #[arg(long)]
    pub(crate) no_mounts: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CacheImportArgs {
    /// A directory, or type=local|registry|s3,… as with build --cache-from
    #[arg(value_name = "SRC")]
    pub(crate) source: String,

    /// Leave the cache mounts out
    #[arg(long)]
    pub(crate) no_mounts: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Show what images, containers and the build cache occupy
    Df(SystemDfArgs),
}

// `-h` is the host name, as with docker; the help has its long name only.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RunArgs {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// Remove the container when it ends
    #[arg(long)]
    pub(crate) rm: bool,

    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,

    /// Give the process a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,

    /// An environment variable; without `=VALUE` it is taken from the environment
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,

    /// Environment variables from a file
    #[arg(long = "env-file", value_name = "FILE")]
    pub(crate) env_files: Vec<PathBuf>,

    /// Mount a directory or a volume: SOURCE:TARGET[:ro]
    #[arg(short, long = "volume", value_name = "SPEC")]
    pub(crate) volumes: Vec<String>,

    /// Mount a tmpfs
    #[arg(long = "tmpfs", value_name = "TARGET[:OPTIONS]")]
    pub(crate) tmpfs: Vec<String>,

    /// Working directory of the process
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,

    /// User of the process: NAME|UID[:GROUP|GID]
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,

    /// Name of the container
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Host name of the container
    #[arg(short = 'h', long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,

    /// Replaces the image's ENTRYPOINT
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,

    /// Network of the container
    #[arg(
        long,
        visible_alias = "net",
        value_name = "none|host|default",
        default_value = "default"
    )]
    pub(crate) network: String,

    /// A line of /etc/hosts
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub(crate) add_hosts: Vec<String>,

    /// Mount the root file system read-only
    #[arg(long)]
    pub(crate) read_only: bool,

    /// Lift the sandbox's restrictions: all capabilities, no seccomp filter
    #[arg(long)]
    pub(crate) privileged: bool,

    /// Use only what is on this machine: no socket towards a network is opened, and the container
    /// has no network
    #[arg(long)]
    pub(crate) offline: bool,

    /// Platform of the image
    #[arg(long, value_name = "PLATFORM", env = "DOCKER_DEFAULT_PLATFORM")]
    pub(crate) platform: Option<String>,

    /// When to ask the registry for the image
    #[arg(long, value_enum, default_value = "missing")]
    pub(crate) pull: PullPolicy,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,

    /// Processes and threads at the same time, -1 for no limit
    #[arg(
        long,
        value_name = "NUMBER",
        allow_hyphen_values = true,
        help_heading = "Limits (kept by control groups, or an error)"
    )]
    pub(crate) pids_limit: Option<i64>,

    /// The image: a name, a name with digest, or an id
    pub(crate) image: String,

    /// The command and its arguments, instead of the image's CMD
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// When the registry is asked for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    /// Always
    Always,
    /// When the image is not in the local store
    Missing,
    /// Never
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Ids in full length
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Digests too
    #[arg(long)]
    pub(crate) digests: bool,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
    /// Only images of this name
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// `json`, or a template for each image: '{{.Id}}', '{{json .Config}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Names or ids of images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Remove the image even if it has other names
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names or ids of images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Name or id of an image
    #[arg(value_name = "IMAGE")]
    pub(crate) source: String,
    /// The new name
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) target: String,
}

/// The layout of an image archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArchiveFormat {
    /// What `docker load` reads
    DockerArchive,
    /// An OCI image layout
    OciArchive,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// The archive [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Layout of the archive
    #[arg(long, value_enum, default_value = "docker-archive")]
    pub(crate) format: ArchiveFormat,
    /// Names or ids of images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The archive, or an OCI layout directory [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Say nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Apply a Dockerfile instruction to the image's configuration
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    pub(crate) changes: Vec<String>,
    /// Comment in the image's history
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// Platform of the image [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// The archive, plain or compressed; `-` for standard input
    #[arg(value_name = "FILE|-")]
    pub(crate) source: String,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Ask nobody: succeed if the image is here with all its layers, else say what is missing
    #[arg(long)]
    pub(crate) offline: bool,
    /// Say nothing but the image's name
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Platform of the image [default: this machine's]
    #[arg(long, value_name = "PLATFORM", env = "DOCKER_DEFAULT_PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Say nothing but the digest
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// Only steps whose name contains this text [default: every step]
    pub(crate) step: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Ended containers too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Ids and commands in full length
    #[arg(long)]
    pub(crate) no_trunc: bool,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Names or ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_commands_are_read_as_by_the_whole_description() {
        for line in [
            "strake run --rm busybox true",
            "strake run --root /r -it --env A=1 -h host --pull never image sh -c --rm",
            "strake run --help",
            "strake run",
            "strake run --rmm image",
            "strake build .",
            "strake build --root=/r -t a -t b --build-arg X=1 --progress plain -f - context",
            "strake build --no-such-flag",
            "strake build -h",
            "strake --root /r run image",
            "strake images",
            "strake",
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let whole = format!("{:?}", Cli::try_parse_from(&words));
            assert_eq!(format!("{:?}", Cli::read(&words)), whole, "{line}");
            let one = Cli::read_frequent(&words);
            let is_frequent = line.starts_with("strake run ") || line.starts_with("strake build ");
            assert_eq!(one.is_some(), is_frequent && whole.starts_with("Ok"), "{line}");
        }
    }
}
