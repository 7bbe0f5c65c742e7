//! How long the parts of a container's life take: `measure <rootfs> <count> <program>…`.
//!
//! Prints medians in microseconds, once with each container made on demand and once with the next
//! one prepared while the last one runs.

use std::time::Instant;

use oci_spec::runtime::{Mount, MountBuilder};
use runtime::{ContainerIo, ContainerRequest, NetworkMode, Spawner, Stdin};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    runtime::init::run_if_requested();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rootfs, count, program @ ..] = arguments.as_slice() else {
        return Err("usage: measure <rootfs> <count> <program>…".into());
    };
    let count: usize = count.parse()?;
    let started = Instant::now();
    let isolation = runtime::isolate()?;
    let isolated = started.elapsed();
    let spawner = Spawner::start()?;
    println!("isolate {isolated:?}, start {:?}, {isolation:?}", started.elapsed() - isolated);

    let directory = tempfile::tempdir()?;
    for network in [NetworkMode::Host, NetworkMode::None, NetworkMode::Proxied] {
        for prepare in [false, true] {
            let mut times = [Vec::new(), Vec::new(), Vec::new()];
            for number in 0..count {
                let home = directory.path().join(format!("{network:?}-{prepare}-{number}"));
                for name in ["upper", "work"] {
                    fs_err::create_dir_all(home.join(name))?;
                }
                let mut spec = runtime::default_spec();
                let process = spec.process_mut().as_mut().ok_or("no process")?;
                process.set_args(Some(program.to_vec()));
                let request = ContainerRequest {
                    spec,
                    rootfs: vec![overlay(rootfs, &home)],
                    network,
                    files: Vec::new(),
                };
                if prepare && number == 0 {
                    spawner.prepare(network);
                }
                let started = Instant::now();
                let container =
                    spawner.spawn(&request, ContainerIo::Inherit { stdin: Stdin::Null })?;
                let spawned = started.elapsed();
                if prepare {
                    spawner.prepare(network);
                }
                container.wait()?;
                let ended = started.elapsed();
                drop(container);
                times[0].push(spawned.as_micros());
                times[1].push((ended - spawned).as_micros());
                times[2].push(started.elapsed().as_micros());
            }
            let [spawn, wait, total] = times.map(|mut times| {
                times.sort_unstable();
                times[times.len() / 2]
            });
            println!("{network:?} prepared={prepare}: spawn {spawn} wait {wait} total {total}");
        }
    }
    Ok(())
}

fn overlay(rootfs: &str, home: &std::path::Path) -> Mount {
    MountBuilder::default()
        .destination("/")
        .typ("overlay")
        .options(vec![
            format!("lowerdir={rootfs}"),
            format!("upperdir={}/upper", home.display()),
            format!("workdir={}/work", home.display()),
        ])
        .build()
        .expect("all mandatory fields are set")
}
