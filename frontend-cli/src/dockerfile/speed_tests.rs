//! What reading a Dockerfile costs without the process around it, in processor time: parsing,
//! planning with lowering, and the checks that look at the tree alone.
//!
//! `make bench` prints the optimised figures. The test holds only the growth, since it runs
//! unoptimised: it catches a cost that grows with the square, not a few percent.

use std::time::Duration;

use cache::oci::Platform;
use rustix::time::{ClockId, clock_gettime};
use solver::llb::Definition;

use super::{Plan, ResolvedImages, Settings, lint, lower};

/// The mix of `bench/thousand`.
fn dockerfile(instructions: usize) -> String {
    let mut text = String::from("FROM scratch AS base\nARG VERSION=1\n");
    for n in 2..instructions {
        let line = match n % 7 {
            0 => format!("RUN echo step {n} $VERSION && true"),
            1 => format!("ENV NAME_{n}=$VERSION"),
            2 => format!("COPY file /dir{n}/"),
            3 => format!("LABEL l{n}=$VERSION"),
            4 => format!("WORKDIR /w/{n}"),
            5 => "RUN --mount=type=cache,target=/c make".to_owned(),
            _ => format!("ARG A{n}=1"),
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a time after the start")
}

fn timed<T>(total: &mut Duration, work: impl FnOnce() -> T) -> T {
    let begun = processor_time();
    let made = work();
    *total += processor_time() - begun;
    made
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    total: Duration,
    parse: Duration,
    lower: Duration,
    checks: Duration,
}

fn cost(text: &str) -> Cost {
    let platform: Platform = "linux/amd64".parse().expect("a platform");
    let settings = Settings::new("Dockerfile", &platform);
    let mut cost = Cost::default();
    let parsed = timed(&mut cost.parse, || parser::parse(text.as_bytes()));
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    let lowered = timed(&mut cost.lower, || {
        let plan = Plan::new(&parsed.dockerfile, &settings).expect("a plan");
        let mut definition = Definition::new();
        let images = ResolvedImages::new();
        lower(&parsed.dockerfile, &plan, &settings, &images, &mut definition)
            .map(|lowered| (lowered, definition))
            .expect("a lowered target")
    });
    let instructions = parsed.dockerfile.stages[0].instructions.len();
    assert_eq!(lowered.0.config.history.len(), instructions);
    let found = timed(&mut cost.checks, || lint::check(&parsed.dockerfile, &settings));
    assert!(found.is_empty());
    cost.total = cost.parse + cost.lower + cost.checks;
    cost
}

/// The median of some turns, so that a page fault or two does not decide.
fn median(instructions: usize, turns: usize) -> Cost {
    let text = dockerfile(instructions);
    let mut costs: Vec<Cost> = (0..turns).map(|_| cost(&text)).collect();
    costs.sort();
    costs[turns / 2]
}

#[test]
fn reading_a_dockerfile_costs_about_the_same_for_each_instruction() {
    // Unoptimised a turn takes a second.
    let turns = if cfg!(debug_assertions) { 1 } else { 5 };
    let small = median(1_000, 2 * turns + 1);
    let large = median(10_000, turns);
    for (instructions, cost) in [("1,000", small), ("10,000", large)] {
        let Cost { total, parse, lower, checks } = cost;
        println!("{instructions} instructions: {total:?}, of it");
        println!("  parse {parse:?}, plan and lower {lower:?}, checks {checks:?}");
    }
    assert!(large.total < small.total * 40, "{small:?} for 1,000, {large:?} for 10,000");
}
