//! What the solver itself costs, in processor time of the scheduling thread, which other load does
//! not change much. Bounds are wide, because tests run unoptimised: they catch a cost that grows
//! with the square, not a few percent.
//!
//! `STRAKE_BENCH_VERTICES=100000 cargo test --release -p solver --test it -- speed --nocapture`
//! prints what a graph of so many vertices costs as well.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::build::{Bench, Graph};

/// Ten stages beside each other, `count` vertices in all, ending in one that needs them all.
fn stages(count: usize) -> impl Fn(&mut Graph) {
    move |graph| {
        let base = graph.image("busybox", 1);
        let mut ends = vec![base; 10];
        for index in 0..count {
            let stage = index % ends.len();
            ends[stage] = graph.run(&format!("add {index}"), &[ends[stage]]);
        }
        let last = graph.run("add 0", &ends);
        graph.target(last);
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a time after the thread began")
}

async fn times(count: usize) -> (Duration, Duration) {
    let bench = Bench::default();
    let start = processor_time();
    bench.build(stages(count)).await.solution();
    let cold = processor_time() - start;
    assert_eq!(bench.worker.state().executed.len(), count + 2);
    let start = processor_time();
    bench.build(stages(count)).await.solution();
    let warm = processor_time() - start;
    assert!(bench.worker.state().executed.is_empty());
    (cold, warm)
}

#[tokio::test]
async fn the_cost_is_linear_in_vertices() {
    let (small_cold, small_warm) = times(1_000).await;
    let (cold, warm) = times(10_000).await;
    println!("1000 vertices: {small_cold:?} cold, {small_warm:?} warm");
    println!("10000 vertices: {cold:?} cold, {warm:?} warm");
    if let Ok(count) = std::env::var("STRAKE_BENCH_VERTICES") {
        let count = count.parse().expect("a number of vertices");
        let (cold, warm) = times(count).await;
        println!("{count} vertices: {cold:?} cold, {warm:?} warm");
    }
    assert!(cold < small_cold * 40, "{small_cold:?} for 1,000, {cold:?} for 10,000");
    assert!(warm < small_warm * 40, "{small_warm:?} for 1,000, {warm:?} for 10,000");
}
