//! Early cutoff: the same content made again keeps everything after it.

use solver::llb::{Op, SourceOp};
use solver::{Origin, why};

use crate::build::{Bench, Graph};

/// `first` and then two steps that only depend on its content.
fn after(first: &'static str) -> impl Fn(&mut Graph) {
    move |graph| {
        let base = graph.image("busybox", 8);
        let first = graph.run(first, &[base]);
        let cut = graph.run("div 4", &[first]);
        let second = graph.run("add 1", &[cut]);
        let third = graph.run("add 2", &[second]);
        graph.target(third);
    }
}

#[tokio::test]
async fn the_same_content_made_another_way_keeps_later_steps() {
    let bench = Bench::default();
    bench.build(after("add 1")).await;
    let built = bench.build(after("add 2")).await;
    assert_eq!(bench.values(&built), [5]);
    assert_eq!(bench.executed(), ["add 2", "div 4"]);
    assert_eq!(built.origin("div 4"), Some(Origin::Executed));
    assert_eq!(built.origin("add 1"), Some(Origin::Slow));
}

#[tokio::test]
async fn a_slow_hit_is_a_fast_one_the_next_time() {
    let bench = Bench::default();
    bench.build(after("add 1")).await;
    bench.build(after("add 2")).await;
    let built = bench.build(after("add 2")).await;
    assert!(bench.executed().is_empty());
    assert_eq!(built.origin("add 1"), Some(Origin::Fast));
    assert_eq!(bench.worker.state().tree_contents, 0);
}

#[tokio::test]
async fn content_that_was_seen_two_builds_ago_hits() {
    let bench = Bench::default();
    bench.build(after("add 1")).await;
    bench.build(after("add 1000")).await;
    assert_eq!(bench.executed().len(), 4, "other content, other results");
    bench.build(after("add 3")).await;
    assert_eq!(bench.executed(), ["add 3", "div 4"], "as in the first build");
    bench.build(after("add 1001")).await;
    assert_eq!(bench.executed(), ["add 1001", "div 4"], "as in the second");
}

#[tokio::test]
async fn outputs_that_say_their_content_cost_no_look_at_a_tree() {
    let bench = Bench::default();
    bench.worker.state().knows_content = true;
    bench.build(after("add 1")).await;
    bench.build(after("add 2")).await;
    assert_eq!(bench.executed(), ["add 2", "div 4"]);
    assert_eq!(bench.worker.state().tree_contents, 0);
}

#[tokio::test]
async fn a_changed_file_of_the_context_hashes_no_tree() {
    let bench = Bench::default();
    let build = |graph: &mut Graph| {
        let base = graph.image("busybox", 8);
        let context = graph.context("context");
        let installed = graph.run("add 100", &[base]);
        let copied = graph.copy(installed, context, "/a");
        graph.target(copied);
    };
    bench.worker.set_file("context", "/a", 1);
    bench.build(build).await;
    bench.worker.set_file("context", "/a", 2);
    bench.build(build).await;
    assert_eq!(bench.executed(), ["copy /a"]);
    assert_eq!(bench.worker.state().tree_contents, 0);
}

#[tokio::test]
async fn a_copy_from_a_stage_is_kept_while_what_it_selects_is_the_same() {
    let bench = Bench::default();
    let build = |step: &'static str| {
        move |graph: &mut Graph| {
            let base = graph.image("busybox", 8);
            let step = graph.run(step, &[base]);
            let stage = graph.run("div 4", &[step]);
            let scratch = graph.add("scratch", Op::Source(SourceOp::Scratch), Vec::new());
            let copied = graph.copy(scratch, stage, "/out");
            graph.target(copied);
        }
    };
    bench.build(build("add 1")).await;
    let built = bench.build(build("add 2")).await;
    assert_eq!(bench.executed(), ["add 2", "div 4"]);
    assert_eq!(built.origin("copy /out"), Some(Origin::Slow));
    assert_eq!(bench.values(&built), [2]);
}

#[tokio::test]
async fn an_old_tree_that_is_gone_is_no_match() {
    let bench = Bench::default();
    let cold = bench.build(after("add 1")).await;
    let cut = cold.solution().decisions.vertices[cold.index("div 4")].outputs[0].snapshot;
    bench.worker.state().gone.extend(cut);
    bench.build(after("add 2")).await;
    // Its content cannot be compared any more; that of the step after it can.
    assert_eq!(bench.executed(), ["add 1", "add 2", "div 4"]);
}

#[tokio::test]
async fn steps_that_change_nothing_share_a_result_once_contents_are_compared() {
    let bench = Bench::default();
    let build = |first: &'static str| {
        move |graph: &mut Graph| {
            let base = graph.image("busybox", 8);
            let mut step = graph.run(first, &[base]);
            for _ in 0..4 {
                step = graph.run("add 0", &[step]);
            }
            graph.target(step);
        }
    };
    bench.build(build("add 1")).await;
    assert_eq!(bench.executed().len(), 6, "a cold build compares nothing");
    let built = bench.build(build("add 2")).await;
    assert_eq!(bench.values(&built), [10]);
    assert_eq!(bench.executed(), ["add 0", "add 2"]);
}

#[tokio::test]
async fn why_names_the_file_and_the_argument() {
    let bench = Bench::default();
    let build = |argument: &'static str| {
        move |graph: &mut Graph| {
            let base = graph.image("busybox", 8);
            let context = graph.context("context");
            let copied = graph.copy(base, context, "/a");
            let meta = solver::llb::VertexMeta::named("RUN");
            let run = graph.run_with(meta, argument, &[copied]);
            graph.target(run);
        }
    };
    let record = |built: &crate::build::Built, name: &str| {
        let key = built.solution().decisions.vertices[built.index(name)].key.expect("a key");
        let found = solver::Records::lookup(bench.records.as_ref(), &key).expect("memory");
        found.expect("a record")
    };
    bench.worker.set_file("context", "/a", 1);
    let first = bench.build(build("add 1")).await;
    bench.worker.set_file("context", "/a", 2);
    let second = bench.build(build("add 2")).await;
    let reasons = |name: &str| {
        let id = second.definition.ids().nth(second.index(name)).expect("an id");
        let now = second.solution().decisions.ingredients(id);
        let found = why::explain(&record(&first, name), &now);
        found.iter().map(|d| d.part.clone()).collect::<Vec<_>>()
    };
    assert_eq!(reasons("copy /a"), ["input.1", "input.1.file:/a"]);
    assert_eq!(reasons("RUN"), ["args", "input.0"]);
    assert!(reasons("busybox").is_empty());
}
