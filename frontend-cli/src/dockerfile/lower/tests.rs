//! Dockerfile text in, history, configuration and vertices out.

use cache::oci::{DiffId, Digest, ImageConfiguration, Platform};
use solver::llb::{Definition, FileAction, MountKind, Op};

use super::{LowerError, Lowered, lower};
use crate::dockerfile::plan::{ImageRequest, Plan, ResolvedImage, ResolvedImages, Settings};

fn settings(build_args: &[(&str, &str)]) -> Settings {
    let platform: Platform = "linux/amd64".parse().unwrap();
    let pairs = build_args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Settings { build_args: pairs.collect(), ..Settings::new("Dockerfile", &platform) }
}

/// An image of one layer with this configuration.
fn base(change: impl FnOnce(&mut ImageConfiguration)) -> ImageConfiguration {
    let mut config = ImageConfiguration {
        architecture: "amd64".into(),
        os: "linux".into(),
        ..ImageConfiguration::default()
    };
    config.rootfs.diff_ids = vec![DiffId(Digest::of(b"base"))];
    change(&mut config);
    config
}

fn try_lower(
    text: &str,
    settings: &Settings,
    base: &ImageConfiguration,
) -> Result<(Lowered, Definition), LowerError> {
    let parsed = parser::parse(text.as_bytes());
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    let plan = Plan::new(&parsed.dockerfile, settings).map_err(LowerError::Faults)?;
    let image = |config: &ImageConfiguration| ResolvedImage {
        manifest: Digest::of(b"manifest"),
        config_digest: Digest::of(b"config"),
        config: config.clone(),
    };
    let images: ResolvedImages =
        plan.images.iter().map(|wanted| (wanted.request.clone(), image(base))).collect();
    let mut definition = Definition::new();
    let lowered = lower(&parsed.dockerfile, &plan, settings, &images, &mut definition)?;
    Ok((lowered, definition))
}

fn lowered(text: &str) -> (Lowered, Definition) {
    try_lower(text, &settings(&[]), &base(|_| {})).unwrap_or_else(|error| panic!("{error:?}"))
}

fn history(text: &str) -> Vec<String> {
    lowered(text).0.config.history.into_iter().filter_map(|entry| entry.created_by).collect()
}

