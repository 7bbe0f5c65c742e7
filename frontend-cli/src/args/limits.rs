//! The limits of containers, word for word those of docker: of each RUN step of a build, and of what
//! `run` starts.

use clap::Args;

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits (kept by control groups, or an error)")]
pub(crate) struct LimitArgs {
    /// Memory, such as 512m: who takes more is killed
    #[arg(short, long, value_name = "BYTES")]
    pub(crate) memory: Option<String>,

    /// Memory and swap together, -1 for unlimited swap [default: twice the memory]
    #[arg(long, value_name = "BYTES", requires = "memory", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,

    /// Time on processors, such as 1.5 processors
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["cpu_quota", "cpu_period"])]
    pub(crate) cpus: Option<String>,

    /// Weight against others when processors are short; 1024 is the usual
    #[arg(short, long, value_name = "SHARES")]
    pub(crate) cpu_shares: Option<u64>,

    /// Microseconds on processors in each period
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_quota: Option<i64>,

    /// Length of a period in microseconds [default: 100000]
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_period: Option<u64>,

    /// Processors to run on, such as 0-3 or 0,2
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,

    /// Memory nodes to take memory of, such as 0-1 or 0,1
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
}
