//! Values that are checked after expansion: durations, signals, ports, modes.

use std::time::Duration;

/// A value that does not say what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ValueError {
    /// In BuildKit's words.
    pub message: String,
}

/// A duration as Go writes it: `1h30m`, `1.5s`, `-2ms`, `0`. Negative ones are errors here: no
/// instruction takes one.
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    let _ = text;
    todo!()
}

/// A signal by number, or by name with or without `SIG` in any case, `RTMIN+3` and `RTMAX-2` too.
/// The result is its number.
pub fn parse_signal(text: &str) -> Result<i32, ValueError> {
    let _ = text;
    todo!()
}

/// One expanded `EXPOSE` word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExposedPorts {
    /// `80/tcp`, one entry for each port of a range.
    pub ports: Vec<String>,
    /// The protocol as written when it was not in lower case (`ExposeProtoCasing`).
    pub proto_casing: Option<String>,
    /// Whether an address or a host port was given and is ignored (`ExposeInvalidFormat`).
    pub host_part: bool,
}

/// `[[ip:]host:]port[-port][/proto]`
pub fn parse_expose(text: &str) -> Result<ExposedPorts, ValueError> {
    let _ = text;
    todo!()
}

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
    /// Of whom: `u`, `g`, `o`.
    pub user: bool,
    /// Group.
    pub group: bool,
    /// Others.
    pub other: bool,
    /// `+`, `-` or `=`.
    pub operator: ModeOperator,
    /// Bits `rwx` as 4, 2, 1.
    pub bits: u32,
    /// `X`: x only for directories and what has an x already.
    pub conditional_execute: bool,
    /// `s`
    pub set_id: bool,
    /// `t`
    pub sticky: bool,
    /// Copied from: `u`, `g` or `o`.
    pub copy: Option<char>,
}

/// `+`, `-`, `=`
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
        let _ = text;
        todo!()
    }

    /// The mode (07777 bits) that a file of mode `mode` gets.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let _ = (mode, is_directory);
        todo!()
    }
}
