//! `COPY` and `ADD`: flags, sources that may be heredocs, and a destination.

use crate::ast::{Add, Copy, Source};
use crate::diagnostic::Diagnostic;
use crate::flags::Takes;
use crate::head::{Head, Joined};
use crate::heredoc;
use crate::instruction::{PlacedHeredoc, expands};
use crate::span::Spanned;

const COPY_FLAGS: &[(&str, Takes)] = &[
    ("from", Takes::Text),
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Bool),
    ("parents", Takes::Bool),
    ("exclude", Takes::Texts),
];

const ADD_FLAGS: &[(&str, Takes)] = &[
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Bool),
    ("exclude", Takes::Texts),
    ("checksum", Takes::Text),
    ("keep-git-dir", Takes::Bool),
    ("unpack", Takes::Bool),
];

pub(crate) fn parse_copy(head: Head<'_>, heredocs: Vec<PlacedHeredoc>) -> Result<Copy, Diagnostic> {
    let (sources, destination) = sources(&head, heredocs, "COPY")?;
    let joined = head.joined;
    let mut flags = head.flags(COPY_FLAGS)?;
    Ok(Copy {
        from: flags.text("from").map(|from| check_from(from, joined)).transpose()?,
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.boolean("link").unwrap_or(false),
        parents: flags.boolean("parents").unwrap_or(false),
        excludes: flags.texts("exclude"),
        sources,
        destination,
    })
}

pub(crate) fn parse_add(head: Head<'_>, heredocs: Vec<PlacedHeredoc>) -> Result<Add, Diagnostic> {
    let (sources, destination) = sources(&head, heredocs, "ADD")?;
    let mut flags = head.flags(ADD_FLAGS)?;
    Ok(Add {
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.boolean("link").unwrap_or(false),
        excludes: flags.texts("exclude"),
        checksum: flags.text("checksum"),
        keep_git_dir: flags.boolean("keep-git-dir"),
        unpack: flags.boolean("unpack"),
        sources,
        destination,
    })
}

fn sources(
    head: &Head<'_>,
    heredocs: Vec<PlacedHeredoc>,
    keyword: &str,
) -> Result<(Vec<Source>, Spanned<String>), Diagnostic> {
    let words = head.words_or_json()?;
    let mut heredocs = heredocs.into_iter().peekable();
    let mut sources = Vec::with_capacity(words.words.len());
    let mut taken = 0;
    for (word, range) in words.words {
        if range.start < taken {
            // Blanks within quotes, or between `<<` and its name: part of the heredoc's word.
            continue;
        }
        // A heredoc word that is not at the start of a word of ours, e.g. in a flag, is no source.
        while heredocs.next_if(|(place, _)| place.start < range.start).is_some() {}
        match heredocs.next_if(|(place, _)| place.start == range.start) {
            Some((place, heredoc)) => {
                taken = place.end;
                sources.push(Source::Heredoc(heredoc));
            }
            None => {
                let span = head.joined.span(&range);
                sources.push(Source::Path(Spanned::new(word, span)));
            }
        }
    }
    let destination = sources.pop();
    if sources.is_empty() {
        return Err(head.error(format!(
            "{keyword} requires at least two arguments, but only one was provided. Destination \
             could not be determined"
        )));
    }
    let heredoc_at = |span| {
        let message = format!("{keyword} cannot accept a heredoc as a destination");
        Err(Diagnostic::error(message, span))
    };
    match destination {
        Some(Source::Path(path)) => {
            let word = 0..path.value.len();
            if !words.json && heredoc::parse_word(&path.value, word).is_some() {
                return heredoc_at(path.span);
            }
            Ok((sources, path))
        }
        Some(Source::Heredoc(heredoc)) => heredoc_at(heredoc.word.span),
        None => Err(head.error(format!("{keyword} requires at least one argument"))),
    }
}

/// `--from` is looked up before any environment exists.
fn check_from(from: Spanned<String>, joined: Joined<'_>) -> Result<Spanned<String>, Diagnostic> {
    if expands(&from.value, joined.escape) {
        let message = "variable expansion is not supported for --from, define a new stage with \
                       FROM using ARG from global scope as a workaround";
        return Err(Diagnostic::error(message, from.span));
    }
    Ok(from)
}
