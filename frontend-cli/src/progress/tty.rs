//! Progress as a live view on a terminal:
//!
//! ```text
//! [+] Building 3.2s (7/9)
//!  => CACHED [1/3] FROM docker.io/library/busybox:latest                       0.0s
//!  => [2/3] RUN make                                                           3.1s
//!  => => # cc -c main.c
//! ```
//!
//! Each frame is one write between the marks of a synchronised update, and first moves the cursor
//! up over the last frame; nothing is drawn outside of the lines that the view owns, so that the
//! scroll-back stays readable. What does not fit the height is folded away from the top, where the
//! ended steps are.

use std::io::Write;
use std::time::{Instant, SystemTime};

use console::{Term, measure_text_width, truncate_str};

use super::plain::{bytes, failure_tails, seconds};
use super::{Outcome, State, Step, Update, View, sanitize};

/// Lines of a running step's text: BuildKit's default, `BUILDKIT_TTY_LOG_LINES` overrides it.
const LOG_LINES: usize = 6;
/// Twenty frames a second look smooth; more only cost.
const FRAME_MILLIS: u128 = 50;

pub(super) struct Tty {
    term: Term,
    began: Instant,
    drawn_at: Option<Instant>,
    drawn_lines: usize,
    log_lines: usize,
    colour: bool,
}

impl Tty {
    pub(super) fn new() -> Self {
        let log_lines = std::env::var("BUILDKIT_TTY_LOG_LINES")
            .ok()
            .and_then(|lines| lines.parse().ok())
            .unwrap_or(LOG_LINES);
        Tty {
            term: Term::stderr(),
            began: Instant::now(),
            drawn_at: None,
            drawn_lines: 0,
            log_lines,
            colour: std::env::var_os("NO_COLOR").is_none(),
        }
    }

    fn draw(&mut self, state: &State, last: bool, out: &mut dyn Write) {
        let (height, width) = self.term.size();
        let (height, width) = (usize::from(height).max(4), usize::from(width).max(20));
        let lines = self.lines(state, width, last);
        // The last frame stays on the screen, whole: what is cut scrolls away like any output.
        let shown =
            if last { &lines[..] } else { &lines[lines.len().saturating_sub(height - 2)..] };

        let _ = write!(out, "\x1b[?2026h\x1b[?25l");
        if self.drawn_lines > 0 {
            let _ = write!(out, "\x1b[{}A", self.drawn_lines);
        }
        let _ = write!(out, "\r{}\x1b[K\r\n", self.header(state, width, last));
        for line in shown {
            let _ = write!(out, "{line}\x1b[K\r\n");
        }
        let _ = write!(out, "\x1b[J\x1b[?25h\x1b[?2026l");
        self.drawn_lines = shown.len() + 1;
        self.drawn_at = Some(Instant::now());
    }

    fn header(&self, state: &State, width: usize, last: bool) -> String {
        let ended = if last { " FINISHED" } else { "" };
        let text = format!(
            "[+] Building {:.1}s ({}/{}){ended}",
            self.began.elapsed().as_secs_f64(),
            state.completed(),
            state.total()
        );
        truncate_str(&text, width - 1, "").into_owned()
    }

    fn lines(&self, state: &State, width: usize, last: bool) -> Vec<String> {
        let now = SystemTime::now();
        let mut lines = Vec::new();
        for step in state.ordered() {
            lines.push(self.step_line(step, now, width));
            if step.is_running() && !last {
                for transfer in step.transfers.iter().filter(|t| t.total != Some(t.current)) {
                    let total = transfer.total.map(|total| format!(" / {}", bytes(total)));
                    let text = format!(
                        " => => {} {}{}",
                        sanitize(&transfer.id, false),
                        bytes(transfer.current),
                        total.unwrap_or_default()
                    );
                    lines.push(truncate_str(&text, width - 1, "…").into_owned());
                }
                for (_, line) in
                    step.tail.iter().skip(step.tail.len().saturating_sub(self.log_lines))
                {
                    let text = format!(" => => # {}", sanitize(line, false));
                    lines.push(truncate_str(&text, width - 1, "…").into_owned());
                }
            }
        }
        lines
    }

    fn step_line(&self, step: &Step, now: SystemTime, width: usize) -> String {
        let (mark, colour) = match &step.outcome {
            Some(Outcome::Done) => ("", "34"),
            Some(Outcome::Cached) => ("CACHED ", "34"),
            Some(Outcome::Failed(_)) => ("ERROR ", "31"),
            None => ("", ""),
        };
        let time = seconds(step, now);
        let room = width.saturating_sub(time.len() + 2);
        let text = format!(" => {mark}{}", sanitize(&step.name.replace('\n', " "), false));
        let text = truncate_str(&text, room, "…");
        let pad = " ".repeat(room.saturating_sub(measure_text_width(&text)) + 1);
        if self.colour && !colour.is_empty() {
            format!("\x1b[{colour}m{text}{pad}{time}\x1b[0m")
        } else {
            format!("{text}{pad}{time}")
        }
    }
}

impl View for Tty {
    fn update(&mut self, state: &State, update: &Update, out: &mut dyn Write) {
        if matches!(update, Update::Declare { .. }) {
            return;
        }
        if self.drawn_at.is_none_or(|at| at.elapsed().as_millis() >= FRAME_MILLIS) {
            self.draw(state, false, out);
        }
    }

    fn tick(&mut self, state: &State, out: &mut dyn Write) {
        self.draw(state, false, out);
    }

    fn finish(&mut self, state: &State, out: &mut dyn Write) {
        self.draw(state, true, out);

        failure_tails(state, out);
    }
}
