//! `du`, `system df`, `prune --verbose`, and the formats of commands that list.

use serde_json::Value;

use crate::sealed::{Identity, Sealed};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A place with two images that share busybox and differ in a file of a megabyte.
fn place() -> Sealed {
    let sealed = Sealed::with_busybox(Identity::Caller);
    for name in ["one", "two"] {
        let dockerfile =
            format!("FROM busybox\nRUN dd if=/dev/urandom of=/{name} bs=64k count=16\n");
        sealed.write(&format!("{name}/Dockerfile"), dockerfile);
        sealed.strake(["build", "-t", name, name]).success();
    }
    sealed
}

#[test]
fn du_says_everything_of_a_step_and_how_often_it_was_used() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let dockerfile =
        "FROM busybox\nRUN --mount=type=cache,target=/c seq 1 10000 > /numbers; date > /c/now\n";
    sealed.write("work/Dockerfile", dockerfile);
    let build = || sealed.strake(["build", "-o", "type=tar,dest=/dev/null", "work"]);
    let step = ["du", "--filter", "description~=seq"];
    let du = |flags: &[&str]| sealed.strake([&step[..], flags].concat());
    for times in 1..=3 {
        build().success();
        let count = du(&["--format", "{{.UsageCount}}"]);
        assert_eq!(count.success(), format!("{times}\n"));
    }
    // Looking at it is no use of it, nor is running something on its base.
    sealed.strake(["run", "--rm", "busybox", "true"]).success();
    assert_eq!(du(&["--format", "{{.UsageCount}}"]).success(), "3\n");
    // The step with the cache mount ran once.
    let mount =
        ["du", "--filter", "type=exec.cachemount", "--format", "{{.UsageCount}} {{.Mutable}}"];
    assert_eq!(sealed.strake(mount).success(), "1 true\n");

    let entry = json(du(&["--format", "json"]).success());
    assert!(entry["Size"].as_u64().unwrap() > 40_000, "{entry}");
    let (id, parent) = (entry["ID"].as_str().unwrap(), entry["Parents"][0].as_str().unwrap());
    let full = du(&["--verbose"]).success().to_owned();
    for line in [
        &format!("ID:           {id}\n"),
        &format!("Parents:\n - {parent}\n"),
        &format!("Created at:   {}\n", entry["CreatedAt"].as_str().unwrap()),
        "Mutable:      false\n",
        "Reclaimable:  true\n",
        "Shared:       false\n",
        "Description:  [2/2] RUN --mount=type=cache,target=/c seq 1 10000 > /numbers",
        "Usage count:  3\n",
        "Last used:    ",
        "Type:         regular\n",
        "Total:",
    ] {
        assert!(full.contains(line), "{line} is not in\n{full}");
    }
    assert_eq!(du(&["--format", "pretty"]).success().lines().next(), full.lines().next());

    let pruned = sealed.strake(["prune", "--force", "--verbose", "--filter", "type=regular"]);
    let pruned = pruned.success();
    assert!(pruned.contains(&format!("ID:           {id}\n")), "{pruned}");
    assert!(pruned.contains("Usage count:  3\n"), "{pruned}");
    assert!(pruned.contains("Total reclaimed space: "), "{pruned}");
    assert_eq!(du(&["--format", "{{.ID}}"]).success(), "");
}

#[test]
fn system_df_accounts_for_the_whole_store() {
    let sealed = place();
    sealed.strake(["run", "--name", "kept", "-v", "data:/data", "one", "sh", "-c",
        "dd if=/dev/urandom of=/own bs=64k count=8; dd if=/dev/urandom of=/data/x bs=64k count=4"]).success();
    let format = "{{.Type}}: {{.TotalCount}} {{.Active}} {{json .Size}} {{json .Reclaimable}}";
    let summary = sealed.strake(["system", "df", "--format", format]);
    let rows: Vec<(String, Vec<u64>)> = summary
        .success()
        .lines()
        .map(|line| {
            let (name, numbers) = line.split_once(": ").unwrap();
            (name.to_owned(), numbers.split(' ').map(|number| number.parse().unwrap()).collect())
        })
        .collect();
    let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Images", "Containers", "Local Volumes", "Build Cache"]);
    let [images, containers, volumes, cache] = [0, 1, 2, 3].map(|at| &rows[at].1);
    assert_eq!(images[..2], [3, 1], "{rows:?}");
    // One of the two megabytes is of an image without a container.
    assert!((2 << 20..images[2]).contains(&(images[3] + (1 << 20))), "{rows:?}");
    assert_eq!(containers[..2], [1, 0]);
    assert!(containers[2] >= 512 << 10 && containers[3] == containers[2], "{rows:?}");
    assert!(volumes[2] >= 256 << 10 && volumes[3] == 0, "{rows:?}");
    // What `du` counts, but for the index, the history and the marks.
    let mut whole = sealed.command("du");
    whole.args(["--summarize", "--block-size=1", "store"]);
    let whole = crate::sealed::run(whole, std::time::Duration::from_secs(60));
    // It fails where overlayfs left an empty directory that nobody may list, and has counted that.
    let whole: u64 = whole.stdout.split_whitespace().next().unwrap().parse().unwrap();
    let counted: u64 = [images, containers, volumes, cache].iter().map(|row| row[2]).sum();
    assert!(counted <= whole && whole - counted < 1 << 20, "{counted} of {whole}: {rows:?}");

    let all = json(sealed.strake(["system", "df", "-v", "--format", "json"]).success());
    let image = |name: &str| {
        let images = all["Images"].as_array().unwrap();
        images.iter().find(|image| image["Repository"] == name).unwrap().clone()
    };
    for (name, unique) in [("one", 1 << 20), ("two", 1 << 20), ("busybox", 0)] {
        let image = image(name);
        let [size, shared, own] =
            ["Size", "SharedSize", "UniqueSize"].map(|field| image[field].as_u64().unwrap());
        assert!(size == shared + own && shared > 512 << 10, "{image}");
        assert!((unique..unique + (256 << 10)).contains(&own), "{image}");
    }
    assert_eq!((&image("one")["Containers"], &image("two")["Containers"]), (&1.into(), &0.into()));
    assert_eq!(all["Containers"][0]["Names"], "kept");
    assert_eq!(all["Volumes"][0]["Name"], "data");
    let shown = sealed.strake(["system", "df", "--verbose"]);
    for part in [
        "Images space usage:",
        "UNIQUE SIZE",
        "Containers space usage:",
        "kept",
        "Local Volumes space usage:",
        "data",
        "Build cache usage: ",
        "CACHE ID",
    ] {
        assert!(shown.success().contains(part), "{part} is not in {shown}");
    }
    let table = sealed.strake(["system", "df"]);
    assert!(table.success().starts_with("TYPE "), "{table}");
    assert!(table.stdout.contains("Build Cache "), "{table}");
}

