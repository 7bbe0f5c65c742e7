//! Trees and diagnostics as text that people can review.

use std::fmt::Write;

use parser::*;

/// Everything that `source` parses to, one line each: directives, global arguments, stages with
/// their instructions, diagnostics.
pub(crate) fn dump(source: &[u8], parsed: &Parsed) -> String {
    let mut out = String::new();
    let Dockerfile { directives, global_args, stages } = &parsed.dockerfile;
    if let Some(syntax) = &directives.syntax {
        line(&mut out, "syntax", syntax);
    }
    if directives.escape != '\\' {
        line(&mut out, "escape", directives.escape);
    }
    if directives.check != Checks::default() {
        line(&mut out, "check", &directives.check);
    }
    for arg in global_args {
        let _ = writeln!(out, "{} {}", lines(arg.lines), args(&arg.kind));
    }
    for stage in stages {
        let _ = write!(out, "{} FROM {}", lines(stage.from_lines), stage.base);
        option(&mut out, "platform", &stage.platform);
        if let Some(name) = &stage.name {
            let _ = write!(out, " AS {name}");
        }
        comments(&mut out, &stage.comments, &stage.skip);
        out.push('\n');
        for instruction in &stage.instructions {
            let _ = write!(out, "  {} ", lines(instruction.lines));
            kind(&mut out, &instruction.kind);
            comments(&mut out, &instruction.comments, &instruction.skip);
            out.push('\n');
        }
    }
    for diagnostic in &parsed.diagnostics {
        let severity = if diagnostic.is_error() { "error" } else { "warning" };
        let from = parsed.lines.position(source, diagnostic.span.start);
        let to = parsed.lines.position(source, diagnostic.span.end);
        let _ = writeln!(out, "{severity} {from}-{to} {diagnostic}");
    }
    out
}

fn line(out: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "{name} {value}");
}

fn lines(lines: Lines) -> String {
    match lines.first == lines.last {
        true => lines.first.to_string(),
        false => format!("{}-{}", lines.first, lines.last),
    }
}

fn option(out: &mut String, name: &str, value: &Option<Spanned<String>>) {
    if let Some(value) = value {
        let _ = write!(out, " {name}={:?}", value.value);
    }
}

fn switch(out: &mut String, name: &str, value: bool) {
    if value {
        let _ = write!(out, " {name}");
    }
}

fn comments(out: &mut String, comments: &[String], skip: &Skip) {
    if !comments.is_empty() {
        let _ = write!(out, " # {}", comments.join(" | "));
    }
    if *skip != Skip::default() {
        let _ = write!(out, " (skip {skip})");
    }
}

fn args(arg: &Arg) -> String {
    let mut out = "ARG".to_owned();
    for ArgDefinition { name, default } in &arg.args {
        let _ = match default {
            Some(default) => write!(out, " {name}={:?}", default.value),
            None => write!(out, " {name}"),
        };
    }
    out
}

fn command(out: &mut String, command: &CommandForm) {
    let _ = match command {
        CommandForm::Shell(text) => write!(out, " shell {text:?}"),
        CommandForm::Exec(words) => write!(out, " exec {words:?}"),
    };
}

fn texts(out: &mut String, texts: &[Spanned<String>]) {
    for text in texts {
        let _ = write!(out, " {:?}", text.value);
    }
}

fn heredoc(out: &mut String, heredoc: &Heredoc) {
    let _ = write!(out, " <<{}", heredoc.name);
    if let Some(fd) = heredoc.fd {
        let _ = write!(out, " fd={fd}");
    }
    switch(out, "tabs-stripped", heredoc.strip_tabs);
    switch(out, "literal", !heredoc.expand);
    let _ = write!(out, " {:?}", heredoc.body());
}

fn sources(out: &mut String, sources: &[Source], destination: &Spanned<String>) {
    for source in sources {
        match source {
            Source::Path(path) => {
                let _ = write!(out, " {:?}", path.value);
            }
            Source::Heredoc(document) => heredoc(out, document),
        }
    }
    let _ = write!(out, " -> {:?}", destination.value);
}

