//! How long the copy and the fingerprint of many files take; run on purpose:
//! `STRAKE_BENCH_FILES=50000 cargo test --release -p executor --test it -- bench`.

use std::process::Command;
use std::time::Instant;

use solver::llb::Selector;
use solver::{ContentRequest, InputValue, Worker};

use crate::Case;
use crate::scene::{Machine, Scene, copy};

pub(crate) const CASES: &[Case] = &[("bench_many_files_are_copied", bench_many_files_are_copied)];

fn bench_many_files_are_copied(machine: &Machine) {
    // As a test, that thousands of files over many directories all arrive.
    let count = std::env::var("STRAKE_BENCH_FILES").map_or(3000, |n| n.parse().unwrap());
    let scene = Scene::new(machine);
    for number in 0..count {
        let path = format!("d{}/e{}/f{number}", number % 50, number / 50 % 20);
        scene.write(&path, &"0123456789abcdef".repeat(number % 400));
    }
    let worker = scene.worker();
    let read = |what: &str| {
        let start = Instant::now();
        let InputValue::Direct(vertex) = scene.context_input(&[]) else { unreachable!() };
        let request = ContentRequest { vertex, output: None, selector: Selector::everything() };
        scene.runtime.block_on(worker.content(request)).unwrap();
        println!("{what}: {:?}", start.elapsed());
    };
    read("fingerprint, cold");
    read("fingerprint, same process");
    scene.runtime.block_on(worker.finish());
    let again = scene.worker();
    let start = Instant::now();
    let InputValue::Direct(vertex) = scene.context_input(&[]) else { unreachable!() };
    let request = ContentRequest { vertex, output: None, selector: Selector::everything() };
    scene.runtime.block_on(again.content(request)).unwrap();
    println!("fingerprint, next process: {:?}", start.elapsed());

    let start = Instant::now();
    let target = scene.dir.path().join("cp");
    Command::new("cp").arg("-a").arg(scene.context()).arg(target).status().unwrap();
    println!("cp -a: {:?}", start.elapsed());
    let start = Instant::now();
    let mut op = solver::llb::FileOp::default();
    op.actions.push(solver::llb::FileAction::Copy(copy(".", "/app")));
    let vertex = crate::scene::vertex(solver::llb::Op::File(op));
    let inputs = vec![scene.base(), scene.context_input(&[])];
    let log = solver::LogSink::nobody();
    let exec = worker.exec(std::sync::Arc::new(vertex), inputs, log);
    let copied = scene.runtime.block_on(exec).unwrap();
    println!("COPY: {:?}", start.elapsed());
    scene.runtime.block_on(worker.finish());
    println!("COPY with its digests: {:?}", start.elapsed());
    let script = "find /app -type f | wc -l";
    let found = scene.run_on(InputValue::Output(copied[0].clone()), script).log();
    assert_eq!(found.trim(), count.to_string());
}
