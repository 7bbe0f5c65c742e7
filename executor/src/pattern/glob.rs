//! Go's `filepath.Match` and `filepath.Clean`, on bytes.

use super::PatternError;

/// Cleans a path by Go's rules: no doubled slashes, no `.`, `..` resolved where possible.
///
/// The empty path is `.`; a rooted path never climbs above `/`.
///
/// ```
/// assert_eq!(executor::pattern::clean("a//b/../c/."), "a/c");
/// assert_eq!(executor::pattern::clean("/../x"), "/x");
/// assert_eq!(executor::pattern::clean("../x"), "../x");
/// ```
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match kept.last() {
                Some(&last) if last != ".." => {
                    kept.pop();
                }
                _ if rooted => {}
                _ => kept.push(".."),
            },
            name => kept.push(name),
        }
    }
    let joined = kept.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// The names of a path below a root, cleaned: `/a/./b/../c` is `["a", "c"]`, and `..` stays inside.
pub(crate) fn components(path: &str) -> Vec<String> {
    clean(&format!("/{path}")).split('/').filter(|c| !c.is_empty()).map(str::to_owned).collect()
}

/// Whether `path` has a character that [`glob_match`] treats specially.
pub fn has_wildcards(path: &str) -> bool {
    path.bytes().any(|b| matches!(b, b'*' | b'?' | b'[' | b'\\'))
}

/// One element of a glob.
enum Element<'a> {
    Star,
    Question,
    Class(&'a [u8]),
    Byte(u8),
}

/// Matches the whole of `name` against the glob `pattern`.
///
/// `*` is any run without `/`, `?` one character other than `/`, `[…]` a class with ranges and
/// `^` for its complement, `\` takes the next character literally.
///
/// # Errors
///
/// [`PatternError::Syntax`] for a malformed pattern, whether or not `name` reaches the flaw.
pub fn glob_match(pattern: &str, name: &[u8]) -> Result<bool, PatternError> {
    let bytes = pattern.as_bytes();
    let malformed = || PatternError::Syntax { pattern: pattern.to_owned(), index: 0 };
    let mut at = 0;
    while at < bytes.len() {
        let (_, next) = element(bytes, at).ok_or_else(malformed)?;
        at = next;
    }
    // One star at a time is enough: a later star always does at least as well as an earlier one,
    // so only the last one is ever retried. That keeps the match linear in pattern times name.
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match element(bytes, p) {
            Some((Element::Star, next)) => {
                retry = Some((next, n));
                p = next;
                continue;
            }
            Some((element, next)) => advance(&element, name, n).map(|eaten| (next, n + eaten)),
            None if n == name.len() => return Ok(true),
            None => None,
        };
        match (step, retry) {
            (Some((next, eaten)), _) => (p, n) = (next, eaten),
            (None, Some((after, start))) if start < name.len() && name[start] != b'/' => {
                retry = Some((after, start + 1));
                (p, n) = (after, start + 1);
            }
            _ => return Ok(false),
        }
    }
}

/// The element that starts at `at` and where the next one starts; `None` at the end or if broken.
fn element(pattern: &[u8], at: usize) -> Option<(Element<'_>, usize)> {
    match *pattern.get(at)? {
        b'*' => Some((Element::Star, at + 1)),
        b'?' => Some((Element::Question, at + 1)),
        b'\\' => Some((Element::Byte(*pattern.get(at + 1)?), at + 2)),
        b'[' => {
            let end = class_end(pattern, at)?;
            Some((Element::Class(&pattern[at + 1..end]), end + 1))
        }
        byte => Some((Element::Byte(byte), at + 1)),
    }
}

/// Where the `]` of the class that starts at `at` stands; `None` for a malformed class.
fn class_end(pattern: &[u8], at: usize) -> Option<usize> {
    let mut i = at + 1;
    if pattern.get(i) == Some(&b'^') {
        i += 1;
    }
    let first = i;
    loop {
        match *pattern.get(i)? {
            b']' if i > first => return Some(i),
            // An empty class, or a range without a beginning.
            b']' | b'-' => return None,
            _ => {}
        }
        i = class_char(pattern, i)?.1;
        if pattern.get(i) == Some(&b'-') {
            if matches!(pattern.get(i + 1)?, b']' | b'-') {
                return None;
            }
            i = class_char(pattern, i + 1)?.1;
        }
    }
}

