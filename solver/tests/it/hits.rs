//! What the cache answers, and what it costs to ask.

use solver::llb::{HttpSource, Op, SourceOp};
use solver::{Origin, Stream};

use crate::build::{Bench, Graph};

fn chain(graph: &mut Graph) {
    let base = graph.image("busybox", 1);
    let context = graph.context("context");
    let first = graph.run("add 1", &[base]);
    let copied = graph.copy(first, context, "/a");
    let last = graph.run("add 2", &[copied]);
    graph.target(last);
}

#[tokio::test]
async fn a_cold_build_runs_everything_and_hashes_no_tree() {
    let bench = Bench::default();
    bench.worker.set_file("context", "/a", 10);
    let built = bench.build(chain).await;
    assert_eq!(bench.values(&built), [14]);
    assert_eq!(bench.executed(), ["add 1", "add 2", "busybox", "copy /a"]);
    assert_eq!(bench.worker.state().tree_contents, 0);
    assert_eq!(bench.worker.state().source_contents, 1);
}

#[tokio::test]
async fn a_full_hit_executes_nothing_and_looks_at_no_tree() {
    let bench = Bench::default();
    bench.worker.set_file("context", "/a", 10);
    let cold = bench.build(chain).await;
    let warm = bench.build(chain).await;
    assert_eq!(bench.values(&warm), [14]);
    assert_eq!(warm.solution().outputs, cold.solution().outputs);
    assert!(bench.worker.state().begun.is_empty());
    assert_eq!(bench.worker.state().tree_contents, 0);
    let created = |built: &crate::build::Built| {
        built
            .solution()
            .decisions
            .vertices
            .iter()
            .map(|vertex| vertex.created.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(created(&warm), created(&cold), "cached steps keep the time they were made at");
    let mut story = warm.story();
    story.sort();
    let steps = ["add 1: cached", "add 2: cached", "busybox: cached"];
    let context = ["context: done", "context: started", "copy /a: cached"];
    assert_eq!(story, [steps, context].concat());
}

#[tokio::test]
async fn only_what_a_change_reaches_is_executed() {
    let bench = Bench::default();
    bench.worker.set_file("context", "/a", 10);
    bench.build(chain).await;
    bench.worker.set_file("context", "/a", 20);
    let built = bench.build(chain).await;
    assert_eq!(bench.values(&built), [24]);
    assert_eq!(bench.executed(), ["add 2", "copy /a"]);
    assert_eq!(built.origin("add 1"), Some(Origin::Fast));
    assert_eq!(built.origin("copy /a"), Some(Origin::Executed));
}

#[tokio::test]
async fn files_that_are_not_copied_change_nothing() {
    let bench = Bench::default();
    bench.worker.set_file("context", "/a", 10);
    bench.worker.set_file("context", "/unused", 1);
    bench.build(chain).await;
    bench.worker.set_file("context", "/unused", 2);
    bench.build(chain).await;
    assert!(bench.executed().is_empty());
}

#[tokio::test]
async fn a_renamed_file_of_the_same_content_hits() {
    let bench = Bench::default();
    let copy = |path: &'static str| {
        move |graph: &mut Graph| {
            let base = graph.image("busybox", 1);
            let context = graph.context("context");
            // A pattern: the name that matches does not show in the result of a single file.
            let copied = graph.copy(base, context, path);
            graph.target(copied);
        }
    };
    bench.worker.set_file("context", "/f*", 7);
    bench.worker.set_file("context", "/g*", 7);
    bench.build(copy("/f*")).await;
    bench.build(copy("/g*")).await;
    assert!(bench.executed().is_empty());
}

#[tokio::test]
async fn two_tags_of_the_same_layers_share_everything() {
    let bench = Bench::default();
    let tagged = |tags: &'static [&'static str]| {
        move |graph: &mut Graph| {
            for tag in tags {
                let base = graph.image(tag, 1);
                let run = graph.run("add 1", &[base]);
                graph.target(run);
            }
        }
    };
    let built = bench.build(tagged(&["busybox:1", "busybox:2"])).await;
    assert_eq!(bench.values(&built), [2, 2]);
    assert_eq!(bench.executed(), ["add 1", "busybox:1"]);
    bench.build(tagged(&["busybox:3"])).await;
    assert!(bench.executed().is_empty());
}

#[tokio::test]
async fn a_record_whose_tree_is_gone_is_a_miss() {
    let bench = Bench::default();
    bench.worker.set_file("context", "/a", 10);
    let cold = bench.build(chain).await;
    let last = cold.solution().outputs[0].snapshot.expect("a tree");
    bench.worker.state().gone.insert(last);
    let built = bench.build(chain).await;
    assert_eq!(bench.values(&built), [14]);
    assert_eq!(bench.executed(), ["add 2"]);
    bench.build(chain).await;
    assert!(bench.executed().is_empty(), "the new result took the place of the old one");
}

#[tokio::test]
async fn a_tree_in_the_middle_is_not_missed_while_the_last_is_there() {
    let bench = Bench::default();
    bench.worker.set_file("context", "/a", 10);
    let cold = bench.build(chain).await;
    for vertex in &cold.solution().decisions.vertices[..4] {
        let ids = vertex.outputs.iter().filter_map(|output| output.snapshot);
        bench.worker.state().gone.extend(ids);
    }
    bench.build(chain).await;
    assert!(bench.executed().is_empty());
}