fn kind(out: &mut String, kind: &InstructionKind) {
    if let InstructionKind::Arg(arg) = kind {
        out.push_str(&args(arg));
        return;
    }
    out.push_str(kind.keyword());
    match kind {
        InstructionKind::Arg(_) => {}
        InstructionKind::Add(add) => {
            option(out, "chown", &add.chown);
            option(out, "chmod", &add.chmod);
            switch(out, "link", add.link);
            option(out, "checksum", &add.checksum);
            add.excludes.iter().for_each(|e| option(out, "exclude", &Some(e.clone())));
            if let Some(keep) = add.keep_git_dir {
                let _ = write!(out, " keep-git-dir={keep}");
            }
            if let Some(unpack) = add.unpack {
                let _ = write!(out, " unpack={unpack}");
            }
            sources(out, &add.sources, &add.destination);
        }
        InstructionKind::Copy(copy) => {
            option(out, "from", &copy.from);
            option(out, "chown", &copy.chown);
            option(out, "chmod", &copy.chmod);
            switch(out, "link", copy.link);
            switch(out, "parents", copy.parents);
            copy.excludes.iter().for_each(|e| option(out, "exclude", &Some(e.clone())));
            sources(out, &copy.sources, &copy.destination);
        }
        InstructionKind::Cmd(Cmd { command: form })
        | InstructionKind::Entrypoint(Entrypoint { command: form }) => command(out, form),
        InstructionKind::Env(Env { pairs, legacy })
        | InstructionKind::Label(Label { pairs, legacy }) => {
            for pair in pairs {
                let _ = write!(out, " {}={:?}", pair.key, pair.value.value);
            }
            switch(out, "(legacy)", *legacy);
        }
        InstructionKind::Expose(Expose { ports }) => texts(out, ports),
        InstructionKind::Healthcheck(healthcheck) => health(out, healthcheck),
        InstructionKind::Maintainer(Maintainer { name: text })
        | InstructionKind::Stopsignal(Stopsignal { signal: text })
        | InstructionKind::User(User { user: text })
        | InstructionKind::Workdir(Workdir { path: text }) => {
            texts(out, std::slice::from_ref(text));
        }
        InstructionKind::Onbuild(Onbuild { trigger, instruction }) => {
            let _ = write!(out, " {trigger:?}: ");
            match instruction {
                Some(instruction) => self::kind(out, &instruction.kind),
                None => out.push_str("(not parsed)"),
            }
        }
        InstructionKind::Run(instruction) => run(out, instruction),
        InstructionKind::Shell(Shell { command }) => {
            let _ = write!(out, " {command:?}");
        }
        InstructionKind::Volume(Volume { paths }) => texts(out, paths),
    }
}

fn health(out: &mut String, healthcheck: &Healthcheck) {
    let Healthcheck::Test {
        command: form,
        interval,
        timeout,
        start_period,
        start_interval,
        retries,
    } = healthcheck
    else {
        out.push_str(" NONE");
        return;
    };
    let durations = [
        ("interval", interval),
        ("timeout", timeout),
        ("start-period", start_period),
        ("start-interval", start_interval),
    ];
    for (name, duration) in durations {
        if let Some(duration) = duration {
            let _ = write!(out, " {name}={duration:?}");
        }
    }
    if let Some(retries) = retries {
        let _ = write!(out, " retries={retries}");
    }
    command(out, form);
}

fn run(out: &mut String, run: &Run) {
    for mount in &run.mounts {
        let expander = Expander { escape: '\\' };
        let mut unexpanded = |text: &str| {
            // Variables show as themselves.
            expander.expand(text, &|name| Some(format!("${name}"))).map(|e| e.text)
        };
        let _ = match mount.resolve(&mut unexpanded) {
            Ok(spec) => write!(out, " {spec:?}"),
            Err(error) => write!(out, " mount({}: {error})", mount.text),
        };
    }
    if let Some(network) = &run.network {
        let _ = write!(out, " network={:?}", network.value);
    }
    if let Some(security) = &run.security {
        let _ = write!(out, " security={:?}", security.value);
    }
    for device in &run.devices {
        let _ = write!(out, " {:?}", device.value);
    }
    if run.heredocs.is_empty() {
        command(out, &run.command);
        return;
    }
    run.heredocs.iter().for_each(|document| heredoc(out, document));
    let _ = write!(out, " => {:?}", run.script());
}