/// One (possibly escaped) character of a class and where the next one starts.
fn class_char(class: &[u8], at: usize) -> Option<(u32, usize)> {
    let start = if class.get(at) == Some(&b'\\') { at + 1 } else { at };
    let (c, len) = decode(class, start)?;
    Some((c, start + len))
}

/// How many bytes of `name` at `n` the element takes; `None` if it does not match.
fn advance(element: &Element<'_>, name: &[u8], n: usize) -> Option<usize> {
    match element {
        Element::Star => Some(0),
        Element::Question => {
            let (c, len) = decode(name, n)?;
            (c != u32::from('/')).then_some(len)
        }
        Element::Class(class) => {
            let (c, len) = decode(name, n)?;
            class_contains(class, c).then_some(len)
        }
        Element::Byte(byte) => (name.get(n) == Some(byte)).then_some(1),
    }
}

/// Whether the class between the brackets (already checked) holds `c`.
pub(super) fn class_contains(class: &[u8], c: u32) -> bool {
    let negated = class.first() == Some(&b'^');
    let mut i = usize::from(negated);
    let mut found = false;
    while let Some((low, next)) = class_char(class, i) {
        i = next;
        let mut high = low;
        if class.get(i) == Some(&b'-') {
            let Some((end, next)) = class_char(class, i + 1) else { break };
            (high, i) = (end, next);
        }
        found |= (low..=high).contains(&c);
    }
    found != negated
}

/// The character at `at` and its length; a byte that is not UTF-8 is one character beyond Unicode.
pub(super) fn decode(bytes: &[u8], at: usize) -> Option<(u32, usize)> {
    let first = *bytes.get(at)?;
    let len = match first {
        0..=0x7f => return Some((u32::from(first), 1)),
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Some((0x11_0000 + u32::from(first), 1)),
    };
    match bytes.get(at..at + len).map(std::str::from_utf8) {
        Some(Ok(text)) => text.chars().next().map(|c| (u32::from(c), len)),
        _ => Some((0x11_0000 + u32::from(first), 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_in_go() {
        const BAD: Option<bool> = None;
        for (pattern, name, expected) in [
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*", ".hidden", Some(true)),
            ("*", "", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*/b", "a/c/b", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Some(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a[^a]b", "a☺b", Some(true)),
            ("a???b", "a☺b", Some(false)),
            ("[a-ζ]*", "α", Some(true)),
            ("a?b", "a/b", Some(false)),
            ("a*b", "a/b", Some(false)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-]", "-", Some(true)),
            ("[x\\-]", "x", Some(true)),
            ("[x\\-]", "z", Some(false)),
            ("arr[[]0].txt", "arr[0].txt", Some(true)),
            ("[]a]", "]", BAD),
            ("[-]", "-", BAD),
            ("[x-]", "x", BAD),
            ("[-x]", "x", BAD),
            ("\\", "a", BAD),
            ("[a-b-c]", "a", BAD),
            ("[", "a", BAD),
            ("[^", "a", BAD),
            ("[^bc", "a", BAD),
            ("a[", "ab", BAD),
            ("a[", "x", BAD),
            ("*x", "xxx", Some(true)),
        ] {
            assert_eq!(glob_match(pattern, name.as_bytes()).ok(), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn a_byte_that_is_not_utf8_is_one_character() {
        assert_eq!(glob_match("a?b", b"a\xffb"), Ok(true));
        assert_eq!(glob_match("a?b", b"a\xff\xffb"), Ok(false));
    }

    #[test]
    fn paths_are_cleaned_as_in_go() {
        for (path, expected) in [
            ("", "."),
            ("abc/", "abc"),
            ("/", "/"),
            ("a/../..", ".."),
            ("/a/../../b", "/b"),
            ("./a/./b//c", "a/b/c"),
            ("../../a", "../../a"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
