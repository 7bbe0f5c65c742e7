//! A list of ignore rules, as `.dockerignore` and `--exclude` have them.

use super::PatternError;
use super::glob::{class_contains, clean, decode, glob_match};

/// One compiled rule.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    exclusion: bool,
    kind: Kind,
}

/// How a rule is matched; most rules never need the general form.
#[derive(Debug, Clone)]
enum Kind {
    /// The path itself.
    Exact,
    /// `p/**`: everything that begins with these bytes.
    Prefix(Vec<u8>),
    /// `**/p`: everything that ends in these bytes.
    Suffix(Vec<u8>),
    General(Vec<Token>),
}

#[derive(Debug, Clone)]
enum Token {
    Char(u32),
    /// `?`
    NotSlash,
    /// `*`
    Star,
    /// `**/`: nothing, or any bytes up to and with a slash.
    Directories,
    /// `**` at the end: anything.
    Rest,
    Class(Vec<u8>),
}

impl Pattern {
    /// The rule, cleaned, without its `!`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the rule takes paths back in (it was written with `!`).
    pub fn is_exclusion(&self) -> bool {
        self.exclusion
    }

    fn new(line: &str, index: usize) -> Result<Self, PatternError> {
        let cleaned = clean(line);
        let (exclusion, text) = match cleaned.strip_prefix('!') {
            Some("") => return Err(PatternError::BareExclamation { index }),
            Some(rest) => (true, rest.to_owned()),
            None => (false, cleaned),
        };
        glob_match(&text, b".")
            .map_err(|_| PatternError::Syntax { pattern: line.to_owned(), index })?;
        let kind = Kind::compile(text.as_bytes());
        Ok(Self { text, exclusion, kind })
    }

    /// Whether this one rule names `path` itself (not through a parent).
    fn names(&self, path: &[u8]) -> bool {
        match &self.kind {
            Kind::Exact => path == self.text.as_bytes(),
            Kind::Prefix(prefix) => path.starts_with(prefix),
            Kind::Suffix(suffix) => {
                path.ends_with(suffix) || (suffix.first() == Some(&b'/') && path == &suffix[1..])
            }
            Kind::General(tokens) => tokens_match(tokens, path),
        }
    }

    /// Whether this rule could name something below the directory `dir`; may say yes too often.
    fn could_name_below(&self, dir: &[u8]) -> bool {
        let mut parts = self.text.split('/');
        for component in dir.split(|&b| b == b'/') {
            match parts.next() {
                // The rule names `dir` or a parent of it.
                None => return true,
                Some(part) if part.contains("**") => return true,
                Some(part) => {
                    if !glob_match(part, component).unwrap_or(true) {
                        return false;
                    }
                }
            }
        }
        true
    }
}

impl Kind {
    fn compile(text: &[u8]) -> Self {
        let mut tokens = Vec::with_capacity(text.len());
        // Mirrors the order of moby's compiler: the last special construct decides, and a leading
        // `**` wins over the construct at the same place.
        let mut kind: fn(&[u8], Vec<Token>) -> Kind = |_, _| Kind::Exact;
        let general: fn(&[u8], Vec<Token>) -> Kind = |_, tokens| Kind::General(tokens);
        let mut is_exact = true;
        let mut i = 0;
        while i < text.len() {
            match text[i] {
                b'*' if text.get(i + 1) == Some(&b'*') => {
                    let first = i == 0;
                    i += 2;
                    if text.get(i) == Some(&b'/') {
                        i += 1;
                    }
                    if i >= text.len() {
                        tokens.push(Token::Rest);
                        kind = if is_exact {
                            |text, _| Kind::Prefix(text[..text.len() - 2].to_vec())
                        } else {
                            general
                        };
                    } else {
                        tokens.push(Token::Directories);
                        kind = general;
                    }
                    is_exact = false;
                    if first {
                        kind = |text, _| Kind::Suffix(text[2..].to_vec());
                    }
                    continue;
                }
                wildcard @ (b'*' | b'?') => {
                    let any = wildcard == b'*';
                    tokens.push(if any { Token::Star } else { Token::NotSlash });
                    kind = general;
                    is_exact = false;
                }
                b'\\' => {
                    let (c, len) = decode(text, i + 1).unwrap_or((u32::from('\\'), 1));
                    tokens.push(Token::Char(c));
                    kind = general;
                    is_exact = false;
                    i += len;
                }
                b'[' => {
                    let end = class_length(&text[i..]);
                    tokens.push(Token::Class(text[i + 1..i + end - 1].to_vec()));
                    kind = general;
                    is_exact = false;
                    i += end - 1;
                }
                _ => {
                    let (c, len) = decode(text, i).unwrap_or((0, 1));
                    tokens.push(Token::Char(c));
                    i += len - 1;
                }
            }
            i += 1;
        }
        kind(text, tokens)
    }
}

/// Bytes of the class that starts `text`, both brackets counted. The pattern has been checked.
fn class_length(text: &[u8]) -> usize {
    let mut i = 1 + usize::from(text.get(1) == Some(&b'^'));
    while i < text.len() && text[i] != b']' {
        i += if text[i] == b'\\' { 2 } else { 1 };
    }
    i + 1
}

