//! Failures of a build in the user's terms: the lines of the Dockerfile, the last output, what to
//! do about it.

use std::error::Error;

use executor::ExecutorError;
use parser::Diagnostic;
use runtime::Identity;
use solver::llb::SourceLocation;
use solver::{OpError, SolveError};

use super::source::{BuildSource, IgnoreFile};
use crate::commands::engine::storage_hint;
use crate::commands::far;
use crate::commands::limits::human_limit;
use crate::dockerfile::Fault;
use crate::report::{CliError, ErrorKind, Excerpt, Problem, chain};

/// Lines of a failed step's output that are repeated below the error.
const TAIL_LINES: usize = 8;

/// Turns failures into reports, with the Dockerfile at hand.
pub(super) struct FailureReporter<'a> {
    file: &'a str,
    text: String,
    ignore: &'a IgnoreFile,
    /// Why there is one user id only, where that is so.
    single_id: Option<String>,
}

impl<'a> FailureReporter<'a> {
    pub(super) fn new(source: &'a BuildSource) -> Self {
        let text = source.lossy();
        FailureReporter { file: &source.file, text, ignore: &source.ignore, single_id: None }
    }

    /// With what the steps' processes can be.
    pub(super) fn running_as(mut self, identity: &Identity) -> Self {
        if let Identity::Single { reason, .. } = identity {
            self.single_id = Some(reason.clone());
        }
        self
    }

    pub(super) fn excerpt(&self, span: parser::Span) -> Excerpt {
        Excerpt {
            file: self.file.to_owned(),
            source: self.text.clone(),
            span: span.start..span.end,
            label: None,
        }
    }

