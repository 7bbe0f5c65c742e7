//! The flags of commands that look at what the store holds, free it and mend it.

use clap::Args;

use super::FormatArgs;

#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// Only what fits: until=24h, type=regular, id=…, private, …
    #[arg(long = "filter", value_name = "FIELD=VALUE")]
    pub(crate) filters: Vec<String>,
    /// Everything that is known of each: the same as --format=pretty
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// `table`, `pretty` (as --verbose), `json` (one object a line), or a template: '{{.ID}}',
    /// 'table {{.ID}}\t{{.Size}}'; '{{json .}}' shows the fields
    #[arg(long, value_name = "FORMAT", default_value = "table", conflicts_with = "verbose")]
    pub(crate) format: String,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Forget the results of steps that images were made of, too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Only what fits: until=24h, type=regular, id=…, private, …
    #[arg(long = "filter", value_name = "FIELD=VALUE")]
    pub(crate) filters: Vec<String>,
    /// Say everything that is known of what goes
    #[arg(long)]
    pub(crate) verbose: bool,

    #[command(flatten)]
    pub(crate) space: SpaceArgs,
}

/// How much build cache may stay; what goes is what was not used for the longest time.
#[derive(Debug, Args)]
pub(crate) struct SpaceArgs {
    /// The build cache may be as large as this (bytes, or a percentage of the disk)
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_used_space: Option<String>,

    /// The file system is to have this much free space
    #[arg(long, value_name = "SIZE")]
    pub(crate) min_free_space: Option<String>,

    /// This much build cache stays whatever the two say
    #[arg(long, visible_alias = "keep-storage", value_name = "SIZE")]
    pub(crate) reserved_space: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImagePruneArgs {
    /// Named images that no container needs, too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SystemDfArgs {
    /// Every image, container, volume and piece of build cache
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Remove what is damaged, so that the next build makes it anew
    #[arg(long)]
    pub(crate) repair: bool,
}
