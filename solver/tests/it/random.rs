//! Random graphs with delays, failures and cancellations: no deadlock, no lost wake-up, nothing run
//! twice, and always the right sum.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use solver::Demand;
use solver::llb::{InputRole, Op, SourceOp, VertexId, VertexMeta};

use crate::build::{Bench, Graph};

const MIB: u64 = 1 << 20;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// Writes the graph of a seed. Small numbers, so that keys and contents often coincide.
fn write(seed: u64, graph: &mut Graph) {
    let mut random = Random(seed);
    let mut trees: Vec<VertexId> = (0..=random.below(2))
        .map(|index| graph.image(&format!("image{index}"), u8::try_from(index * 8 + 8).unwrap()))
        .collect();
    let context = graph.context("context");
    let inline = graph.inline(b"x");
    for _ in 0..random.below(20) + 1 {
        let pick = |random: &mut Random, trees: &[VertexId]| {
            trees[usize::try_from(random.below(trees.len() as u64)).unwrap()]
        };
        let base = pick(&mut random, &trees);
        let vertex = match random.below(6) {
            0 => graph.copy(base, context, &format!("/{}", random.below(3))),
            1 => graph.copy(base, inline, "/EOF"),
            2 => {
                let from = pick(&mut random, &trees);
                graph.copy(base, from, "/out")
            }
            3 => graph.run("div 4", &[base]),
            _ => {
                let inputs: Vec<_> =
                    (0..=random.below(2)).map(|_| pick(&mut random, &trees)).collect();
                let command = format!("add {}", random.below(4));
                let no_cache = random.one_in(8);
                let meta = VertexMeta { no_cache, ..VertexMeta::named(command.clone()) };
                graph.run_with(meta, &command, &inputs)
            }
        };
        trees.push(vertex);
    }
    for _ in 0..=random.below(2) {
        let target = trees[usize::try_from(random.below(trees.len() as u64)).unwrap()];
        graph.target(target);
    }
}

/// The sums that the targets must come to.
fn expected(graph: &Graph, files: &HashMap<String, i64>) -> Vec<i64> {
    let definition = &graph.definition;
    let mut values: Vec<i64> = Vec::new();
    for vertex in definition.vertices() {
        let inputs = vertex.inputs.iter().map(|input| {
            let producer = definition.vertex(input.edge.vertex);
            match (&producer.op, &input.role) {
                (Op::Source(SourceOp::Context(_)), InputRole::Content(selector)) => {
                    files[&selector.paths[0].path]
                }
                _ => values[input.edge.vertex.index()],
            }
        });
        let sum: i64 = inputs.sum();
        values.push(match &vertex.op {
            Op::Source(SourceOp::Image(image)) => {
                i64::from_str_radix(&image.diff_ids[0].0.hex()[..2], 16).unwrap()
            }
            Op::Source(SourceOp::Inline { .. }) => i64::from(b'x'),
            Op::Exec(exec) => {
                let number: i64 = exec.args[1].parse().unwrap();
                if exec.args[0] == "div" { sum / number } else { sum + number }
            }
            _ => sum,
        });
    }
    definition.targets().iter().map(|edge| values[edge.vertex.index()]).collect()
}

