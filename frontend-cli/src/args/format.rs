//! `--format`, which is the same of every command that lists.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// `table`, `json` (one object a line), or a template: '{{.ID}}', 'table {{.ID}}\t{{.Size}}';
    /// '{{json .}}' shows the fields
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: String,
}
