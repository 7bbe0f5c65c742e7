//! COPY and ADD.

use cache::oci::Digest;
use parser::{Add, Copy, Heredoc, Instruction, ModeChange, Source, Span, Spanned};
use solver::llb::{
    ChmodSpec, CopyAction, Edge, FileAction, FileOp, GitSource, HttpSource, InlineFile, Input,
    MergeOp, Op, Owner, SelectPath, Selector, SourceOp, Unpack, UserSpec,
};

use super::stage::{StageState, clean, join};
use super::{Lowering, OriginEdge};
use crate::dockerfile::fault::Fault;
use crate::dockerfile::giturl::GitUrl;
use crate::dockerfile::lint;
use crate::dockerfile::plan::{Reference, ReferenceUser};

/// COPY and ADD in one shape: what differs between them is what may stand in which field.
struct Transfer<'a> {
    keyword: &'static str,
    from: Option<&'a Spanned<String>>,
    chown: Option<&'a Spanned<String>>,
    chmod: Option<&'a Spanned<String>>,
    link: bool,
    parents: bool,
    excludes: &'a [Spanned<String>],
    checksum: Option<&'a Spanned<String>>,
    keep_git_dir: Option<bool>,
    unpack: Option<bool>,
    sources: &'a [Source],
    destination: &'a Spanned<String>,
}

/// The flags with their variables expanded.
struct Flags {
    chown: Option<String>,
    chmod: Option<String>,
    owner: Option<Owner>,
    mode: Option<ChmodSpec>,
    excludes: Vec<String>,
    /// As written, its variables expanded.
    destination: String,
    /// The same from the root, with a slash behind it where it is a directory.
    dest: String,
    epoch: Option<i64>,
}

