//! Records that cannot be had cost time, not builds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cache::hash::Fingerprint;
use solver::{CacheKey, Event, EventSender, Record, Records, RecordsError, Solver, SolverOptions};

use crate::build::Graph;
use crate::fake::FakeWorker;

struct Broken;

fn broken<T>() -> Result<T, RecordsError> {
    Err(RecordsError::from(Box::<dyn std::error::Error + Send + Sync>::from("disk on fire")))
}

impl Records for Broken {
    fn lookup(&self, _: &CacheKey) -> Result<Option<Record>, RecordsError> {
        broken()
    }

    fn has_op(&self, _: &Fingerprint) -> Result<bool, RecordsError> {
        broken()
    }

    fn insert(&self, _: &[Record]) -> Result<(), RecordsError> {
        broken()
    }
}

#[tokio::test]
async fn a_broken_index_is_one_warning() {
    let worker = Arc::new(FakeWorker::default());
    let solver = Solver::new(worker.clone(), Arc::new(Broken), SolverOptions::default());
    let mut graph = Graph::default();
    let base = graph.image("busybox", 1);
    let run = graph.run("add 1", &[base]);
    graph.target(run);
    let (sender, mut events) = EventSender::channel();
    let solution = solver.solve(Arc::new(graph.definition), sender).await.expect("it builds");
    assert_eq!(worker.value(&solution.outputs[0]), 2);
    let mut warnings = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::Warning { message, .. } = event {
            warnings.push(message);
        }
    }
    assert_eq!(warnings, ["the build cache's index cannot be used: disk on fire"]);
}

/// Counts transactions.
#[derive(Default)]
struct Slow {
    inserts: AtomicUsize,
    records: AtomicUsize,
}

impl Records for Slow {
    fn lookup(&self, _: &CacheKey) -> Result<Option<Record>, RecordsError> {
        Ok(None)
    }

    fn has_op(&self, _: &Fingerprint) -> Result<bool, RecordsError> {
        Ok(false)
    }

    fn insert(&self, records: &[Record]) -> Result<(), RecordsError> {
        // As long as a transaction takes on a slow disk.
        std::thread::sleep(std::time::Duration::from_millis(5));
        self.inserts.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records.len(), Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test]
async fn a_fast_build_is_stored_in_few_transactions_before_it_returns() {
    let records = Arc::new(Slow::default());
    let worker = Arc::new(FakeWorker::default());
    let solver = Solver::new(worker, records.clone(), SolverOptions::default());
    let mut graph = Graph::default();
    let mut step = graph.image("busybox", 1);
    for index in 0..100 {
        step = graph.run(&format!("add {index}"), &[step]);
    }
    graph.target(step);
    solver.solve(Arc::new(graph.definition), EventSender::nobody()).await.expect("it builds");
    // The image under its key; each step under its key and as the newest of its op.
    assert_eq!(records.records.load(Ordering::Relaxed), 201);
    let inserts = records.inserts.load(Ordering::Relaxed);
    assert!(inserts < 50, "{inserts} transactions for 101 results");
}

#[tokio::test]
async fn the_index_of_a_store_remembers_across_processes() {
    let root = tempfile::tempdir().expect("a directory");
    let worker = Arc::new(FakeWorker::default());
    let mut took = Vec::new();
    for round in 0..3 {
        // Each round opens the store anew, as another process would.
        let store = cache::Store::open(root.path()).expect("a store");
        let records = Arc::new(store.index().clone());
        let solver = Solver::new(worker.clone(), records, SolverOptions::default());
        let mut graph = Graph::default();
        let mut step = graph.image("busybox", 1);
        if round == 2 {
            step = graph.run("add 100", &[step]);
            step = graph.run("div 100", &[step]);
        }
        for index in 0..11 {
            step = graph.run(&format!("add {index}"), &[step]);
        }
        graph.target(step);
        worker.forget_calls();
        let definition = Arc::new(graph.definition);
        let start = std::time::Instant::now();
        let solution = solver.solve(definition, EventSender::nobody()).await.expect("it builds");
        took.push(start.elapsed());
        assert_eq!(worker.value(&solution.outputs[0]), 56);
        let expected = [12, 0, 2][round];
        assert_eq!(worker.state().executed.len(), expected, "round {round}");
    }
    println!("12 vertices: {took:?} cold, warm, with early cutoff");
}
