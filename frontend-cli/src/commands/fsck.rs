//! `strake fsck`: is everything in the store as it was when it was stored?

use std::path::PathBuf;
use std::process::ExitCode;

use cache::gc::check::{check, repair};

use super::du::gc_error;
use super::engine::{Engine, Needs};
use super::say;
use crate::args::FsckArgs;
use crate::report::CliError;

/// Exits with 1 if something is damaged and stays so.
pub(crate) fn fsck(root: Option<PathBuf>, args: &FsckArgs) -> Result<ExitCode, CliError> {
    let engine = Engine::open(root, Needs::Trees)?;
    let look = if args.repair { repair } else { check };
    let damages = look(&engine.store).map_err(gc_error)?;
    for damage in &damages {
        let done = if args.repair { " (removed)" } else { "" };
        say(format!("{damage}{done}"));
    }
    match (damages.len(), args.repair) {
        (0, _) => say("The store is in order."),
        (count, true) => say(format!("{count} damaged or stale things were removed.")),
        (count, false) => {
            return Err(CliError::environment(format!("{count} things are damaged or stale"))
                .hint("remove them with `strake fsck --repair`; builds make them anew"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
