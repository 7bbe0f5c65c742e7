//! The flags of `strake build`, word for word those of `docker buildx build`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{LimitArgs, SpaceArgs};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A live view on a terminal, else plain
    Auto,
    /// Lines of text
    Plain,
    /// A live view
    Tty,
    /// Nothing but the result
    Quiet,
    /// Nothing at all
    None,
    /// One JSON object a line, as BuildKit's clients read it
    Rawjson,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Name of the image, `name[:tag]`; may be given several times
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub(crate) tags: Vec<String>,

    /// The Dockerfile, `-` for standard input [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<String>,

    /// Value of an ARG; without `=VALUE` it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub(crate) build_args: Vec<String>,

    /// Another source of files or images: NAME=PATH, docker-image://REF, oci-layout://PATH, git or
    /// HTTP URL
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    pub(crate) build_contexts: Vec<String>,

    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,

    /// Build for these platforms, such as linux/amd64
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',', env = "DOCKER_DEFAULT_PLATFORM")]
    pub(crate) platform: Vec<String>,

    /// Execute every step, whatever the cache holds
    #[arg(long, conflicts_with = "no_cache_filter")]
    pub(crate) no_cache: bool,

    /// Execute every step of these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,

    /// Use a cache that another build wrote: REF or type=registry|local|s3,…
    #[arg(long = "cache-from", value_name = "SPEC")]
    pub(crate) cache_from: Vec<String>,

    /// Write the cache of this build: type=registry|local|inline|s3,…[,mode=max]
    #[arg(long = "cache-to", value_name = "SPEC")]
    pub(crate) cache_to: Vec<String>,

    /// Always ask the registry for the base images
    #[arg(long)]
    pub(crate) pull: bool,

    /// Print the image's id and nothing else
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// How progress is shown
    #[arg(long, value_enum, default_value = "auto", env = "BUILDKIT_PROGRESS", hide_env = true)]
    pub(crate) progress: ProgressMode,

    /// Where the result goes: type=image|oci|docker|tar|local|registry,dest=…; a path alone is a
    /// local directory, `-` a tar on standard output
    #[arg(short, long = "output", value_name = "SPEC")]
    pub(crate) outputs: Vec<String>,

    /// Publish the result: the same as -o type=registry
    #[arg(long)]
    pub(crate) push: bool,

    /// Keep the result in the local store beside other outputs
    #[arg(long)]
    pub(crate) load: bool,

    /// A label of the image
    #[arg(long = "label", value_name = "KEY[=VALUE]")]
    pub(crate) labels: Vec<String>,

    /// A secret for RUN --mount=type=secret: id=ID[,src=FILE|env=NAME]
    #[arg(long = "secret", value_name = "SPEC")]
    pub(crate) secrets: Vec<String>,

    /// An agent or keys for RUN --mount=type=ssh: default or ID[=SOCKET|KEY,…]
    #[arg(long = "ssh", value_name = "SPEC")]
    pub(crate) ssh: Vec<String>,

    /// A line of /etc/hosts while building
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub(crate) add_hosts: Vec<String>,

    /// Network of the RUN steps
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub(crate) network: String,

    /// Grants to the build: network.host, security.insecure
    #[arg(long = "allow", value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub(crate) allow: Vec<String>,

    /// A directory of device specifications (CDI), instead of /etc/cdi and /var/run/cdi
    #[arg(
        long = "cdi-spec-dir",
        value_name = "DIR",
        env = "STRAKE_CDI_SPEC_DIR",
        value_delimiter = ':'
    )]
    pub(crate) cdi_spec_dirs: Vec<PathBuf>,

    /// Size of /dev/shm in RUN steps
    #[arg(long, value_name = "BYTES")]
    pub(crate) shm_size: Option<String>,

    /// Limits of RUN steps, NAME=SOFT[:HARD]
    #[arg(long = "ulimit", value_name = "LIMIT")]
    pub(crate) ulimits: Vec<String>,

    /// Write the image's id to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,

    /// Write what is known of the result to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,

    /// Check the Dockerfile instead of building it: the same as --call=check
    #[arg(long, conflicts_with = "call")]
    pub(crate) check: bool,

    /// What is asked for: build, check, outline or targets, with `,format=json` as JSON
    #[arg(long, value_name = "METHOD[,format=json]", default_value = "build")]
    pub(crate) call: String,

    /// Use only what is on this machine: no socket towards a network is opened, RUN steps have no
    /// network, and what would need one is an error
    #[arg(long, conflicts_with_all = ["pull", "push"])]
    pub(crate) offline: bool,

    /// Say at the end why each step was cached or executed, as `strake why` does
    #[arg(long)]
    pub(crate) explain: bool,

    /// How many steps may run at the same time [env: STRAKE_MAX_PARALLELISM] [default: no limit]
    #[arg(long, value_name = "N")]
    pub(crate) max_parallelism: Option<usize>,

    #[command(
        flatten,
        next_help_heading = "Limits of the build cache, held to after the build (see docs/configuration.md)"
    )]
    pub(crate) space: SpaceArgs,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,

    /// The context: a directory, `-` for a tar archive or a Dockerfile on standard input, or a URL
    #[arg(value_name = "PATH|URL|-")]
    pub(crate) context: String,
}