#[tokio::test]
async fn what_the_targets_do_not_need_is_not_touched() {
    let bench = Bench::default();
    let built = bench
        .build(|graph| {
            let unused = graph.image("unused", 9);
            let context = graph.context("context");
            graph.copy(unused, context, "/not-there");
            let base = graph.image("busybox", 1);
            graph.target(base);
        })
        .await;
    assert_eq!(bench.values(&built), [1]);
    assert_eq!(bench.executed(), ["busybox"]);
    assert_eq!(bench.worker.state().source_contents, 0);
}

#[tokio::test]
async fn without_cache_steps_run_again_and_are_stored() {
    let bench = Bench::default();
    let roll = |no_cache: bool| {
        move |graph: &mut Graph| {
            let base = graph.image("busybox", 1);
            let roll = if no_cache {
                graph.run_no_cache("roll", &[base])
            } else {
                graph.run("roll", &[base])
            };
            let after = graph.run("add 1", &[roll]);
            graph.target(after);
        }
    };
    let cold = bench.build(roll(false)).await;
    let again = bench.build(roll(true)).await;
    assert_ne!(bench.values(&cold), bench.values(&again), "the old result is not used downstream");
    assert_eq!(bench.executed(), ["add 1", "roll"], "the base is still cached");
    let warm = bench.build(roll(false)).await;
    assert_eq!(bench.values(&warm), bench.values(&again), "the new results are the cached ones");
    assert!(bench.executed().is_empty());
}

#[tokio::test]
async fn after_a_step_without_cache_the_same_content_hits() {
    let bench = Bench::default();
    let build = |no_cache: bool| {
        move |graph: &mut Graph| {
            let base = graph.image("busybox", 1);
            let step = if no_cache {
                graph.run_no_cache("add 5", &[base])
            } else {
                graph.run("add 5", &[base])
            };
            let after = graph.run("add 1", &[step]);
            graph.target(after);
        }
    };
    bench.build(build(false)).await;
    let built = bench.build(build(true)).await;
    assert_eq!(bench.executed(), ["add 5"]);
    assert_eq!(built.origin("add 1"), Some(Origin::Slow));
}

#[tokio::test]
async fn a_step_without_cache_and_its_twin_with_cache_run_once() {
    let bench = Bench::default();
    let twins = |graph: &mut Graph| {
        let base = graph.image("busybox", 1);
        let first = graph.run("roll", &[base]);
        let second = graph.run_no_cache("roll", &[base]);
        graph.target(first);
        graph.target(second);
    };
    let built = bench.build(twins).await;
    assert_eq!(bench.executed(), ["busybox", "roll"]);
    let values = bench.values(&built);
    assert_eq!(values[0], values[1]);
    // The twin is cached now; the one without cache still runs.
    bench.build(twins).await;
    assert_eq!(bench.executed(), ["roll"]);
}

#[tokio::test]
async fn an_unpinned_source_is_asked_each_time_and_fetched_when_it_changed() {
    let bench = Bench::default();
    let fetch = |graph: &mut Graph| {
        let http = HttpSource {
            url: "https://example.org/x".to_owned(),
            checksum: None,
            filename: "x".to_owned(),
            mode: 0o600,
            uid: 0,
            gid: 0,
        };
        let file = graph.add("fetch", Op::Source(SourceOp::Http(http)), Vec::new());
        let base = graph.image("busybox", 1);
        let copied = graph.copy(base, file, "/x");
        graph.target(copied);
    };
    bench.worker.set_file("http", "https://example.org/x", 5);
    let built = bench.build(fetch).await;
    assert_eq!(bench.values(&built), [6]);
    bench.build(fetch).await;
    assert!(bench.executed().is_empty());
    assert_eq!(bench.worker.state().source_contents, 1);
    bench.worker.set_file("http", "https://example.org/x", 6);
    let built = bench.build(fetch).await;
    assert_eq!(bench.values(&built), [7]);
    assert_eq!(bench.executed(), ["copy /x", "fetch"]);
}

#[tokio::test]
async fn inline_files_are_read_where_they_are() {
    let bench = Bench::default();
    let copy = |bytes: &'static [u8]| {
        move |graph: &mut Graph| {
            let base = graph.image("busybox", 1);
            let inline = graph.inline(bytes);
            let copied = graph.copy(base, inline, "/EOF");
            graph.target(copied);
        }
    };
    let built = bench.build(copy(&[3, 4])).await;
    assert_eq!(bench.values(&built), [8]);
    assert_eq!(bench.executed(), ["busybox", "copy /EOF"]);
    bench.build(copy(&[3, 4])).await;
    assert!(bench.executed().is_empty());
    bench.build(copy(&[3, 5])).await;
    assert_eq!(bench.executed(), ["copy /EOF"]);
}

#[tokio::test]
async fn scratch_is_there_without_work() {
    let bench = Bench::default();
    let built = bench
        .build(|graph| {
            let scratch = graph.add("scratch", Op::Source(SourceOp::Scratch), Vec::new());
            let run = graph.run("add 4", &[scratch]);
            graph.target(scratch);
            graph.target(run);
        })
        .await;
    assert_eq!(bench.values(&built), [0, 4]);
    assert_eq!(built.solution().outputs[0].snapshot, None);
    assert_eq!(bench.executed(), ["add 4"]);
}

#[tokio::test]
async fn what_a_step_writes_comes_out_as_events() {
    let bench = Bench::default();
    let built = bench
        .build(|graph| {
            let base = graph.image("busybox", 1);
            graph.target(base);
        })
        .await;
    let logs = built.events.iter().filter_map(|event| match event {
        solver::Event::Log { stream: Stream::Stdout, data, .. } => Some(data.as_slice()),
        _ => None,
    });
    assert_eq!(logs.collect::<Vec<_>>(), [b"busybox"]);
    assert_eq!(built.story(), ["busybox: started", "busybox: done"]);
}