impl Lowering<'_> {
    pub(super) fn copy(
        &mut self,
        state: &mut StageState,
        copy: &Copy,
        instruction: &Instruction,
    ) -> Result<(), Fault> {
        let transfer = Transfer {
            keyword: "COPY",
            from: copy.from.as_ref(),
            chown: copy.chown.as_ref(),
            chmod: copy.chmod.as_ref(),
            link: copy.link,
            parents: copy.parents,
            excludes: &copy.excludes,
            checksum: None,
            keep_git_dir: None,
            unpack: Some(false),
            sources: &copy.sources,
            destination: &copy.destination,
        };
        self.transfer(state, &transfer, instruction)
    }

    pub(super) fn add(
        &mut self,
        state: &mut StageState,
        add: &Add,
        instruction: &Instruction,
    ) -> Result<(), Fault> {
        let transfer = Transfer {
            keyword: "ADD",
            from: None,
            chown: add.chown.as_ref(),
            chmod: add.chmod.as_ref(),
            link: add.link,
            parents: false,
            excludes: &add.excludes,
            checksum: add.checksum.as_ref(),
            keep_git_dir: add.keep_git_dir,
            unpack: add.unpack,
            sources: &add.sources,
            destination: &add.destination,
        };
        self.transfer(state, &transfer, instruction)
    }

    fn transfer(
        &mut self,
        state: &mut StageState,
        transfer: &Transfer<'_>,
        instruction: &Instruction,
    ) -> Result<(), Fault> {
        let flags = self.flags(state, transfer)?;
        let heredoc = transfer.sources.iter().any(|source| matches!(source, Source::Heredoc(_)));
        if let Some(flag) = transfer.checksum
            && (transfer.sources.len() > 1 || heredoc)
            && self.expand_flag(state, transfer.checksum)?.is_some()
        {
            return Err(Fault::new("checksum can't be specified for multiple sources", flag.span));
        }
        let origin = match transfer.from {
            Some(from) => Some(self.origin(&Reference {
                name: from.value.clone(),
                span: from.span,
                user: ReferenceUser::Copy,
            })?),
            None => None,
        };
        // --link: the layer is made upon nothing and laid over the base afterwards.
        let base = if transfer.link {
            self.source(SourceOp::Scratch, "scratch".into())
        } else {
            state.edge
        };
        let mut inputs = vec![Input::rootfs(base)];
        let mut actions = Vec::new();
        let mut written = Vec::new();

        let mut paths = Vec::new();
        for source in transfer.sources {
            let Source::Path(path) = source else { continue };
            let text = self.expand(state, path)?;
            written.push(text.clone());
            match self.remote_source(state, transfer, &text, path.span)? {
                Some(remote) => {
                    self.flush_paths(
                        transfer,
                        &flags,
                        &origin,
                        &mut paths,
                        &mut inputs,
                        &mut actions,
                    );
                    self.add_remote(transfer, &flags, remote, &mut inputs, &mut actions);
                }
                None => {
                    if origin.is_none() {
                        self.note_context_source(transfer.keyword, &text, path.span);
                    }
                    paths.push(text);
                }
            }
        }
        self.flush_paths(transfer, &flags, &origin, &mut paths, &mut inputs, &mut actions);
        for source in transfer.sources {
            let Source::Heredoc(heredoc) = source else { continue };
            written.push(format!("<<{}", heredoc.name));
            self.add_heredoc(state, heredoc, &flags, &mut inputs, &mut actions)?;
        }

        if written.len() > 1 && !flags.dest.ends_with('/') {
            let message = format!(
                "{} has more than one source, but its destination does not end with a /: the sources may overwrite each other",
                transfer.keyword
            );
            self.warnings
                .push(("MultipleSourcesToFile", Fault::new(message, transfer.destination.span)));
        }
        let meta = self.step_meta(state, &instruction.text);
        let layer = self.vertex(Op::File(FileOp { actions }), inputs, meta.clone());
        state.edge = if transfer.link {
            let inputs = vec![Input::rootfs(state.edge), Input::rootfs(layer)];
            let merge = self.meta(format!("{} (merge)", meta.name), false, meta.stage);
            self.vertex(Op::Merge(MergeOp), inputs, merge)
        } else {
            layer
        };
        state.add_history(history_text(transfer, &flags, &written), true);
        Ok(())
    }

    /// Looks at a source of the build context, for the checks.
    fn note_context_source(&mut self, keyword: &str, text: &str, span: Span) {
        self.warnings.extend(lint::ignored_source(&self.ignore, keyword, text, span));
        if is_pattern(text) {
            self.context_patterns.push((text.to_owned(), span));
        }
    }

    /// A flag's value; one that is empty or becomes so is as if it were not there.
    fn expand_flag(
        &mut self,
        state: &StageState,
        flag: Option<&Spanned<String>>,
    ) -> Result<Option<String>, Fault> {
        let expanded = flag.map(|flag| self.expand(state, flag)).transpose()?;
        Ok(expanded.filter(|text| !text.is_empty()))
    }

    fn flags(&mut self, state: &StageState, transfer: &Transfer<'_>) -> Result<Flags, Fault> {
        let chown = self.expand_flag(state, transfer.chown)?;
        let chmod = self.expand_flag(state, transfer.chmod)?;
        let mode = match (&chmod, transfer.chmod) {
            (Some(text), Some(flag)) => Some(chmod_spec(text, flag.span)?),
            _ => None,
        };
        let written = self.expand(state, transfer.destination)?;
        let mut dest = join(state.working_dir(), &written);
        let is_directory = written.ends_with('/')
            || written == "."
            || written.ends_with("/.")
            || written.is_empty();
        if is_directory && !dest.ends_with('/') {
            dest.push('/');
        }
        Ok(Flags {
            owner: chown.as_deref().and_then(owner),
            chown,
            chmod,
            mode,
            excludes: transfer.excludes.iter().map(|exclude| exclude.value.clone()).collect(),
            destination: written,
            dest,
            epoch: self.epoch(),
        })
    }

    /// Paths that stand beside each other and come from one place are one action.
    fn flush_paths(
        &mut self,
        transfer: &Transfer<'_>,
        flags: &Flags,
        origin: &Option<OriginEdge>,
        paths: &mut Vec<String>,
        inputs: &mut Vec<Input>,
        actions: &mut Vec<FileAction>,
    ) {
        if paths.is_empty() {
            return;
        }
        let (edge, from_context) = match origin {
            Some(origin) => (origin.edge, origin.is_context),
            None => (self.context(), true),
        };
        let sources: Vec<String> = std::mem::take(paths);
        let selected = |path: &String| SelectPath {
            path: clean(path),
            wildcard: is_pattern(path),
            follow: true,
            contents_only: !transfer.parents,
        };
        let selector = Selector {
            paths: sources.iter().map(selected).collect(),
            include: Vec::new(),
            exclude: flags.excludes.clone(),
            parents: transfer.parents,
        };
        inputs.push(Input::content(edge, selector));
        let wildcard = sources.iter().any(|path| is_pattern(path));
        // The pivot `/./` of --parents must survive.
        let rooted = |path: String| {
            if transfer.parents {
                format!("/{}", path.trim_start_matches('/'))
            } else {
                clean(&path)
            }
        };
        let mut action = flags.action(inputs.len() - 1, sources.into_iter().map(rooted).collect());
        action.wildcard = wildcard;
        action.parents = transfer.parents;
        action.from_context = from_context;
        action.link = transfer.link;
        action.unpack = match transfer.unpack {
            Some(false) => Unpack::No,
            Some(true) | None => Unpack::Auto,
        };
        actions.push(FileAction::Copy(action));
    }

    /// An ADD source that is fetched.
    fn remote_source(
        &mut self,
        state: &StageState,
        transfer: &Transfer<'_>,
        text: &str,
        span: Span,
    ) -> Result<Option<SourceOp>, Fault> {
        let checksum = self.expand_flag(state, transfer.checksum)?;
        let is_add = transfer.keyword == "ADD";
        if is_add && GitUrl::is_git(text) {
            return git_source(text, transfer.keep_git_dir, checksum.as_deref())
                .map(SourceOp::Git)
                .map(Some)
                .map_err(|message| Fault::new(message, span));
        }
        if is_add && (text.starts_with("http://") || text.starts_with("https://")) {
            let checksum = checksum
                .map(|checksum| checksum.parse::<Digest>())
                .transpose()
                .map_err(|error| Fault::new(error.to_string(), span))?;
            return Ok(Some(http_source(text, checksum, 0o600)));
        }
        if checksum.is_some()
            && let Some(flag) = transfer.checksum
        {
            return Err(Fault::new("checksum requires HTTP(S) or Git sources", flag.span));
        }
        if !is_add && (text.starts_with("http://") || text.starts_with("https://")) {
            let fault = Fault::new("source can't be a URL for COPY", span);
            return Err(fault.hint("ADD fetches URLs"));
        }
        if !is_add && GitUrl::is_git(text) {
            let fault = Fault::new("source can't be a git ref for COPY", span);
            return Err(fault.hint("ADD fetches repositories"));
        }
        Ok(None)
    }

    fn add_remote(
        &mut self,
        transfer: &Transfer<'_>,
        flags: &Flags,
        op: SourceOp,
        inputs: &mut Vec<Input>,
        actions: &mut Vec<FileAction>,
    ) {
        let (name, source, unpack) = match &op {
            SourceOp::Http(http) => {
                let unpack = if transfer.unpack == Some(true) { Unpack::Auto } else { Unpack::No };
                (http.url.clone(), format!("/{}", http.filename), unpack)
            }
            SourceOp::Git(git) => (git.url.clone(), "/".into(), Unpack::No),
            _ => return,
        };
        let edge = self.source(op, name);
        inputs.push(Input::content(edge, Selector::path(source.clone())));
        let mut action = flags.action(inputs.len() - 1, vec![source]);
        action.unpack = unpack;
        action.link = transfer.link;
        actions.push(FileAction::Copy(action));
    }

    fn add_heredoc(
        &mut self,
        state: &StageState,
        heredoc: &Heredoc,
        flags: &Flags,
        inputs: &mut Vec<Input>,
        actions: &mut Vec<FileAction>,
    ) -> Result<(), Fault> {
        let body = heredoc.body();
        let content =
            if heredoc.expand { self.expand_heredoc(state, &body, heredoc.span)? } else { body };
        let file =
            InlineFile { path: heredoc.name.clone(), content: content.into_bytes(), mode: 0o644 };
        let edge: Edge =
            self.source(SourceOp::Inline { files: vec![file] }, "[internal] heredoc".into());
        let source = format!("/{}", heredoc.name);
        inputs.push(Input::content(edge, Selector::path(source.clone())));
        actions.push(FileAction::Copy(flags.action(inputs.len() - 1, vec![source])));
        Ok(())
    }
}

