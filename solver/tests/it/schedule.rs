//! What runs when, what is cancelled, what is said of a failure.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use solver::llb::{SourceLocation, VertexMeta};
use solver::{Demand, EventSender, Origin, SolveError};
use tokio::time::Instant;

use crate::build::{Bench, Graph};

/// `count` steps beside each other, and one that needs them all.
fn fan(count: usize) -> impl Fn(&mut Graph) {
    move |graph| {
        let base = graph.image("busybox", 1);
        let steps: Vec<_> =
            (0..count).map(|index| graph.run(&format!("add {index}"), &[base])).collect();
        let all = graph.run("add 100", &steps);
        graph.target(all);
    }
}

fn delay_all(bench: &Bench, count: usize, delay: Duration) {
    let names = (0..count).map(|index| (format!("add {index}"), delay));
    bench.worker.state().delays.extend(names);
}

#[tokio::test(start_paused = true)]
async fn independent_steps_run_at_the_same_time() {
    let bench = Bench::default();
    delay_all(&bench, 8, Duration::from_secs(1));
    let start = Instant::now();
    bench.build(fan(8)).await;
    assert_eq!(start.elapsed().as_secs(), 1);
    assert_eq!(bench.worker.state().most_running, 8);
}

#[tokio::test(start_paused = true)]
async fn max_parallelism_is_kept() {
    let bench = Bench { max_parallelism: NonZeroUsize::new(3), ..Bench::default() };
    delay_all(&bench, 9, Duration::from_secs(1));
    let start = Instant::now();
    let built = bench.build(fan(9)).await;
    assert_eq!(bench.worker.state().most_running, 3);
    assert_eq!(start.elapsed().as_secs(), 3);
    let started = built.story().iter().filter(|line| line.ends_with("started")).count();
    assert_eq!(started, 11);
}