fn fault(text: &str) -> String {
    match try_lower(text, &settings(&[]), &base(|_| {})) {
        Err(LowerError::Faults(faults)) => faults[0].message.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn history_is_written_in_buildkits_words() {
    let text = "FROM busybox\nARG A=1\nENV B=$A C=\"x y\"\nWORKDIR /w\nRUN make\nCOPY --chown=1 f ./\nCMD [\"a\"]\nEXPOSE 80 53/udp\nUSER app\n";
    assert_eq!(
        history(text),
        [
            "ARG A=1",
            "ENV B=1 C=x y",
            "WORKDIR /w",
            "RUN |1 A=1 /bin/sh -c make # buildkit",
            "COPY --chown=1 f ./ # buildkit",
            "CMD [\"a\"]",
            "EXPOSE [53/udp 80/tcp]",
            "USER app",
        ]
    );
}

#[test]
fn only_steps_with_files_have_layers() {
    let (lowered, _) = lowered("FROM busybox\nENV A=1\nRUN true\nWORKDIR /\nWORKDIR /x\n");
    let empty: Vec<_> =
        lowered.config.history.iter().map(|entry| entry.empty_layer.unwrap_or(false)).collect();
    assert_eq!(empty, [true, false, true, false]);
}

#[test]
fn steps_are_numbered_within_their_stage() {
    let (_, definition) =
        lowered("FROM busybox AS a\nRUN one\nFROM scratch\nCOPY --from=a /x /x\n");
    let names: Vec<_> =
        definition.vertices().iter().map(|vertex| vertex.meta.name.clone()).collect();
    assert!(names.contains(&"[a 2/2] RUN one".to_owned()), "{names:?}");
    assert!(names.contains(&"[stage-1 1/1] COPY --from=a /x /x".to_owned()), "{names:?}");
}

#[test]
fn a_stage_without_cache_leaves_the_others_cached() {
    let no_cache_stages = ["one".to_owned(), "stage-2".to_owned()].into();
    let settings = Settings { no_cache_stages, ..settings(&[]) };
    let text = "FROM busybox AS One\nRUN 1\nFROM busybox AS two\nRUN 2\nCOPY --from=one /a /b\nFROM two\nRUN 3\n";
    let (_, definition) = try_lower(text, &settings, &base(|_| {})).unwrap();
    let steps = definition.vertices().iter().filter(|vertex| vertex.meta.stage.is_some());
    let steps: Vec<_> =
        steps.map(|vertex| (vertex.meta.name.as_str(), vertex.meta.no_cache)).collect();
    assert_eq!(
        steps,
        [
            ("[one 2/2] RUN 1", true),
            ("[two 2/3] RUN 2", false),
            ("[two 3/3] COPY --from=one /a /b", false),
            ("[stage-2 1/1] RUN 3", true),
        ]
    );
}

#[test]
fn stages_that_the_target_does_not_need_leave_no_vertex() {
    let (_, definition) = lowered("FROM nowhere AS unused\nRUN false\nFROM busybox\nRUN true\n");
    assert!(definition.vertices().iter().all(|vertex| !vertex.meta.name.contains("false")));
}

#[test]
fn the_later_of_arg_and_env_wins_for_run_and_the_image_keeps_env() {
    let (lowered, definition) = lowered("FROM busybox\nENV X=env\nARG X=arg\nRUN echo $X\n");
    let Op::Exec(exec) = &definition.vertices().last().unwrap().op else { panic!() };
    assert!(exec.env.iter().any(|pair| pair == ("X", "arg")));
    assert!(lowered.config.config.env.unwrap().contains(&"X=env".to_owned()));
}

#[test]
fn entrypoint_clears_only_an_inherited_cmd() {
    let inherited = base(|config| config.config.cmd = Some(vec!["sh".into()]));
    let cmd = |text: &str| try_lower(text, &settings(&[]), &inherited).unwrap().0.config.config.cmd;
    assert_eq!(cmd("FROM busybox\nENTRYPOINT [\"e\"]\n"), None);
    assert_eq!(cmd("FROM busybox\nCMD [\"c\"]\nENTRYPOINT [\"e\"]\n"), Some(vec!["c".to_owned()]));
}

#[test]
fn triggers_of_the_base_fire_once_and_are_gone() {
    let image = base(|config| config.config.on_build = Some(vec!["RUN trigger".into()]));
    let (lowered, _) =
        try_lower("FROM busybox AS a\nFROM a\nRUN own\n", &settings(&[]), &image).unwrap();
    let runs: Vec<_> =
        lowered.config.history.iter().filter_map(|entry| entry.created_by.clone()).collect();
    assert_eq!(runs, ["RUN /bin/sh -c trigger # buildkit", "RUN /bin/sh -c own # buildkit"]);
    assert_eq!(lowered.config.config.on_build, None);
}

#[test]
fn a_trigger_may_name_images_that_must_be_resolved_first() {
    let image =
        base(|config| config.config.on_build = Some(vec!["COPY --from=other /a /b".into()]));
    match try_lower("FROM busybox\n", &settings(&[]), &image) {
        Err(LowerError::NeedsImages(images)) => {
            let names: Vec<_> =
                images.iter().map(|request: &ImageRequest| request.name.familiar()).collect();
            assert_eq!(names, ["other:latest"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn proxies_reach_run_but_no_history() {
    let settings = settings(&[("HTTP_PROXY", "http://p")]);
    let (lowered, definition) =
        try_lower("FROM busybox\nRUN x\n", &settings, &base(|_| {})).unwrap();
    let Op::Exec(exec) = &definition.vertices().last().unwrap().op else { panic!() };
    let names: Vec<_> = exec.proxy_env.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["HTTP_PROXY", "http_proxy"]);
    assert_eq!(
        lowered.config.history[0].created_by.as_deref(),
        Some("RUN /bin/sh -c x # buildkit")
    );
}

#[test]
fn a_copy_of_several_paths_is_one_action() {
    let (_, definition) = lowered("FROM busybox\nWORKDIR /w\nCOPY a b* ./\n");
    let Op::File(file) = &definition.vertices().last().unwrap().op else { panic!() };
    let [FileAction::Copy(copy)] = &file.actions[..] else { panic!("{:?}", file.actions) };
    assert_eq!(
        (copy.sources.clone(), copy.dest.as_str()),
        (vec!["/a".to_owned(), "/b*".to_owned()], "/w/")
    );
    assert!(copy.wildcard && copy.from_context);
}

#[test]
fn mounts_are_placed_below_the_working_directory() {
    let (_, definition) = lowered(
        "FROM busybox\nWORKDIR /w\nRUN --mount=type=cache,target=c --mount=type=secret,id=a/b true\n",
    );
    let Op::Exec(exec) = &definition.vertices().last().unwrap().op else { panic!() };
    assert_eq!(exec.mounts[0].target, "/w/c");
    assert!(matches!(&exec.mounts[0].kind, MountKind::Cache { id, .. } if id == "/w/c"));
    assert_eq!(exec.mounts[1].target, "/run/secrets/b");
}

#[test]
fn what_cannot_be_built_is_said_in_buildkits_words() {
    for (text, message) in [
        (
            "FROM busybox AS a\nCOPY --from=b /x /x\nFROM busybox AS b\nFROM a\n",
            "cannot copy from stage \"b\", it needs to be defined before current stage \"a\"",
        ),
        ("FROM busybox AS a\nCOPY --from=a /x /x\n", "circular dependency detected on stage: a"),
        ("FROM busybox\nCOPY --from=7 /x /x\n", "invalid stage index 7"),
        ("ARG X\nFROM $X\n", "base name ($X) should not be blank"),
        ("FROM busybox\nRUN --network=host true\n", "network.host is not allowed"),
        ("FROM busybox\nRUN --mount=type=tmpfs,target=/ true\n", "invalid mount target \"/\""),
        ("FROM busybox\nARG S=SIGNONE\nSTOPSIGNAL $S\n", "Invalid signal: SIGNONE"),
    ] {
        assert_eq!(fault(text), message, "{text}");
    }
}