impl Flags {
    fn action(&self, input: usize, sources: Vec<String>) -> CopyAction {
        CopyAction {
            input,
            sources,
            wildcard: false,
            dest: self.dest.clone(),
            owner: self.owner.clone(),
            mode: self.mode.clone(),
            unpack: Unpack::No,
            parents: false,
            exclude: self.excludes.clone(),
            from_context: false,
            required: true,
            link: false,
            created: self.epoch,
        }
    }
}

pub(super) fn http_source(url: &str, checksum: Option<Digest>, mode: u32) -> SourceOp {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let name = path.split_once('/').map_or("", |(_, path)| path).rsplit('/').next().unwrap_or("");
    let filename = if matches!(name, "" | "." | "..") { "__unnamed__" } else { name };
    SourceOp::Http(HttpSource {
        url: url.to_owned(),
        checksum,
        filename: filename.to_owned(),
        mode,
        uid: 0,
        gid: 0,
    })
}

pub(crate) fn git_source(
    text: &str,
    keep_git_dir: Option<bool>,
    checksum: Option<&str>,
) -> Result<GitSource, String> {
    let url = GitUrl::parse(text)?;
    if let (Some(flag), Some(query)) = (keep_git_dir, url.keep_git_dir)
        && flag != query
    {
        return Err("inconsistent keep-git-dir configuration".into());
    }
    Ok(GitSource {
        url: url.remote,
        reference: url.reference,
        subdir: url.subdir,
        keep_git_dir: keep_git_dir.or(url.keep_git_dir).unwrap_or(false),
        checksum: checksum.map(str::to_owned).or(url.checksum),
        submodules: url.submodules,
        commit_time: url.commit_time,
    })
}

