//! The findings of `--check` as text.

use super::super::findings::{lines_of, printable};
use super::super::source::BuildSource;
use super::Inspection;
use crate::commands::say;

/// Lines of the file that are shown around a finding, before and after it together.
const AROUND: u32 = 4;

pub(super) fn check(inspection: &Inspection, source: &BuildSource) {
    let warnings = inspection.findings.iter().filter(|finding| finding.is_warning()).count();
    say(match (warnings, inspection.faults.len()) {
        (0, 0) => "Check complete, no warnings found.".to_owned(),
        (0, _) => "Check complete, the file cannot be built.".to_owned(),
        (1, _) => "Check complete, 1 warning has been found!".to_owned(),
        (count, _) => format!("Check complete, {count} warnings have been found!"),
    });
    let text = source.lossy();
    // As in BuildKit, what is behind the last newline is a line too.
    let lines: Vec<&str> = text.split('\n').map(|line| line.trim_end_matches('\r')).collect();
    for finding in &inspection.findings {
        let kind = if finding.is_warning() { "WARNING" } else { "HINT" };
        let url = finding.url().map(|url| format!(" - {url}")).unwrap_or_default();
        say(format!("\n{kind}: {}{url}", finding.rule));
        say(printable(&finding.detail));
        if let Some(span) = finding.span {
            excerpt(&source.file, &lines, lines_of(&inspection.parsed, span));
        }
    }
}

/// The lines of a finding, marked, between its neighbours, in BuildKit's layout.
fn excerpt(file: &str, lines: &[&str], (first, last): (u32, u32)) {
    let count = lines.len() as u32;
    let last = last.min(count).max(first);
    let wanted = if first == last { AROUND } else { AROUND / 2 };
    let (mut start, mut end, mut shown) = (first, last, 0);
    while shown < wanted {
        if start > 1 {
            start -= 1;
            shown += 1;
        }
        if end < count {
            end += 1;
            shown += 1;
        }
        shown += 1;
    }
    say(format!("{}:{first}", printable(file)));
    say("--------------------");
    for number in start..=end {
        let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
        let line = number.checked_sub(1).and_then(|at| lines.get(at as usize));
        say(format!(" {number:3} | {mark} {}", printable(line.unwrap_or(&""))).trim_end());
    }
    say("--------------------");
}
