//! Modes as `--chmod` has them.

use solver::llb::ChmodSpec;

use crate::ExecutorError;

/// What `who`-less clauses leave alone, as chmod(1) does with the usual umask.
const UMASK: u32 = 0o022;

/// A parsed mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chmod {
    Octal(u32),
    Symbolic(Vec<Clause>),
}

/// `go-w` of `u=rwX,go-w`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Bits that may change: the classes, with their special bits.
    who: u32,
    operator: u8,
    permissions: Permissions,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Permissions {
    /// Of all three classes, and `X`.
    Bits { bits: u32, conditional_execute: bool },
    /// Those that a class has: a shift.
    Copy(u32),
}

impl Chmod {
    pub(crate) fn parse(spec: &ChmodSpec) -> Result<Self, ExecutorError> {
        match spec {
            ChmodSpec::Octal(mode) if *mode <= 0o7777 => Ok(Self::Octal(*mode)),
            ChmodSpec::Octal(mode) => Err(ExecutorError::Mode { mode: format!("{mode:o}") }),
            ChmodSpec::Symbolic(text) => {
                let clauses: Option<Vec<Vec<Clause>>> = text.split(',').map(clause).collect();
                match clauses {
                    Some(clauses) => Ok(Self::Symbolic(clauses.concat())),
                    None => Err(ExecutorError::Mode { mode: text.clone() }),
                }
            }
        }
    }

    /// The mode of a file that has `mode` at its source.
    pub(crate) fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Octal(octal) => *octal,
            Self::Symbolic(clauses) => {
                clauses.iter().fold(mode, |now, clause| clause.apply(now, mode, is_dir))
            }
        }
    }

    /// The mode of directories that are made on the way: only a number says what they get, and of
    /// it only the permissions, as in BuildKit.
    pub(crate) fn for_parents(&self) -> Option<u32> {
        match self {
            Self::Octal(octal) => Some(*octal & 0o777),
            Self::Symbolic(_) => None,
        }
    }
}

/// One `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`.
fn clause(text: &str) -> Option<Vec<Clause>> {
    let bytes = text.as_bytes();
    let named = bytes.iter().take_while(|b| b"ugoa".contains(b)).count();
    let mut who = bytes[..named].iter().fold(0, |who, class| {
        who | match class {
            b'u' => 0o4700,
            b'g' => 0o2070,
            b'o' => 0o1007,
            _ => 0o7777,
        }
    });
    if named == 0 {
        who = 0o7777 & !UMASK;
    }
    let mut rest = &bytes[named..];
    let mut clauses = Vec::new();
    while let Some((&operator, after)) = rest.split_first() {
        if !b"+-=".contains(&operator) {
            return None;
        }
        let length = after.iter().take_while(|b| !b"+-=".contains(b)).count();
        let permissions = permissions(&after[..length])?;
        clauses.push(Clause { who, operator, permissions });
        rest = &after[length..];
    }
    (!clauses.is_empty()).then_some(clauses)
}

fn permissions(text: &[u8]) -> Option<Permissions> {
    match text {
        b"u" => return Some(Permissions::Copy(6)),
        b"g" => return Some(Permissions::Copy(3)),
        b"o" => return Some(Permissions::Copy(0)),
        _ => {}
    }
    let mut conditional_execute = false;
    let mut bits = 0;
    for permission in text {
        bits |= match permission {
            b'r' => 0o444,
            b'w' => 0o222,
            b'x' => 0o111,
            b's' => 0o6000,
            b't' => 0o1000,
            b'X' => {
                conditional_execute = true;
                0
            }
            _ => return None,
        };
    }
    Some(Permissions::Bits { bits, conditional_execute })
}

impl Clause {
    /// As in BuildKit `X` looks at the mode of the source, whatever clauses before it did.
    fn apply(&self, mode: u32, source: u32, is_dir: bool) -> u32 {
        let bits = match self.permissions {
            Permissions::Copy(shift) => ((mode >> shift) & 0o7) * 0o111,
            Permissions::Bits { bits, conditional_execute } => {
                let execute = conditional_execute && (is_dir || source & 0o111 != 0);
                bits | if execute { 0o111 } else { 0 }
            }
        };
        let bits = bits & self.who;
        match self.operator {
            b'+' => mode | bits,
            b'-' => mode & !bits,
            // As chmod(1): a directory keeps setuid and setgid unless they are named.
            _ => {
                let kept = if is_dir { 0o6000 & !bits } else { 0 };
                (mode & (!self.who | kept)) | bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbolic_modes_change_what_chmod_changes() {
        for (text, mode, is_dir, expected) in [
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("a=,u+rwX,go+rX", 0o700, false, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("+w", 0o444, false, 0o644),
            ("go-rwx", 0o755, false, 0o700),
            ("u+s,g+s,+t", 0o755, false, 0o7755),
            ("g=u", 0o740, false, 0o770),
            ("o=", 0o757, false, 0o750),
            ("u+x-w", 0o644, false, 0o544),
            ("a=r", 0o4755, false, 0o444),
        ] {
            let chmod = Chmod::parse(&ChmodSpec::Symbolic(text.into())).unwrap();
            assert_eq!(chmod.apply(mode, is_dir), expected, "{text} on {mode:o}");
        }
    }

    #[test]
    fn other_texts_are_no_modes() {
        for text in ["", "rw", "u", "u=q", "z+x", "u=r,", "888"] {
            let parsed = Chmod::parse(&ChmodSpec::Symbolic(text.into()));
            assert!(matches!(parsed, Err(ExecutorError::Mode { .. })), "{text}");
        }
    }
}