/// Runs the tokens as a set of positions: linear in path times tokens, whatever they are.
fn tokens_match(tokens: &[Token], path: &[u8]) -> bool {
    let end = tokens.len();
    // `here[i]`: token i may start now. `inside[i]`: a `**/` at i has begun and not found its slash.
    let mut here = vec![false; end + 1];
    let mut inside = vec![false; end + 1];
    enter(tokens, &mut here, 0);
    let mut at = 0;
    while let Some((c, len)) = decode(path, at) {
        let slash = c == u32::from('/');
        let mut next = vec![false; end + 1];
        for i in 0..end {
            if here[i] {
                match &tokens[i] {
                    Token::Char(expected) if *expected == c => enter(tokens, &mut next, i + 1),
                    Token::Class(class) if class_contains(class, c) => {
                        enter(tokens, &mut next, i + 1);
                    }
                    Token::NotSlash if !slash => enter(tokens, &mut next, i + 1),
                    Token::Star if !slash => enter(tokens, &mut next, i),
                    Token::Rest => enter(tokens, &mut next, i),
                    Token::Directories => inside[i] = true,
                    _ => {}
                }
            }
            if inside[i] && slash {
                enter(tokens, &mut next, i + 1);
            }
        }
        here = next;
        at += len;
    }
    here[end]
}

/// Marks token `i` as possible, and what follows tokens that may take nothing.
fn enter(tokens: &[Token], here: &mut [bool], mut i: usize) {
    loop {
        here[i] = true;
        match tokens.get(i) {
            Some(Token::Star | Token::Directories | Token::Rest) => i += 1,
            _ => return,
        }
    }
}

/// What the rules said of a directory, for [`PatternMatcher::matches_below`] of its entries.
#[derive(Debug, Clone, Default)]
pub struct ParentMatch {
    by_pattern: Vec<bool>,
    decided_by: Option<usize>,
}

impl ParentMatch {
    /// The rule that decided last, as an index into the list; `None` if none applied.
    pub fn decided_by(&self) -> Option<usize> {
        self.decided_by
    }
}

/// An ordered list of ignore rules.
#[derive(Debug, Clone, Default)]
pub struct PatternMatcher {
    patterns: Vec<(usize, Pattern)>,
    has_exclusions: bool,
}

impl PatternMatcher {
    /// Compiles rules in their order; blank ones are skipped.
    ///
    /// # Errors
    ///
    /// [`PatternError`] with the index of the first rule that is malformed.
    pub fn new<S: AsRef<str>>(rules: &[S]) -> Result<Self, PatternError> {
        let mut patterns = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let rule = rule.as_ref().trim();
            if !rule.is_empty() {
                patterns.push((index, Pattern::new(rule, index)?));
            }
        }
        let has_exclusions = patterns.iter().any(|(_, p)| p.exclusion);
        Ok(Self { patterns, has_exclusions })
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The rule with this index in the list given to [`PatternMatcher::new`].
    pub fn pattern(&self, index: usize) -> Option<&Pattern> {
        self.patterns.iter().find(|(rule, _)| *rule == index).map(|(_, pattern)| pattern)
    }