/// Builds the graph of a seed several times, with edits, failures and cancellations between.
async fn check(seed: u64) {
    let mut random = Random(seed ^ 0xabcd);
    let max_parallelism = NonZeroUsize::new(usize::try_from(random.below(4)).unwrap());
    let memory = random.one_in(2).then(|| MIB * (random.below(8) + 1));
    let cpu = random.one_in(3).then(|| 1000 * u32::try_from(random.below(4) + 1).unwrap());
    let bench = Bench { max_parallelism, memory, cpu, ..Bench::default() };
    let whole = Demand { memory: memory.unwrap_or(u64::MAX), cpu: cpu.unwrap_or(u32::MAX) };
    bench.worker.state().whole = Some(whole);
    bench.worker.state().knows_content = random.one_in(3);
    bench.worker.state().claims = random.one_in(2);
    bench.worker.state().content_delay = Duration::from_millis(random.below(5));
    let mut files: HashMap<String, i64> = (0..3).map(|n| (format!("/{n}"), n + 1)).collect();
    for round in 0..6 {
        let mut graph = Graph::default();
        // Every other round goes back to the first graph.
        write(
            if round % 2 == 0 { seed } else { seed.wrapping_mul(31).wrapping_add(round) },
            &mut graph,
        );
        let path = format!("/{}", random.below(3));
        files.insert(path, i64::try_from(random.below(4)).unwrap());
        for (path, value) in &files {
            bench.worker.set_file("context", path, *value);
        }
        for vertex in graph.definition.vertices() {
            let mut state = bench.worker.state();
            let delay = Duration::from_millis(random.below(4) * 10);
            state.delays.insert(vertex.meta.name.clone(), delay);
            // Some need more than there is, most need nothing.
            let memory = if random.one_in(2) { random.below(10) * MIB } else { 0 };
            let cpu = if random.one_in(2) { u32::try_from(random.below(3000)).unwrap() } else { 0 };
            state.demands.insert(vertex.meta.name.clone(), Demand { memory, cpu });
        }
        let fails = random.one_in(3);
        let names: Vec<_> =
            graph.definition.vertices().iter().map(|v| v.meta.name.clone()).collect();
        bench.worker.state().failing.clear();
        if fails {
            let name = &names[usize::try_from(random.below(names.len() as u64)).unwrap()];
            bench.worker.state().failing.insert(name.clone());
        }
        let cut = random.one_in(4).then(|| Duration::from_millis(random.below(60)));
        let expected = expected(&graph, &files);
        let definition = graph.definition.clone();
        let build = bench.build(|graph| graph.definition = definition);
        // Nothing takes longer than all vertices one after another.
        let limit = cut.unwrap_or(Duration::from_secs(10));
        match tokio::time::timeout(limit, build).await {
            Err(_) => {
                assert!(cut.is_some(), "seed {seed} round {round}: a deadlock");
            }
            Ok(built) if built.solution.is_err() => {
                assert!(fails, "seed {seed} round {round}: {:?}", built.error());
            }
            Ok(built) => {
                assert_eq!(bench.values(&built), expected, "seed {seed} round {round}");
                no_key_ran_twice(&built, seed, round);
            }
        }
        no_more_than_there_is(&bench, seed, round);
        // Aborted tasks are dropped by the runtime when it next runs.
        for _ in 0..5_000 {
            if bench.worker.state().running == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(bench.worker.state().running, 0, "seed {seed} round {round}: work goes on");
    }
    bench.worker.state().failing.clear();
    let last = || bench.build(|graph| write(seed, graph));
    last().await.solution();
    let again = last().await;
    let no_cache = |index: usize| {
        let vertices = again.definition.vertices();
        let equal = |name: &str| vertices.iter().any(|v| v.meta.no_cache && v.meta.name == name);
        equal(&vertices[index].meta.name)
    };
    for (index, vertex) in again.solution().decisions.vertices.iter().enumerate() {
        let executed = vertex.origin == Some(solver::Origin::Executed);
        assert!(!executed || no_cache(index), "seed {seed}: vertex {index} is not cached");
    }
}

/// What ran beside something else fitted beside it.
fn no_more_than_there_is(bench: &Bench, seed: u64, round: u64) {
    let taken = bench.worker.state().most_taken;
    let fits = bench.memory.is_none_or(|memory| taken.memory <= memory)
        && bench.cpu.is_none_or(|cpu| taken.cpu <= cpu);
    let (memory, cpu) = (bench.memory, bench.cpu);
    assert!(fits, "seed {seed} round {round}: {taken:?} of {memory:?} and {cpu:?}");
}

/// Each vertex that was executed has a key of its own.
fn no_key_ran_twice(built: &crate::build::Built, seed: u64, round: u64) {
    let reports = built.solution().decisions.vertices.iter();
    let executed = reports.filter(|vertex| vertex.origin == Some(solver::Origin::Executed));
    let mut keys: Vec<_> = executed.map(|vertex| vertex.key).collect();
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count, "seed {seed} round {round}: a key was executed twice");
}

#[tokio::test(start_paused = true)]
async fn thousands_of_random_builds_come_out_right() {
    for seed in 0..2000 {
        check(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_builds_on_many_threads_come_out_right() {
    for seed in 10_000..10_060 {
        check(seed).await;
    }
}