#[tokio::test(start_paused = true)]
async fn steps_that_do_not_fit_together_run_one_after_another() {
    const GIB: u64 = 1 << 30;
    let bench = Bench { memory: Some(4 * GIB), ..Bench::default() };
    delay_all(&bench, 4, Duration::from_secs(1));
    // Two fit beside each other, the third needs more than there is, the fourth nothing.
    for (index, memory) in [2 * GIB, 2 * GIB, 9 * GIB, 0].into_iter().enumerate() {
        let demand = Demand { memory, cpu: 0 };
        bench.worker.state().demands.insert(format!("add {index}"), demand);
    }
    let start = Instant::now();
    let built = bench.build(fan(4)).await;
    assert_eq!(bench.values(&built), [4 + 6 + 100]);
    assert_eq!(start.elapsed().as_secs(), 2);
    assert_eq!(bench.worker.state().most_running, 3);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_another_build_is_told_so() {
    let bench = Bench::default();
    bench.worker.state().claims = true;
    delay_all(&bench, 1, Duration::from_secs(2));
    let (first, second) = tokio::join!(bench.build(fan(1)), bench.build(fan(1)));
    let waits = |built: &crate::build::Built| {
        let said = built.events.iter().any(|event| {
            matches!(event, solver::Event::Log { data, .. }
                if data.starts_with(b"waiting for another build"))
        });
        (said, built.origin("add 0"))
    };
    let mut both = [waits(&first), waits(&second)];
    both.sort_by_key(|(said, _)| *said);
    assert_eq!(both, [(false, Some(Origin::Executed)), (true, Some(Origin::Fast))]);
}

#[tokio::test(start_paused = true)]
async fn a_cold_build_does_not_wait_for_the_context() {
    let bench = Bench::default();
    bench.worker.set_file("context", "/a", 1);
    bench.worker.state().content_delay = Duration::from_secs(3);
    bench.worker.state().delays.insert("add 1".to_owned(), Duration::from_secs(4));
    let build = |graph: &mut Graph| {
        let base = graph.image("busybox", 1);
        let context = graph.context("context");
        let slow = graph.run("add 1", &[base]);
        let copied = graph.copy(slow, context, "/a");
        graph.target(copied);
    };
    let start = Instant::now();
    bench.build(build).await;
    assert_eq!(start.elapsed().as_secs(), 4);
    let start = Instant::now();
    bench.build(build).await;
    assert_eq!(start.elapsed().as_secs(), 3);
    assert!(bench.worker.state().begun.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_ends_the_build_and_names_its_step() {
    let bench = Bench::default();
    delay_all(&bench, 2, Duration::from_secs(60));
    bench.worker.state().failing.insert("add 7".to_owned());
    let source = SourceLocation { file: "Dockerfile".to_owned(), first_line: 4, last_line: 5 };
    let start = Instant::now();
    let built = bench
        .build(|graph| {
            let base = graph.image("busybox", 1);
            let slow = graph.run("add 1", &[base]);
            let meta = VertexMeta {
                source: Some(source.clone()),
                stage: Some("build".to_owned()),
                ..VertexMeta::named("add 7")
            };
            let failing = graph.run_with(meta, "add 7", &[base]);
            let last = graph.run("add 3", &[slow, failing]);
            graph.target(last);
        })
        .await;
    assert!(start.elapsed().is_zero(), "nobody waited for the other branch");
    assert_eq!(bench.worker.state().running, 0, "the other branch was cancelled");
    let error = built.error();
    assert_eq!(error.vertex().expect("a step").meta.source, Some(source));
    assert_eq!(error.to_string(), "`add 7` failed");
    let SolveError::Op { cause, .. } = error else { panic!("{error:?}") };
    assert_eq!(cause.to_string(), "process `add 7` exited with code 2");
    assert_eq!(cause.log_tail(), ["no rule"]);
    let story = built.story();
    assert!(story.contains(&"add 7: process `add 7` exited with code 2".to_owned()), "{story:?}");
}

/// `name: how it came or ended` of what a solve decided, and whether it succeeded, `None` if it was
/// dropped after a second.
async fn decided(bench: &Bench) -> (Vec<String>, Option<bool>) {
    let mut graph = Graph::default();
    let base = graph.image("busybox", 1);
    let first = graph.run("add 1", &[base]);
    let second = graph.run("add 2", &[first]);
    let beside = graph.run("add 4", &[base]);
    let last = graph.run("add 3", &[second, beside]);
    graph.target(last);
    let definition = Arc::new(graph.definition);
    let (told, decisions) = std::sync::mpsc::channel();
    let tell = move |decisions| told.send(decisions).expect("somebody listens");
    let solver = bench.solver();
    let solve = solver.solve_telling(Arc::clone(&definition), EventSender::nobody(), tell);
    let ended = tokio::time::timeout(Duration::from_secs(1), solve).await;
    let decisions = decisions.try_recv().expect("it says what it decided");
    let list = definition.ids().zip(&decisions.vertices).map(|(id, report)| {
        let name = &definition.vertex(id).meta.name;
        let has_parts = !decisions.ingredients(id).is_empty();
        assert!(has_parts, "{name} has a key");
        match (report.origin, report.unfinished) {
            (Some(origin), None) => format!("{name}: {origin:?}"),
            (None, Some(unfinished)) => format!("{name}: {unfinished:?}"),
            (None, None) => format!("{name}: not reached"),
            both => panic!("{name}: {both:?}"),
        }
    });
    (list.collect(), ended.ok().map(|result| result.is_ok()))
}

#[tokio::test(start_paused = true)]
async fn what_was_decided_is_told_however_a_solve_ends() {
    let bench = Bench::default();
    let hour = Duration::from_secs(3600);
    bench.worker.state().failing.insert("add 2".to_owned());
    bench.worker.state().delays.insert("add 4".to_owned(), hour);
    let (list, ended) = decided(&bench).await;
    let until = ["busybox: Executed", "add 1: Executed", "add 2: Failed", "add 4: Cut"];
    assert_eq!(list[..4], until);
    assert_eq!((list[4].as_str(), ended), ("add 3: not reached", Some(false)));

    bench.worker.state().failing.clear();
    let (list, ended) = decided(&bench).await;
    let until = ["busybox: Fast", "add 1: Fast", "add 2: Executed", "add 4: Cut"];
    assert_eq!(list[..4], until);
    assert_eq!((list[4].as_str(), ended), ("add 3: not reached", None));

    bench.worker.state().delays.clear();
    let (list, ended) = decided(&bench).await;
    assert_eq!((list[2].as_str(), list[4].as_str()), ("add 2: Fast", "add 3: Executed"));
    assert_eq!(ended, Some(true));
}

#[tokio::test(start_paused = true)]
async fn what_was_done_before_a_failure_is_cached() {
    let bench = Bench::default();
    bench.worker.state().failing.insert("add 2".to_owned());
    let build = |graph: &mut Graph| {
        let base = graph.image("busybox", 1);
        let first = graph.run("add 1", &[base]);
        let second = graph.run("add 2", &[first]);
        graph.target(second);
    };
    bench.build(build).await.error();
    bench.worker.state().failing.clear();
    let built = bench.build(build).await;
    assert_eq!(bench.values(&built), [4]);
    assert_eq!(bench.executed(), ["add 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_fails_the_step_that_copies_it() {
    let bench = Bench::default();
    let built = bench
        .build(|graph| {
            let base = graph.image("busybox", 1);
            let context = graph.context("context");
            let copied = graph.copy(base, context, "/missing");
            let last = graph.run("add 1", &[copied]);
            graph.target(last);
        })
        .await;
    let error = built.error();
    assert_eq!(error.vertex().expect("a step").meta.name, "copy /missing");
    let cause = std::error::Error::source(error).expect("a cause");
    assert_eq!(cause.to_string(), "`/missing` not found");
}

#[tokio::test]
async fn a_worker_that_panics_fails_the_build() {
    let bench = Bench::default();
    bench.worker.state().panicking.insert("busybox".to_owned());
    let built = bench
        .build(|graph| {
            let base = graph.image("busybox", 1);
            graph.target(base);
        })
        .await;
    let SolveError::Panic { message } = built.error() else { panic!("{:?}", built.error()) };
    assert_eq!(message, "out of cheese");
}

#[tokio::test(start_paused = true)]
async fn dropping_a_solve_cancels_its_work_and_keeps_what_was_done() {
    let bench = Bench::default();
    bench.worker.state().delays.insert("add 2".to_owned(), Duration::from_secs(60));
    let build = |graph: &mut Graph| {
        let base = graph.image("busybox", 1);
        let first = graph.run("add 1", &[base]);
        let second = graph.run("add 2", &[first]);
        graph.target(second);
    };
    let cut = tokio::time::timeout(Duration::from_secs(1), bench.build(build)).await;
    assert!(cut.is_err(), "the build hangs in its second step");
    // Aborted tasks are dropped by the runtime when it next runs.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(bench.worker.state().begun, ["busybox", "add 1", "add 2"]);
    assert_eq!(bench.worker.state().running, 0);
    bench.build(build).await;
    assert_eq!(bench.executed(), ["add 2"]);
}

#[tokio::test(start_paused = true)]
async fn two_builds_of_the_same_run_it_once() {
    let bench = Bench::default();
    bench.worker.state().claims = true;
    delay_all(&bench, 3, Duration::from_secs(1));
    let (first, second) = tokio::join!(bench.build(fan(3)), bench.build(fan(3)));
    assert_eq!(bench.values(&first), bench.values(&second));
    assert_eq!(bench.executed(), ["add 0", "add 1", "add 100", "add 2", "busybox"]);
}

#[tokio::test(start_paused = true)]
async fn the_other_build_goes_on_when_one_is_cancelled() {
    let bench = Bench::default();
    bench.worker.state().claims = true;
    delay_all(&bench, 3, Duration::from_secs(2));
    let mut graph = Graph::default();
    fan(3)(&mut graph);
    let definition = Arc::new(graph.definition);
    let solver = bench.solver();
    let cut = solver.solve(Arc::clone(&definition), EventSender::nobody());
    let cut = async {
        let cut = tokio::time::timeout(Duration::from_secs(1), cut).await;
        assert!(cut.is_err(), "the first build hangs in its steps");
    };
    let (_, built) = tokio::join!(cut, bench.build(fan(3)));
    assert_eq!(bench.values(&built), [106]);
}
