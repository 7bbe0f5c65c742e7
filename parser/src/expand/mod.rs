//! Variables, quotes and escapes in the words of instructions.
//!
//! This is the shell's language without the shell: `'…'` is literal, in `"…"` variables live, the
//! escape character makes the next character literal, and `$name` and `${name…}` are replaced.
//! The modifiers are `:-` `-` `:+` `+` `:?` `?`, the prefixes and suffixes `#` `##` `%` `%%`, and
//! the replacements `/` and `//`. Where shells and BuildKit differ, BuildKit is followed.

mod pattern;
mod scanner;

use scanner::{Mode, Scanner};

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
    /// Names that were used and are not set, in order, each once; also those with a default.
    pub unset: Vec<String>,
}

/// Several words out of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpandedWords {
    /// The words, quotes removed.
    pub words: Vec<String>,
    /// Names that were used and are not set, in order, each once; also those with a default.
    pub unset: Vec<String>,
}

/// Why a word cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// A quote is not closed.
    #[error("unexpected end of statement while looking for matching {quote}")]
    Quote {
        /// `single-quote` or `double-quote`.
        quote: &'static str,
    },
    /// A `${…}` says nothing that can be understood.
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
        if !word.contains(['$', '"', '\'', self.escape]) {
            return Ok(Expanded { text: word.to_owned(), unset: Vec::new() });
        }
        let mut scanner = Scanner::new(word, self.escape, Mode::Words, lookup);
        let text = scanner.text()?;
        Ok(Expanded { text, unset: scanner.into_unset() })
    }

    /// Expands `word` and splits the result at its unquoted blanks.
    pub fn expand_words(
        &self,
        word: &str,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<ExpandedWords, ExpandError> {
        let mut scanner = Scanner::new(word, self.escape, Mode::Words, lookup);
        let words = scanner.words()?;
        Ok(ExpandedWords { words, unset: scanner.into_unset() })
    }

    /// Expands the body of a heredoc: quotes are ordinary characters, and a backslash, whatever
    /// the escape directive says, is dropped before any character.
    pub fn expand_heredoc(
        &self,
        body: &str,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Expanded, ExpandError> {
        let mut scanner = Scanner::new(body, '\\', Mode::Heredoc, lookup);
        let text = scanner.text()?;
        Ok(Expanded { text, unset: scanner.into_unset() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        let value = match name {
            "HOME" => "/root",
            "EMPTY" => "",
            "TWO" => "one two",
            "PATHS" => "/usr/local/bin:/usr/bin:/bin",
            "FILE" => "archive.tar.gz",
            "STARS" => "a*b*c",
            "LINES" => "first\nsecond",
            "ä" => "umlaut",
            _ => return None,
        };
        Some(value.to_owned())
    }

    /// One line of the table: word, and the text or `!error` it comes to.
    const VECTORS: &[(&str, &str)] = &[
        // Plain text and quotes.
        ("", ""),
        ("plain", "plain"),
        ("'single $HOME \\ '", "single $HOME \\ "),
        ("\"double $HOME\"", "double /root"),
        ("\"it's\"", "it's"),
        ("a'b'\"c\"d", "abcd"),
        ("\"a\\\"b\"", "a\"b"),
        ("\"a\\\\b\"", "a\\b"),
        ("\"a\\nb\"", "a\\nb"),
        ("\"\\$HOME\"", "$HOME"),
        ("''", ""),
        ("'open", "!unexpected end of statement while looking for matching single-quote"),
        ("\"open", "!unexpected end of statement while looking for matching double-quote"),
        ("\"open\\", "!unexpected end of statement while looking for matching double-quote"),
        // Escapes.
        ("a\\ b", "a b"),
        ("a\\\\b", "a\\b"),
        ("\\$HOME", "$HOME"),
        ("\\\\$HOME", "\\/root"),
        ("\\'x\\\"", "'x\""),
        ("end\\", "end"),
        ("\\ä", "ä"),
        // Names.
        ("$HOME", "/root"),
        ("$HOME/x", "/root/x"),
        ("${HOME}x", "/rootx"),
        ("$HOMEx", ""),
        ("$UNSET.", "."),
        ("a$", "a$"),
        ("$.", "$."),
        ("$ä!", "umlaut!"),
        ("$1x$10y", "xy"),
        ("$@$*$#$?$-$$$!$0", ""),
        ("${1}${@}", ""),
        ("$a$b", ""),
        // Malformed.
        ("${", "!syntax error: missing '}'"),
        ("${HOME", "!syntax error: missing '}'"),
        ("${HOME:", "!syntax error: missing '}'"),
        ("${HOME:-x", "!syntax error: missing '}'"),
        ("${HOME:-'x}", "!syntax error: missing '}'"),
        ("${}", "!syntax error: bad substitution"),
        ("${:-x}", "!syntax error: bad substitution"),
        ("${{x}}", "!syntax error: bad substitution"),
        ("${HOME:=x}", "!unsupported modifier (:=) in substitution"),
        ("${HOME=x}", "!unsupported modifier (=) in substitution"),
        ("${HOME:#x}", "!unsupported modifier (:#) in substitution"),
        ("${HOME^^}", "!unsupported modifier (^) in substitution"),
        ("${.}", "!unsupported modifier (.) in substitution"),
        // Defaults and alternatives.
        ("${UNSET:-x}", "x"),
        ("${EMPTY:-x}", "x"),
        ("${HOME:-x}", "/root"),
        ("${UNSET-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${UNSET:+x}", ""),
        ("${EMPTY:+x}", ""),
        ("${HOME:+x}", "x"),
        ("${UNSET+x}", ""),
        ("${EMPTY+x}", "x"),
        ("${UNSET:-}", ""),
        ("${UNSET:-$HOME}", "/root"),
        ("${UNSET:-${UNSET2:-${HOME}/deep}}", "/root/deep"),
        ("${UNSET:-\"a } b\"}", "a } b"),
        ("${UNSET:-'$HOME'}", "$HOME"),
        ("${UNSET:-\\$HOME}", "$HOME"),
        ("${UNSET:-a\\}b}", "a}b"),
        ("\"${UNSET:-x y}\"", "x y"),
        // Required.
        ("${HOME:?}", "/root"),
        ("${UNSET?}", "!UNSET: is not allowed to be unset"),
        ("${UNSET:?}", "!UNSET: is not allowed to be unset"),
        ("${EMPTY?}", ""),
        ("${EMPTY:?}", "!EMPTY: is not allowed to be empty"),
        ("${UNSET:?say $HOME}", "!UNSET: say /root"),
        // Prefixes and suffixes.
        ("${FILE#*.}", "tar.gz"),
        ("${FILE##*.}", "gz"),
        ("${FILE%.*}", "archive.tar"),
        ("${FILE%%.*}", "archive"),
        ("${FILE#archive}", ".tar.gz"),
        ("${FILE#x}", "archive.tar.gz"),
        ("${FILE#?}", "rchive.tar.gz"),
        ("${FILE%??}", "archive.tar."),
        ("${FILE#}", "archive.tar.gz"),
        ("${FILE##}", "archive.tar.gz"),
        ("${PATHS##*/}", "bin"),
        ("${PATHS%%:*}", "/usr/local/bin"),
        ("${STARS#a\\*}", "b*c"),
        ("${STARS%\\*c}", "a*b"),
        ("${FILE#\"arch\"}", "ive.tar.gz"),
        ("${FILE#$EMPTY}", "archive.tar.gz"),
        ("${FILE#\\a}", "!invalid pattern (\\a) in substitution: invalid escape '\\a'"),
        ("${UNSET#x}", ""),
        ("${LINES#*second}", "first\nsecond"),
        ("${FILE#[a]}", "archive.tar.gz"),
        // Replacements.
        ("${FILE/tar/zip}", "archive.zip.gz"),
        ("${PATHS/bin/x}", "/usr/local/x:/usr/bin:/bin"),
        ("${PATHS//bin/x}", "/usr/local/x:/usr/x:/x"),
        ("${PATHS//bin/}", "/usr/local/:/usr/:/"),
        ("${PATHS//\\//_}", "_usr_local_bin:_usr_bin:_bin"),
        ("${FILE/a*e/x}", "x.tar.gz"),
        ("${FILE/.*/}", "archive"),
        ("${STARS//\\*/-}", "a-b-c"),
        ("${FILE//?/x}", "xxxxxxxxxxxxxx"),
        ("${FILE//nothing/x}", "archive.tar.gz"),
        ("${HOME/root/$FILE}", "/archive.tar.gz"),
        ("${FILE/tar}", "!syntax error: missing '/' in ${}"),
        ("${FILE//tar}", "!syntax error: missing '/' in ${}"),
        ("${FILE/tar/x", "!syntax error: missing '}'"),
        ("${EMPTY/x/y}", ""),
        ("${UNSET//x/y}", ""),
    ];

    #[test]
    fn every_vector_expands_as_the_table_says() {
        let expander = Expander { escape: '\\' };
        for (word, expected) in VECTORS {
            let found = match expander.expand(word, &lookup) {
                Ok(expanded) => expanded.text,
                Err(error) => format!("!{error}"),
            };
            assert_eq!(found, *expected, "{word}");
        }
    }

    #[test]
    fn a_backtick_escapes_when_the_file_says_so() {
        let expander = Expander { escape: '`' };
        for (word, expected) in [
            ("`$HOME", "$HOME"),
            ("\\$HOME", "\\/root"),
            ("\"`\"`$`\\\"", "\"$`\\"),
            ("c:\\x` y", "c:\\x y"),
        ] {
            assert_eq!(expander.expand(word, &lookup).unwrap().text, expected, "{word}");
        }
    }

    #[test]
    fn words_split_at_blanks_that_are_not_quoted() {
        let expander = Expander { escape: '\\' };
        let check = |word: &str, expected: &[&str]| {
            assert_eq!(expander.expand_words(word, &lookup).unwrap().words, expected, "{word}");
        };
        check("", &[]);
        check("  ", &[]);
        check("a b", &["a", "b"]);
        check("$TWO", &["one", "two"]);
        check("\"$TWO\"", &["one two"]);
        check("x$TWO.", &["xone", "two."]);
        check("a\\ b c", &["a b", "c"]);
        check("'a b' \"c d\"", &["a b", "c d"]);
        check("${UNSET:-a b}", &["a", "b"]);
        check("pre${UNSET:-mid}post", &["midpost"]);
        check("$UNSET", &[]);
        check("''", &[]);
    }

    #[test]
    fn names_that_are_not_set_are_reported_once_and_in_order() {
        let expander = Expander { escape: '\\' };
        let expanded = expander.expand("$B ${A:-x} $B '$C' $HOME", &lookup).unwrap();
        assert_eq!(expanded.unset, ["B", "A"]);
    }

    #[test]
    fn heredoc_bodies_keep_quotes_and_lose_escapes() {
        let expander = Expander { escape: '\\' };
        let body = "it's \"$HOME\" \\$HOME \\n \\\\ ${UNSET:-'q'}\n";
        let expanded = expander.expand_heredoc(body, &lookup).unwrap();
        assert_eq!(expanded.text, "it's \"/root\" $HOME n \\ 'q'\n");
    }

    #[test]
    fn nesting_has_a_limit() {
        let expander = Expander { escape: '\\' };
        let word = format!("{}x{}", "${UNSET:-".repeat(10_000), "}".repeat(10_000));
        let error = expander.expand(&word, &lookup).unwrap_err();
        assert_eq!(error.to_string(), "substitution nested too deeply");
    }
}