#[test]
fn commands_that_list_take_dockers_formats() {
    let sealed = Sealed::with_busybox(Identity::Caller);
    let shows = |words: &[&str], expected: &str| {
        let outcome = sealed.strake(words);
        assert_eq!(outcome.success(), expected, "{outcome}");
    };
    shows(
        &["images", "--format", r"{{.Repository}}:{{.Tag}}\t{{.Platform}}"],
        &format!("busybox:latest\tlinux/{}\n", arch()),
    );
    shows(
        &["images", "--format", "table {{.Repository}}\\t{{upper .Tag}}"],
        "REPOSITORY   TAG\nbusybox      LATEST\n",
    );
    let id = sealed.strake(["images", "--no-trunc", "--format", "{{.ID}}"]);
    let id = id.success().trim().to_owned();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    let short = sealed.strake(["image", "ls", "--format", "{{.ID}} {{truncate .Repository 4}}"]);
    assert_eq!(short.success(), format!("{} busy\n", &id[7..19]));
    let listed = json(sealed.strake(["images", "--format", "{{json .}}"]).success());
    assert_eq!(listed, json(sealed.strake(["images", "--format", "json"]).success()));

    shows(
        &["inspect", "-f", "{{.Id}} {{index .RepoTags 0}}", "busybox", "busybox"],
        &format!("{id} busybox:latest\n").repeat(2),
    );
    let dockerfile = "FROM busybox\nENV A=1 B=2\nCMD [\"/bin/x\"]\nLABEL a.b=c\n";
    sealed.write("work/Dockerfile", dockerfile);
    sealed.strake(["build", "-t", "made", "work"]).success();
    let inspect =
        |template: &str| sealed.strake(["inspect", "-f", template, "made"]).success().to_owned();
    assert_eq!(inspect("{{json .Config.Cmd}} {{.Config.Cmd}}"), "[\"/bin/x\"] [/bin/x]\n");
    let variables = inspect("{{range .Config.Env}}{{println .}}{{end}}");
    assert!(variables.ends_with("A=1\nB=2\n\n"), "{variables:?}");
    assert_eq!(inspect(r#"{{index .Config.Labels "a.b"}}"#), "c\n");
    assert_eq!(inspect("{{json .Config.Entrypoint}}{{range .Config.OnBuild}}{{end}}"), "null\n");

    sealed.strake(["run", "--name", "kept", "busybox", "echo", "hello"]).success();
    sealed.strake(["history", "rm", "--all"]).success();
    shows(
        &["ps", "-a", "--format", "{{.Names}}: {{.Image}} {{.Command}} {{.State}} {{.Status}}"],
        "kept: busybox echo hello exited Exited (0)\n",
    );
    shows(&["ps", "--format", "{{.Names}}"], "");

    sealed.write("work/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    sealed.strake(["build", "-t", "made:1", "work"]).success();
    shows(
        &["history", "ls", "--format", r#"{{.Name}} {{.Status}} {{join .Tags ","}}"#],
        "work Completed made:1\n",
    );
    shows(&["history", "inspect", "--format", "{{lower .Status}}"], "completed\n");

    // Nothing is printed for rows that there are not, but a mistake is told all the same.
    for (words, parts) in [
        (&["images", "none", "--format", "{{.Colour}}"][..], &["`.Colour`", ".Repository"][..]),
        (&["images", "--format", "yaml"], &["unknown --format `yaml`", "table, json"]),
        (&["ps", "--format", "{{shout .ID}}"], &["unknown function `shout`", "upper"]),
        (&["du", "--format", "{{.Sizes}}"], &["did you mean `.Size`?"]),
        (&["history", "ls", "--format", "{{if .Name}}"], &["has no `{{end}}`"]),
        (&["system", "df", "--format", "table {{.Nmae}}"], &["`.Nmae`", ".TotalCount"]),
        (&["inspect", "-f", "{{.Config.Cmdd}}", "busybox"], &["did you mean `.Cmd`?"]),
    ] {
        let outcome = sealed.strake(words);
        let text = outcome.failure(1);
        for part in parts {
            assert!(text.contains(part), "{part}: {outcome}");
        }
    }
}

/// This machine's architecture as images have it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
