//! The flags of commands that show past builds and the steps of images.

use clap::{Args, Subcommand};

use super::FormatArgs;

#[derive(Debug, Args)]
pub(crate) struct ImageHistoryArgs {
    /// Texts in full length
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Name or id of an image
    pub(crate) image: String,
}

// An image that has the name of a subcommand is shown by `strake image history`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct HistoryArgs {
    #[command(subcommand)]
    pub(crate) command: Option<HistoryCommand>,
    /// Texts in full length
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Show the steps that made this image (as `strake image history`) instead of the last builds
    pub(crate) image: Option<String>,
}

/// A BUILD is an id or its beginning, or `^N`: `^0` is the last build, `^1` the one before.
#[derive(Debug, Subcommand)]
pub(crate) enum HistoryCommand {
    /// List the last builds
    #[command(visible_alias = "list")]
    Ls(HistoryListArgs),
    /// Show what the steps of a build printed
    Logs(HistoryLogsArgs),
    /// Show what is known of a build
    Inspect(HistoryInspectArgs),
    /// Forget builds
    #[command(visible_alias = "remove")]
    Rm(HistoryRemoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct HistoryListArgs {
    /// Only what fits: status=error, ref=ID, tag=NAME, name=TEXT; `!=` for what does not, `~=` for
    /// a part of it
    #[arg(long = "filter", value_name = "FIELD=VALUE")]
    pub(crate) filters: Vec<String>,
    /// Texts in full length
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryLogsArgs {
    /// The build: an id or its beginning, ^N for the Nth before the last [default: the last]
    pub(crate) build: Option<String>,
    /// Only this step: its number, or a part of its name
    pub(crate) step: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryInspectArgs {
    #[command(flatten)]
    pub(crate) format: FormatArgs,
    /// The build: an id or its beginning, ^N for the Nth before the last [default: the last]
    pub(crate) build: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryRemoveArgs {
    /// Forget all builds
    #[arg(long, conflicts_with = "builds")]
    pub(crate) all: bool,
    /// The builds: ids or their beginnings, or ^N
    #[arg(required_unless_present = "all", value_name = "BUILD")]
    pub(crate) builds: Vec<String>,
}
