//! Words that no environment could expand: open quotes, malformed substitutions.
//!
//! Expansion itself waits for an environment, but most of what can be wrong with a word does not
//! depend on one, and is better said together with everything else.

use crate::ast::*;
use crate::diagnostic::Diagnostic;
use crate::expand::{ExpandError, Expander};
use crate::head::go_quoted;
use crate::instruction::{Node, is_literal};
use crate::span::Spanned;

/// Fails at the first word of `node` that cannot be expanded, whatever the variables are.
pub(crate) fn check(node: &Node, escape: char) -> Result<(), Diagnostic> {
    let check = |word: &Spanned<String>| check_word(word, escape);
    match node {
        Node::From(from) => {
            check(&from.base)?;
            from.platform.iter().try_for_each(check)
        }
        Node::Part(kind) => match kind {
            InstructionKind::Add(Add { chown, chmod, checksum, sources, destination, .. }) => {
                chown.iter().chain(chmod).chain(checksum).try_for_each(check)?;
                check_sources(sources, escape)?;
                check(destination)
            }
            InstructionKind::Copy(Copy { chown, chmod, sources, destination, .. }) => {
                chown.iter().chain(chmod).try_for_each(check)?;
                check_sources(sources, escape)?;
                check(destination)
            }
            InstructionKind::Env(Env { pairs, .. })
            | InstructionKind::Label(Label { pairs, .. }) => {
                pairs.iter().flat_map(|pair| [&pair.key, &pair.value]).try_for_each(check)
            }
            InstructionKind::Expose(Expose { ports: words })
            | InstructionKind::Volume(Volume { paths: words }) => words.iter().try_for_each(check),
            InstructionKind::Stopsignal(Stopsignal { signal: word })
            | InstructionKind::User(User { user: word })
            | InstructionKind::Workdir(Workdir { path: word }) => check(word),
            // A default that is never used may be as wrong as it likes; the rest is not expanded,
            // or checked by itself.
            _ => Ok(()),
        },
    }
}

fn check_sources(sources: &[Source], escape: char) -> Result<(), Diagnostic> {
    sources.iter().try_for_each(|source| match source {
        Source::Path(path) => check_word(path, escape),
        Source::Heredoc(_) => Ok(()),
    })
}

fn check_word(word: &Spanned<String>, escape: char) -> Result<(), Diagnostic> {
    if is_literal(&word.value, escape) {
        return Ok(());
    }
    // Every variable is set, so only what is wrong in itself is left.
    match (Expander { escape }).expand(&word.value, &|_| Some("x".to_owned())) {
        Ok(_) | Err(ExpandError::Required { .. }) => Ok(()),
        Err(error) => {
            let message = format!("failed to process {}: {error}", go_quoted(&word.value));
            Err(Diagnostic::error(message, word.span))
        }
    }
}
