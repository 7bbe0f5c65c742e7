//! How long the parts of a container's life take: `measure <rootfs> <count> <program>…`.
//!
//! Prints medians in microseconds. From the second container on each is prepared while the one
//! before it starts; the first one's time stands apart.

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
        let mut times = Vec::new();
        for number in 0..count {
            let home = directory.path().join(format!("{network:?}-{number}"));
            for name in ["upper", "work"] {
                fs_err::create_dir_all(home.join(name))?;
            }
            let mut spec = runtime::default_spec();
            let process = spec.process_mut().as_mut().ok_or("no process")?;
            process.set_args(Some(program.to_vec()));
            let rootfs = vec![overlay(rootfs, &home)];
            let request = ContainerRequest { spec, rootfs, network, files: Vec::new() };
            let started = Instant::now();
            let container = spawner.spawn(&request, ContainerIo::Inherit { stdin: Stdin::Null })?;
            let spawned = started.elapsed();
            container.wait()?;
            drop(container);
            times.push((started.elapsed().as_micros(), spawned.as_micros()));
        }
        let first = times.first().ok_or("count is 0")?.0;
        times.sort_unstable();
        let (total, spawn) = times[times.len() / 2];
        println!("{network:?}: first {first}, median {total}, {spawn} of it until exec");
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
