//! From verdicts per call to BPF instructions.
//!
//! Numbers with the same verdict form ranges, and a balanced search over the ranges finds the
//! verdict in seven comparisons or so. A chain of comparisons, one per call, costs half a
//! millisecond at every exec here: the kernel runs the filter once for each number when it loads
//! it, to learn which calls it need not ask about.
//!
//! ```text
//!      architecture? ─► number ≥ 157 ? ─► number ≥ 300 ? ─► … ─► ALLOW
//!                                    └──► number ≥  63 ? ─► … ─► look at argument 0 ─► …
//! ```
//!
//! Numbers above the last one known are calls that the profile's authors had not heard of: they
//! "do not exist" (ENOSYS), so that programs fall back. That includes the x32 calls.

use super::profile::{Condition, Verdict, verdict};
use super::syscalls::{NONE, SYSCALLS};
use crate::capabilities;

/// An architecture that a process may make calls of.
struct Architecture {
    /// `AUDIT_ARCH_*` of linux/audit.h.
    token: u32,
    /// Its column in [`SYSCALLS`].
    column: usize,
}

/// The machine's own first, then those it can run, too.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[Architecture] = &[
    Architecture { token: 0xc000_003e, column: 0 },
    Architecture { token: 0x4000_0003, column: 1 },
];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[Architecture] = &[Architecture { token: 0xc000_00b7, column: 2 }];

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT_LOW: u32 = 16;
const ARGUMENT_HIGH: u32 = 20;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// One instruction; jumps count the instructions to skip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// All numbers from `first` up to the next range have this verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    verdict: Verdict,
}

/// The filter for a container with this bounding set.
pub(super) fn filter(bounding: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for instruction in instructions(bounding) {
        bytes.extend_from_slice(&instruction.code.to_ne_bytes());
        bytes.extend_from_slice(&[instruction.if_true, instruction.if_false]);
        bytes.extend_from_slice(&instruction.value.to_ne_bytes());
    }
    bytes
}

fn instructions(bounding: u64) -> Vec<Instruction> {
    let mut program = vec![load(ARCHITECTURE)];
    for architecture in ARCHITECTURES {
        let mut body = vec![load(NUMBER)];
        body.extend(search(&ranges(bounding, architecture.column)));
        program.push(jump(JUMP_IF_EQUAL, architecture.token, 1, 0));
        program.push(jump_over(body.len()));
        program.extend(body);
    }
    program.push(refuse(libc::ENOSYS as u16));
    program
}

/// The verdicts of one architecture, over all numbers there are.
fn ranges(bounding: u64, column: usize) -> Vec<Range> {
    let has = |capability| {
        capabilities::ALL
            .iter()
            .position(|known| *known == capability)
            .is_some_and(|number| bounding & (1 << number) != 0)
    };
    let mut known: Vec<(u32, Verdict)> = SYSCALLS
        .iter()
        .map(|(name, numbers)| (numbers[column], verdict(name, has)))
        .filter(|(number, _)| *number != NONE)
        .collect();
    known.sort_unstable_by_key(|(number, _)| *number);

    let unlisted = Verdict::Refuse(libc::EPERM as u16);
    let mut ranges = vec![Range { first: 0, verdict: unlisted }];
    let mut add = |first: u32, verdict: Verdict| {
        let last = ranges.last_mut().expect("there is one from the start");
        if last.first == first {
            last.verdict = verdict;
        } else if last.verdict != verdict {
            ranges.push(Range { first, verdict });
        }
    };
    let mut next = 0;
    for (number, verdict) in known {
        if number > next {
            add(next, unlisted);
        }
        add(number, verdict);
        next = number + 1;
    }
    add(next, Verdict::Refuse(libc::ENOSYS as u16));
    ranges
}

/// Code that finds the range of the number in the accumulator and ends with its verdict.
fn search(ranges: &[Range]) -> Vec<Instruction> {
    let [range] = ranges else {
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        let (lower_code, upper_code) = (search(lower), search(upper));
        let bound = upper[0].first;
        let mut code = Vec::with_capacity(2 + lower_code.len() + upper_code.len());
        match u8::try_from(lower_code.len()) {
            Ok(distance) => code.push(jump(JUMP_IF_AT_LEAST, bound, distance, 0)),
            Err(_) => {
                code.push(jump(JUMP_IF_AT_LEAST, bound, 0, 1));
                code.push(jump_over(lower_code.len()));
            }
        }
        code.extend(lower_code);
        code.extend(upper_code);
        return code;
    };
    match range.verdict {
        Verdict::Allow => vec![allow()],
        Verdict::Refuse(errno) => vec![refuse(errno)],
        Verdict::Depends(condition) => check(condition),
    }
}

