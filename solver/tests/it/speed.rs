//! What the solver itself costs. Bounds are wide, because tests run unoptimised beside others: they
//! catch a cost that grows with the square, not a few percent. `bench/` has the figures.

use std::time::{Duration, Instant};

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

async fn times(count: usize) -> (Duration, Duration) {
    let bench = Bench::default();
    let start = Instant::now();
    bench.build(stages(count)).await.solution();
    let cold = start.elapsed();
    assert_eq!(bench.worker.state().executed.len(), count + 2);
    let start = Instant::now();
    bench.build(stages(count)).await.solution();
    let warm = start.elapsed();
    assert!(bench.worker.state().executed.is_empty());
    (cold, warm)
}

#[tokio::test]
async fn the_cost_is_linear_in_vertices() {
    let (small_cold, small_warm) = times(1_000).await;
    let (cold, warm) = times(10_000).await;
    println!("1,000 vertices: {small_cold:?} cold, {small_warm:?} warm");
    println!("10,000 vertices: {cold:?} cold, {warm:?} warm");
    assert!(cold < small_cold * 40, "{small_cold:?} for 1,000, {cold:?} for 10,000");
    assert!(warm < small_warm * 40, "{small_warm:?} for 1,000, {warm:?} for 10,000");
}