    /// All errors of the parser at once.
    pub(super) fn parse_errors(&self, diagnostics: &[Diagnostic]) -> CliError {
        let problems =
            diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).map(|diagnostic| {
                let problem = Problem::new(&diagnostic.message).at(self.excerpt(diagnostic.span));
                match &diagnostic.hint {
                    Some(hint) => problem.hint(hint),
                    None => problem,
                }
            });
        CliError::new(ErrorKind::Input, problems.collect())
    }

    pub(super) fn faults(&self, faults: Vec<Fault>) -> CliError {
        let problems = faults.into_iter().map(|fault| {
            let mut problem = Problem::new(fault.message);
            if let Some(span) = fault.span {
                problem = problem.at(self.excerpt(span));
            }
            match fault.hint {
                Some(hint) => problem.hint(hint),
                None => problem,
            }
        });
        CliError::new(ErrorKind::Input, problems.collect())
    }

    pub(super) fn solve_error(&self, error: &SolveError) -> CliError {
        let SolveError::Op { vertex, cause, .. } = error else {
            return CliError::internal(chain(error));
        };
        let instruction =
            vertex.meta.name.split_once("] ").map_or(vertex.meta.name.as_str(), |(_, text)| text);
        let mut problem = match &**cause {
            OpError::Exit { memory_limit: Some(limit), .. } => {
                let limit = human_limit(*limit);
                let text = format!("`{instruction}` was killed: out of memory at {limit}");
                Problem::new(text).hint("give the steps more with --memory")
            }
            OpError::Exit { code, signal, oom, .. } => {
                Problem::new(format!("`{instruction}` {}", ending(*code, *signal, *oom)))
            }
            OpError::Worker(cause) => self.worker_problem(instruction, cause.as_ref()),
        };
        if let (solver::llb::Op::Exec(exec), OpError::Worker(cause)) = (&vertex.op, &**cause)
            && let Some(ExecutorError::Runtime(runtime::RuntimeError::Exec { errno, .. })) =
                cause.downcast_ref::<ExecutorError>()
            && let Some(hint) = super::foreign::missing(&exec.platform, *errno)
        {
            problem = problem.hint(hint);
        }
        if let Some(location) = &vertex.meta.source {
            problem = problem.at(self.excerpt_of(location, vertex.meta.stage.as_deref()));
        }
        let tail = cause.log_tail();
        if let Some(reason) = &self.single_id
            && tail.iter().any(|line| is_refused_owner(line))
        {
            problem = problem.hint(format!(
                "only one user id is mapped here ({reason}); other owners and users need the package `uidmap` and ranges in /etc/subuid and /etc/subgid"
            ));
        }
        let tail = tail[tail.len().saturating_sub(TAIL_LINES)..].join("\n");
        if !tail.is_empty() {
            problem = problem.note(format!("last output: {tail}"));
        }
        let kind = match &**cause {
            OpError::Exit { .. } => ErrorKind::Input,
            OpError::Worker(_) => ErrorKind::Environment,
        };
        CliError::new(kind, vec![problem])
    }

    fn worker_problem(
        &self,
        instruction: &str,
        cause: &(dyn Error + Send + Sync + 'static),
    ) -> Problem {
        let Some(error) = cause.downcast_ref::<ExecutorError>() else {
            return Problem::new(format!("`{instruction}` failed")).note(chain(cause));
        };
        let mut problem = match error {
            ExecutorError::NotFound { path, tree, excluded_by, .. } => {
                let problem = Problem::new(format!("`{path}` is not in {tree}: not found"));
                match excluded_by {
                    Some(rule) => problem.hint(self.ignored(path, rule.rule, &rule.pattern)),
                    None => problem,
                }
            }
            ExecutorError::Runtime(error) => {
                Problem::new(format!("`{instruction}` could not be started")).note(chain(error))
            }
            error => Problem::new(format!("`{instruction}` failed")).note(chain(error)),
        };
        if let Some(hint) = unreached(error) {
            problem = problem.hint(hint);
        }
        problem = match error {
            ExecutorError::NoSecret { id } => problem.hint(format!(
                "give the build its value: --secret id={id},src=FILE or --secret id={id},env=NAME"
            )),
            ExecutorError::NoAgent { id } => problem.hint(format!(
                "give the build an agent or a key: --ssh {id} or --ssh {id}=SOCKET|KEY"
            )),
            _ => problem,
        };
        if let Some(near) = error.near_names().first() {
            problem = problem.hint(format!("did you mean `{near}`?"));
        }
        if let Some(hint) = io_cause(error).and_then(storage_hint) {
            problem = problem.hint(hint);
        }
        problem
    }

    fn ignored(&self, path: &str, rule: usize, pattern: &str) -> String {
        match self.ignore.lines.get(rule) {
            Some(line) => format!(
                "`{}` line {} (`{}`) excludes `{path}`",
                self.ignore.name, line.line, line.text
            ),
            None => format!("the ignore pattern `{pattern}` excludes `{path}`"),
        }
    }

    fn excerpt_of(&self, location: &SourceLocation, stage: Option<&str>) -> Excerpt {
        let mut start = None;
        let mut end = 0;
        let mut offset = 0;
        for (number, line) in (1..).zip(self.text.split_inclusive('\n')) {
            if number >= location.first_line && number <= location.last_line {
                start.get_or_insert(offset);
                end = offset + line.trim_end().len();
            }
            offset += line.len();
        }
        let start = start.unwrap_or(0);
        Excerpt {
            file: location.file.clone(),
            source: self.text.clone(),
            span: start..end.max(start),
            label: stage.map(|stage| format!("stage `{stage}`")),
        }
    }
}

/// What programs say when the kernel does not know the owner that they want.
fn is_refused_owner(line: &str) -> bool {
    line.contains("Invalid argument") || line.contains("Operation not permitted")
}

fn ending(code: Option<i32>, signal: Option<i32>, oom: bool) -> String {
    let ending = match (code, signal) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    };
    if oom { format!("{ending}: out of memory") } else { ending }
}

/// What to do about something far away that could not be had.
fn unreached(error: &ExecutorError) -> Option<String> {
    match error {
        ExecutorError::Offline { .. } => Some("leave out --offline".to_owned()),
        ExecutorError::Image { source, .. } => far::hint(source.downcast_ref()?),
        _ => None,
    }
}

/// The system's answer at the end of a chain of causes.
fn io_cause<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e std::io::Error> {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        cause = inner.source();
    }
    None
}
