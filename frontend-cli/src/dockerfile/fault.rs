//! Something wrong with a Dockerfile, at a place of its text.

use parser::{Span, edit_distance};

/// An error of the plan or of the lowering, without the text that it is about: the caller has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) message: String,
    /// Where; `None` where no text of the user's is to blame, such as a trigger of a base image.
    pub(crate) span: Option<Span>,
    pub(crate) hint: Option<String>,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>, span: Span) -> Self {
        Fault { message: message.into(), span: Some(span), hint: None }
    }

    /// A value that is wrong once its variables are known.
    pub(crate) fn of_value(error: parser::ValueError, span: Span) -> Self {
        Fault { message: error.message, span: Some(span), hint: error.hint.map(str::to_owned) }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds `did you mean …?` if one of `known` is close to `word`.
    pub(crate) fn suggest<'a>(self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(word, known) {
            Some(near) => self.hint(format!("did you mean {near}?")),
            None => self,
        }
    }
}

/// The word of `known` that is at most two edits away from `word`, the nearest first.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Nothing near can be longer, and the distance takes quadratic time.
    if word.len() > 255 {
        return None;
    }
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (edit_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| {
            *distance > 0 && *distance < 3 && *distance < candidate.len()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_word_is_offered_and_a_far_one_is_not() {
        assert_eq!(nearest("biulder", ["builder", "final"]), Some("builder"));
        assert_eq!(nearest("xyz", ["builder", "final"]), None);
    }
}
