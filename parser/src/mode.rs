//! `--chmod`: octal and symbolic modes.

use crate::value::ValueError;

/// A checked `--chmod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeChange {
    /// An octal mode, at most 0o7777.
    Octal(u32),
    /// A symbolic one, clause by clause, as `chmod(1)` reads it.
    Symbolic(Vec<ModeClause>),
}

/// One action of a symbolic mode: `u+rwX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeClause {
    /// `u`: the owner. All three are set when none is named, as `a` does.
    pub user: bool,
    /// `g`: the group.
    pub group: bool,
    /// `o`: others.
    pub other: bool,
    /// `+`, `-` or `=`.
    pub operator: ModeOperator,
    /// `rwx` as 4, 2, 1.
    pub bits: u32,
    /// `X`: x only for directories and files that anybody may execute already.
    pub conditional_execute: bool,
    /// `s`
    pub set_id: bool,
    /// `t`
    pub sticky: bool,
    /// Whose bits are copied: `u`, `g` or `o`, in order.
    pub copy: Vec<char>,
}

/// What is done with the bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeOperator {
    /// `+`
    Add,
    /// `-`
    Remove,
    /// `=`
    Set,
}

impl ModeChange {
    /// Reads an expanded `--chmod`.
    pub fn parse(text: &str) -> Result<ModeChange, ValueError> {
        let invalid = || {
            ValueError::new(format!(
                "invalid chmod parameter: '{text}'. it should be octal string and between 0 and \
                 07777"
            ))
            .hint("write an octal mode such as 0644, or a symbolic one such as u=rwX,go=rX")
        };
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(ModeChange::Octal(mode)),
                _ => Err(invalid()),
            };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            symbolic(part, &mut clauses).ok_or_else(invalid)?;
        }
        Ok(ModeChange::Symbolic(clauses))
    }

    /// The mode (07777 bits) that what had `mode` gets.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            ModeChange::Octal(mode) => *mode,
            ModeChange::Symbolic(clauses) => {
                // As in BuildKit `X` looks at the file as it was, whatever clauses before it did.
                let executes = is_directory || mode & 0o111 != 0;
                clauses.iter().fold(mode & 0o7777, |mode, clause| clause.apply(mode, executes))
            }
        }
    }
}

/// `[ugoa]*([+-=][rwxXstugo]*)+`
fn symbolic(text: &str, clauses: &mut Vec<ModeClause>) -> Option<()> {
    let end = text.find(|c| !matches!(c, 'u' | 'g' | 'o' | 'a'))?;
    let (who, mut rest) = text.split_at(end);
    let names = |c: char| who.is_empty() || who.contains(['a', c]);
    while let Some(operator) = rest.chars().next() {
        let mut clause = ModeClause {
            user: names('u'),
            group: names('g'),
            other: names('o'),
            operator: match operator {
                '+' => ModeOperator::Add,
                '-' => ModeOperator::Remove,
                '=' => ModeOperator::Set,
                _ => return None,
            },
            bits: 0,
            conditional_execute: false,
            set_id: false,
            sticky: false,
            copy: Vec::new(),
        };
        rest = &rest[1..];
        while let Some(c) = rest.chars().next() {
            match c {
                'r' => clause.bits |= 4,
                'w' => clause.bits |= 2,
                'x' => clause.bits |= 1,
                // Removing `X` is removing `x`.
                'X' if operator == '-' => clause.bits |= 1,
                'X' => clause.conditional_execute = true,
                's' => clause.set_id = true,
                't' => clause.sticky = true,
                'u' | 'g' | 'o' => clause.copy.push(c),
                '+' | '-' | '=' => break,
                _ => return None,
            }
            rest = &rest[1..];
        }
        clauses.push(clause);
    }
    Some(())
}

impl ModeClause {
    fn apply(&self, mode: u32, executes: bool) -> u32 {
        let shift = |c: char| match c {
            'u' => 6,
            'g' => 3,
            _ => 0,
        };
        let mut bits = self.bits;
        for from in &self.copy {
            bits |= mode >> shift(*from) & 7;
        }
        if self.conditional_execute && executes {
            bits |= 1;
        }
        let classes = [(self.user, 'u'), (self.group, 'g'), (self.other, 'o')];
        let spread = |bits: u32| {
            let of = classes.iter().filter(|(named, _)| *named);
            of.fold(0, |all, (_, class)| all | bits << shift(*class))
        };
        let mut change = spread(bits);
        // The three special bits belong to a class as well: set-uid to the owner, set-gid to the
        // group, sticky to nobody in particular.
        if self.set_id && self.user {
            change |= 0o4000;
        }
        if self.set_id && self.group {
            change |= 0o2000;
        }
        if self.sticky && (self.user || self.group) {
            change |= 0o1000;
        }
        match self.operator {
            ModeOperator::Add => mode | change,
            ModeOperator::Remove => mode & !change,
            ModeOperator::Set => {
                let mut cleared = spread(7);
                if self.user {
                    cleared |= 0o4000;
                }
                if self.group {
                    cleared |= 0o2000;
                }
                if self.sticky {
                    cleared |= 0o1000;
                }
                mode & !cleared | change
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_changes_them() {
        for (text, file, expected) in [
            ("755", 0o644, 0o755),
            ("0", 0o644, 0),
            ("04755", 0o644, 0o4755),
            ("u=rwX,go=rX", 0o640, 0o644),
            ("u=rwX,go=rX", 0o740, 0o755),
            ("a=,u+rwX,go+rX", 0o740, 0o755),
            ("+x", 0o644, 0o755),
            ("a-w", 0o666, 0o444),
            ("go=", 0o777, 0o700),
            ("g=u", 0o640, 0o660),
            ("u+s", 0o755, 0o4755),
            ("g+s,o-rwx", 0o755, 0o2750),
            ("+t", 0o755, 0o1755),
            ("u=rw", 0o4755, 0o655),
            ("u+x-w", 0o644, 0o544),
            ("o+s", 0o755, 0o755),
            ("go=u-w", 0o755, 0o755),
        ] {
            let mode = ModeChange::parse(text).unwrap().apply(file, false);
            assert_eq!(mode, expected, "{text} of {file:o} is {mode:o}");
        }
        assert_eq!(ModeChange::parse("a=X").unwrap().apply(0o600, true), 0o111);
    }

    #[test]
    fn other_texts_are_no_modes() {
        for text in ["", "8", "10000", "abc", "u", "u+q", "rwx", "u+x,", "99999999999", "0o755"] {
            assert!(ModeChange::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            ModeChange::parse("999").unwrap_err().message,
            "invalid chmod parameter: '999'. it should be octal string and between 0 and 07777"
        );
    }
}