fn check(condition: Condition) -> Vec<Instruction> {
    let denied = refuse(libc::EPERM as u16);
    match condition {
        Condition::NoneOf(bits) => {
            vec![load(ARGUMENT_LOW), jump(JUMP_IF_ANY_BIT, bits, 1, 0), allow(), denied]
        }
        Condition::Not(value) => {
            vec![load(ARGUMENT_LOW), jump(JUMP_IF_EQUAL, value, 1, 0), allow(), denied]
        }
        Condition::OneOf(values) => {
            let mut code = vec![load(ARGUMENT_HIGH), jump(JUMP_IF_EQUAL, 0, 1, 0), denied];
            code.push(load(ARGUMENT_LOW));
            for (index, value) in values.iter().enumerate() {
                // Over the comparisons that are left, and the denial.
                let distance = (values.len() - index) as u8;
                code.push(jump(JUMP_IF_EQUAL, *value, distance, 0));
            }
            code.extend([denied, allow()]);
            code
        }
    }
}

fn load(offset: u32) -> Instruction {
    // The argument's halves stand in memory order.
    let offset = match offset {
        ARGUMENT_LOW if cfg!(target_endian = "big") => ARGUMENT_HIGH,
        ARGUMENT_HIGH if cfg!(target_endian = "big") => ARGUMENT_LOW,
        offset => offset,
    };
    Instruction { code: LOAD, if_true: 0, if_false: 0, value: offset }
}

fn jump(code: u16, value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, value }
}

fn jump_over(instructions: usize) -> Instruction {
    jump(JUMP, instructions as u32, 0, 0)
}

fn allow() -> Instruction {
    jump(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0)
}

fn refuse(errno: u16) -> Instruction {
    jump(RETURN, libc::SECCOMP_RET_ERRNO | u32::from(errno), 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: u64 = 0xa804_25fb;

    /// Runs the filter on one call, as the kernel would.
    fn run(program: &[Instruction], token: u32, number: u32, argument: u64) -> u32 {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let Instruction { code, if_true, if_false, value } = program[at];
            at += 1;
            let taken = match code {
                LOAD => {
                    accumulator = match value {
                        NUMBER => number,
                        ARCHITECTURE => token,
                        ARGUMENT_LOW => argument as u32,
                        ARGUMENT_HIGH => (argument >> 32) as u32,
                        other => panic!("load of offset {other}"),
                    };
                    continue;
                }
                RETURN => return value,
                JUMP => {
                    at += value as usize;
                    continue;
                }
                JUMP_IF_EQUAL => accumulator == value,
                JUMP_IF_AT_LEAST => accumulator >= value,
                JUMP_IF_ANY_BIT => accumulator & value != 0,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if taken { if_true } else { if_false });
        }
    }

    /// What the profile says, call by call.
    fn expected(column: usize, number: u32, argument: u64) -> u32 {
        let errno = |number: i32| libc::SECCOMP_RET_ERRNO | number as u32;
        let docker = |capability| capabilities::DEFAULT.contains(&capability);
        let last = SYSCALLS.iter().map(|(_, numbers)| numbers[column]).filter(|n| *n != NONE).max();
        if number > last.unwrap() {
            return errno(libc::ENOSYS);
        }
        let Some((name, _)) = SYSCALLS.iter().find(|(_, numbers)| numbers[column] == number) else {
            return errno(libc::EPERM);
        };
        let allowed = match verdict(name, docker) {
            Verdict::Allow => true,
            Verdict::Refuse(number) => return errno(number.into()),
            Verdict::Depends(Condition::NoneOf(bits)) => argument & u64::from(bits) == 0,
            Verdict::Depends(Condition::Not(value)) => argument as u32 != value,
            Verdict::Depends(Condition::OneOf(values)) => {
                values.iter().any(|value| argument == u64::from(*value))
            }
        };
        if allowed { libc::SECCOMP_RET_ALLOW } else { errno(libc::EPERM) }
    }

    #[test]
    fn the_filter_says_of_every_call_what_the_profile_says() {
        let program = instructions(DOCKER);
        let arguments =
            [0, 8, 40, 0x2_0008, 0x1000_0000, 0x7e02_0000, 0xffff_ffff, 1 << 32, u64::MAX];
        for Architecture { token, column } in ARCHITECTURES {
            for number in (0..600).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
                for argument in arguments {
                    assert_eq!(
                        run(&program, *token, number, argument),
                        expected(*column, number, argument),
                        "{token:#x} {number} {argument:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn calls_of_unknown_architectures_do_not_exist() {
        let refused = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert_eq!(run(&instructions(DOCKER), 0x1234, 0, 0), refused);
    }

    #[test]
    fn the_search_is_short() {
        let program = instructions(DOCKER);
        // The kernel's limit is 4096.
        assert!(program.len() < 700, "{}", program.len());
    }
}
