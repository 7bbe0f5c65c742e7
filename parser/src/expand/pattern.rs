//! The patterns of `${name#…}` and its kin: `*` and `?`, everything else literal.
//!
//! Neither matches a newline; `/` is a character like any other; there are no `[…]` classes. The
//! escape character of patterns is a backslash whatever the file's is.

/// Pattern length × value length up to which a match is tried.
const WORK: usize = 1 << 24;

enum Token {
    Literal(char),
    /// `?`
    Any,
    /// `*`
    Star,
}

pub(super) struct Pattern {
    tokens: Vec<Token>,
}

/// Which of several matches at one place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefer {
    Shortest,
    Longest,
}

impl Pattern {
    /// Reads a pattern. `\*`, `\?`, `\\`, `\/` and `\}` are literal, other escapes are wrong.
    pub(super) fn new(text: &str) -> Result<Pattern, String> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\' | '/' | '}')) => Token::Literal(c),
                    Some(other) => return Err(format!("invalid escape '\\{other}'")),
                    None => return Err("invalid escape at the end".to_owned()),
                },
                c => Token::Literal(c),
            });
        }
        Ok(Pattern { tokens })
    }

    /// `value` without the prefix that matches.
    pub(super) fn trim_prefix(&self, value: &str, longest: bool) -> Result<String, String> {
        let chars: Vec<char> = value.chars().collect();
        let prefer = if longest { Prefer::Longest } else { Prefer::Shortest };
        let end = ends(&self.tokens.iter().collect::<Vec<_>>(), &chars, prefer)?[0];
        Ok(chars[end.unwrap_or(0)..].iter().collect())
    }

    /// `value` without the suffix that matches the pattern `text`: the prefix of both, reversed.
    pub(super) fn trim_suffix(text: &str, value: &str, longest: bool) -> Result<String, String> {
        let reversed: String = value.chars().rev().collect();
        let kept = Pattern::new(&reverse(text))?.trim_prefix(&reversed, longest)?;
        Ok(kept.chars().rev().collect())
    }

    /// `value` with the leftmost longest match replaced, or with all of them.
    pub(super) fn replace(&self, value: &str, with: &str, all: bool) -> Result<String, String> {
        let chars: Vec<char> = value.chars().collect();
        let tokens: Vec<&Token> = self.tokens.iter().collect();
        let ends = ends(&tokens, &chars, Prefer::Longest)?;
        let mut text = String::with_capacity(value.len());
        let mut at = 0;
        // An empty match directly behind a match is none.
        let mut matched_to = None;
        while at <= chars.len() {
            let end = ends[at].filter(|end| *end > at || matched_to != Some(at));
            match end {
                Some(end) => {
                    text.push_str(with);
                    matched_to = Some(end);
                    if !all {
                        text.extend(&chars[end..]);
                        return Ok(text);
                    }
                    if end == at {
                        text.extend(chars.get(at));
                        at += 1;
                    } else {
                        at = end;
                    }
                }
                None => {
                    text.extend(chars.get(at));
                    at += 1;
                }
            }
        }
        Ok(text)
    }
}

/// A pattern read from its end. Escapes stay in front of what they escape; a backslash that ends the
/// pattern, which is possible under another escape character of the file, comes to stand before the
/// last character and escapes it, as in BuildKit.
fn reverse(pattern: &str) -> String {
    let mut reversed = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let escaped = if c == '\\' { chars.next() } else { None };
        reversed.extend(escaped);
        reversed.push(c);
    }
    reversed.iter().rev().collect()
}

/// For every place of `value` where a match starts, where it ends.
fn ends(tokens: &[&Token], value: &[char], prefer: Prefer) -> Result<Vec<Option<usize>>, String> {
    if (tokens.len() + 1).saturating_mul(value.len() + 1) > WORK {
        return Err("the value is too long".to_owned());
    }
    let better = |a: Option<usize>, b: Option<usize>| match (a, b) {
        (Some(a), Some(b)) if prefer == Prefer::Longest => Some(a.max(b)),
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let mut ends = vec![None; value.len() + 1];
    // `row[t]`: where a match of `tokens[t..]` that starts at the current place ends.
    let mut next: Vec<Option<usize>> = vec![None; tokens.len() + 1];
    for at in (0..=value.len()).rev() {
        let mut row = vec![None; tokens.len() + 1];
        row[tokens.len()] = Some(at);
        let here = value.get(at).copied();
        for (t, token) in tokens.iter().enumerate().rev() {
            row[t] = match (token, here) {
                (Token::Literal(c), Some(here)) if *c == here => next[t + 1],
                (Token::Any, Some(here)) if here != '\n' => next[t + 1],
                (Token::Star, Some(here)) if here != '\n' => better(row[t + 1], next[t]),
                (Token::Star, _) => row[t + 1],
                _ => None,
            };
        }
        ends[at] = row[0];
        next = row;
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_at_the_end_of_a_suffix_escapes_what_is_before_it() {
        let trim = |pattern: &str, value: &str| Pattern::trim_suffix(pattern, value, false);
        assert_eq!(trim("*\\", "a*").as_deref(), Ok("a"));
        assert_eq!(trim("b*\\", "ab*").as_deref(), Ok("a"));
        assert_eq!(trim("\\*b", "a*b").as_deref(), Ok("a"));
        assert!(trim("a\\", "a").is_err());
        assert!(trim("\\", "a").is_err());
    }

    #[test]
    fn empty_matches_are_replaced_once_each() {
        let check = |pattern: &str, value: &str, expected: &str| {
            let pattern = Pattern::new(pattern).unwrap();
            assert_eq!(pattern.replace(value, "-", true).unwrap(), expected);
        };
        check("", "abc", "-a-b-c-");
        check("*", "abc", "-");
        check("*", "", "-");
        check("b*", "abc", "a-");
    }
}
