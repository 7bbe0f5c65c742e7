//! Variables, quotes and escapes in the words of instructions.

/// Expands words under one escape character. Pure: what a variable is worth comes from a closure.
#[derive(Clone, Copy, Debug)]
pub struct Expander {
    /// `\` or `` ` ``, as the `escape` directive says.
    pub escape: char,
}

/// An expanded word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The result, quotes removed.
    pub text: String,
    /// Names that were used without a default and are not set, in order, each once.
    pub unset: Vec<String>,
}

/// Several words out of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpandedWords {
    /// The words, quotes removed.
    pub words: Vec<String>,
    /// Names that were used without a default and are not set, in order, each once.
    pub unset: Vec<String>,
}

/// Why a word cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// A quote is not closed.
    #[error("unexpected end of statement while looking for matching {quote}")]
    Quote {
        /// "single-quote" or "double-quote".
        quote: &'static str,
    },
    /// A `${` is not closed or its name is malformed.
    #[error("{message}")]
    Syntax {
        /// In BuildKit's words.
        message: String,
    },
    /// `${name:?message}` of a name that is not set.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The message behind `?`.
        message: String,
    },
}

impl Expander {
    /// Expands `word` into one text: blanks that come out of variables stay inside it.
    pub fn expand(
        &self,
        word: &str,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Expanded, ExpandError> {
        let _ = (word, lookup);
        todo!()
    }

    /// Expands `word` and splits the result at its unquoted blanks.
    pub fn expand_words(
        &self,
        word: &str,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<ExpandedWords, ExpandError> {
        let _ = (word, lookup);
        todo!()
    }

    /// Expands the body of a heredoc: quotes are ordinary characters, the escape character is
    /// dropped before any character.
    pub fn expand_heredoc(
        &self,
        body: &str,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Expanded, ExpandError> {
        let _ = (body, lookup);
        todo!()
    }
}