    /// The compiled rules in order.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.patterns.iter().map(|(_, p)| p)
    }

    /// Whether the list takes `path` (relative to the root, cleaned) out.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.deciding_rule(path).is_some_and(|(_, excluded)| excluded)
    }

    /// The rule that takes `path` out, as an index into the list given to [`PatternMatcher::new`].
    pub fn excluded_by(&self, path: &[u8]) -> Option<usize> {
        self.deciding_rule(path).filter(|&(_, excluded)| excluded).map(|(rule, _)| rule)
    }

    fn deciding_rule(&self, path: &[u8]) -> Option<(usize, bool)> {
        let mut parent = ParentMatch::default();
        let mut excluded = false;
        let ends = path.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(i, _)| i);
        for end in ends.chain([path.len()]) {
            (excluded, parent) = self.matches_below(&path[..end], &parent);
        }
        parent.decided_by.map(|rule| (rule, excluded))
    }

    /// Whether the list takes `path` out, given what it said of the directory that holds it.
    ///
    /// Start a walk with [`ParentMatch::default`]; hand each directory's result to its entries.
    pub fn matches_below(&self, path: &[u8], parent: &ParentMatch) -> (bool, ParentMatch) {
        let mut result =
            ParentMatch { by_pattern: Vec::with_capacity(self.patterns.len()), decided_by: None };
        let mut excluded = false;
        for (i, (rule, pattern)) in self.patterns.iter().enumerate() {
            let matched = parent.by_pattern.get(i).copied().unwrap_or(false) || pattern.names(path);
            result.by_pattern.push(matched);
            if matched {
                excluded = !pattern.exclusion;
                result.decided_by = Some(*rule);
            }
        }
        (excluded, result)
    }

    /// Whether a `!` rule may take something back in below the excluded directory `dir`.
    pub fn may_reinclude_below(&self, dir: &[u8]) -> bool {
        self.has_exclusions
            && self.patterns.iter().any(|(_, p)| p.exclusion && p.could_name_below(dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_match_as_in_moby() {
        for (rules, path, excluded) in [
            (&["**"][..], "file", true),
            (&["**"], "dir/file", true),
            (&["**/"], "file", true),
            (&["**/**"], "dir/file", true),
            (&["dir/**"], "dir/file", true),
            (&["dir/**"], "dir/dir2/file", true),
            (&["dir/**"], "dir", false),
            (&["**/dir"], "dir", true),
            (&["**/dir"], "a/b/dir/file", true),
            (&["**/dir2/*"], "dir/dir2/file", true),
            (&["**/dir2/**"], "dir/dir2/dir3/file", true),
            (&["**file"], "dir/file", true),
            (&["**file"], "dir/xfile", true),
            (&["**/file"], "dir/xfile", false),
            (&["**/file.txt"], "file.txt", true),
            (&["**/*.txt"], "dir/dir/file.txt", true),
            (&["**/**/*.txt"], "dir/dir/file.txt", true),
            (&["**/*.txt2"], "dir/dir/file.txt", false),
            (&["a**/*.txt"], "a/dir/file.txt", true),
            (&["a**/*.txt"], "abc/x/file.txt", true),
            (&["a/*.txt"], "a/file.txt", true),
            (&["a/*.txt"], "a/b/file.txt", false),
            (&["a/*/b"], "a/x/b/c", true),
            (&["x/**/y"], "x/y", true),
            (&["x/**/y"], "x/a/b/y/z", true),
            (&["a.*"], "a.b", true),
            (&["a.b"], "axb", false),
            (&["a\\\\*b"], "a\\xb", true),
            (&["a\\*"], "ab", false),
            (&["a\\*"], "a*", true),
            (&["[a-c]"], "b", true),
            (&["[^a-c]x"], "dx", true),
            (&["[^a-c]x"], "ax", false),
            (&["é?"], "éx", true),
            (&["a?c"], "aéc", true),
            (&["foo"], "foo/bar", true),
            (&["foo"], "foobar", false),
            (&["foo/"], "foo/bar", true),
            (&["./foo/../bar"], "bar", true),
            (&["docs", "!docs/README.md"], "docs/README.md", false),
            (&["docs", "!docs/README.md"], "docs/other", true),
            (&["!docs/README.md", "docs"], "docs/README.md", true),
            (&["*", "!a/b"], "a/b/c", false),
            (&["*", "!a/b", "a/b/c"], "a/b/c", true),
            (&["ab", "!ab/c", "a*"], "ab/c", true),
            (&["**", "!**/*.md"], "x/y/z.md", false),
            (&["*.md", "!README*.md", "README-secret.md"], "README-secret.md", true),
            (&["*.md", "!README*.md", "README-secret.md"], "README.md", false),
            (&["."], "a", false),
            (&["(x)"], "(x)", true),
        ] {
            let matcher = PatternMatcher::new(rules).unwrap();
            assert_eq!(matcher.matches(path.as_bytes()), excluded, "{rules:?} on {path}");
        }
    }

    #[test]
    fn the_rule_that_excluded_a_path_is_named() {
        let matcher = PatternMatcher::new(&["", "docs", "!docs/keep", "docs/keep/*.tmp"]).unwrap();
        for (path, rule) in [
            ("docs/x", Some(1)),
            ("docs/keep/x", None),
            ("docs/keep/x.tmp", Some(3)),
            ("src", None),
        ] {
            assert_eq!(matcher.excluded_by(path.as_bytes()), rule, "{path}");
        }
    }

    #[test]
    fn excluded_directories_are_entered_only_where_something_can_come_back() {
        let rules = ["*", "!a/b/*.c", "!**/x"];
        let all = PatternMatcher::new(&rules).unwrap();
        let first = PatternMatcher::new(&rules[..2]).unwrap();
        assert!(first.may_reinclude_below(b"a") && first.may_reinclude_below(b"a/b"));
        assert!(!first.may_reinclude_below(b"b") && !first.may_reinclude_below(b"a/c"));
        assert!(all.may_reinclude_below(b"q/r"));
    }

    #[test]
    fn malformed_rules_are_errors_with_their_index() {
        assert_eq!(
            PatternMatcher::new(&["ok", "a[b"]).unwrap_err(),
            PatternError::Syntax { pattern: "a[b".into(), index: 1 }
        );
        assert_eq!(
            PatternMatcher::new(&["!"]).unwrap_err(),
            PatternError::BareExclamation { index: 0 }
        );
    }

    #[test]
    fn many_stars_do_not_explode() {
        let rule = "**/".repeat(30) + &"*a".repeat(40);
        let matcher = PatternMatcher::new(&[rule]).unwrap();
        assert!(!matcher.matches("a/".repeat(200).as_bytes().strip_suffix(b"/").unwrap()));
    }
}