/// `user[:group]`, by name or number. `:group` is a group of root's.
pub(super) fn owner(text: &str) -> Option<Owner> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    if user.is_empty() && group.unwrap_or_default().is_empty() {
        return None;
    }
    // What is empty beside a colon is root's.
    let spec = |word: &str| match id(word) {
        _ if word.is_empty() => UserSpec::Id(0),
        Some(id) => UserSpec::Id(id),
        None => UserSpec::Name(word.to_owned()),
    };
    Some(Owner { user: spec(user), group: group.map(spec) })
}

/// The id that a word means. Negative ones count down from 2³² as in BuildKit, but for -1, with which
/// the kernel's `chown` leaves an owner as it is: of new files that is root.
fn id(word: &str) -> Option<u32> {
    match word.parse::<i64>().ok()? {
        -1 => Some(0),
        id @ ..0 => i32::try_from(id).ok().map(|id| id as u32),
        id => u32::try_from(id).ok().filter(|id| *id != u32::MAX),
    }
}

fn chmod_spec(text: &str, span: Span) -> Result<ChmodSpec, Fault> {
    match ModeChange::parse(text).map_err(|error| Fault::new(error.to_string(), span))? {
        ModeChange::Octal(mode) => Ok(ChmodSpec::Octal(mode)),
        ModeChange::Symbolic(_) => Ok(ChmodSpec::Symbolic(text.to_owned())),
    }
}

/// Whether a source is a pattern in the syntax of Go's `filepath.Match`.
fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '[', '\\'])
}

fn history_text(transfer: &Transfer<'_>, flags: &Flags, sources: &[String]) -> String {
    let mut text = transfer.keyword.to_owned();
    if transfer.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", &flags.chown), ("chmod", &flags.chmod)] {
        if let Some(value) = value {
            text.push_str(&format!(" --{flag}={value}"));
        }
    }
    for source in sources {
        text.push(' ');
        text.push_str(source);
    }
    format!("{text} {} # buildkit", flags.destination)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers_or_names() {
        let named = |name: &str| UserSpec::Name(name.into());
        for (text, expected) in [
            ("", None),
            ("1000", Some(Owner { user: UserSpec::Id(1000), group: None })),
            ("app:staff", Some(Owner { user: named("app"), group: Some(named("staff")) })),
            (":7", Some(Owner { user: UserSpec::Id(0), group: Some(UserSpec::Id(7)) })),
            ("4294967296", Some(Owner { user: named("4294967296"), group: None })),
            ("4294967295", Some(Owner { user: named("4294967295"), group: None })),
            ("-1", Some(Owner { user: UserSpec::Id(0), group: None })),
            ("-2", Some(Owner { user: UserSpec::Id(4_294_967_294), group: None })),
        ] {
            assert_eq!(owner(text), expected, "{text}");
        }
    }

    #[test]
    fn a_download_is_named_by_its_url() {
        for (url, name) in [
            ("https://host/a/b.tar?x=1#y", "b.tar"),
            ("https://host/", "__unnamed__"),
            ("https://host", "__unnamed__"),
            ("https://host/a/..", "__unnamed__"),
        ] {
            let SourceOp::Http(source) = http_source(url, None, 0o600) else { panic!("{url}") };
            assert_eq!(source.filename, name, "{url}");
        }
    }
}
