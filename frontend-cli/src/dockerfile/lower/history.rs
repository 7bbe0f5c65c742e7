//! What an instruction leaves in the history of an image: BuildKit's texts, to the letter, because
//! tools read them. Lists are printed as Go's `%q` and `%v` print them.

use std::fmt::Write as _;

use cache::oci::Healthcheck;

/// `["a" "b"]`: Go's `%q` of a list of strings.
pub(super) fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    format!("[{}]", words.join(" "))
}

/// `[a b]`: Go's `%v` of a list of strings.
pub(super) fn plain_list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// ` k=v k2=v2`, with the blank before each.
pub(super) fn pairs(pairs: &[(String, String)]) -> String {
    pairs.iter().fold(String::new(), |mut text, (key, value)| {
        let _ = write!(text, " {key}={value}");
        text
    })
}

/// `RUN |2 A=1 B=2 /bin/sh -c make # buildkit`: arguments with the values that they have now, each
/// once.
pub(super) fn run(command: &[String], (count, args): (usize, &str)) -> String {
    let mut text = String::from("RUN");
    if count > 0 {
        let _ = write!(text, " |{count}{args}");
    }
    for word in command {
        text.push(' ');
        text.push_str(word);
    }
    text.push_str(" # buildkit");
    text
}

/// `HEALTHCHECK {Test:[CMD-SHELL true] Interval:30s … Retries:3}`: Go's `%+v` of the structure.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    let duration = |nanoseconds: Option<i64>| go_duration(nanoseconds.unwrap_or(0));
    format!(
        "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain_list(check.test.as_deref().unwrap_or_default()),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        check.retries.unwrap_or(0),
    )
}

/// A string as Go's `%q` writes it.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            c => push_escaped(&mut quoted, c),
        }
    }
    quoted.push('"');
    quoted
}

fn push_escaped(text: &mut String, c: char) {
    match c {
        '\\' => text.push_str("\\\\"),
        '\x07' => text.push_str("\\a"),
        '\x08' => text.push_str("\\b"),
        '\x0c' => text.push_str("\\f"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        '\x0b' => text.push_str("\\v"),
        c if (c as u32) < 0x20 || c as u32 == 0x7f => {
            let _ = write!(text, "\\x{:02x}", c as u32);
        }
        c => text.push(c),
    }
}

/// A duration as Go's `String` writes it: `1m30s`, `1.5s`, `0s`.
fn go_duration(nanoseconds: i64) -> String {
    const SECOND: i64 = 1_000_000_000;
    if nanoseconds == 0 {
        return "0s".into();
    }
    let fraction = |value: i64, unit: i64, name: &str| {
        let whole = value / unit;
        let rest = value % unit;
        if rest == 0 {
            return format!("{whole}{name}");
        }
        let digits = unit.ilog10() as usize;
        let rest = format!("{rest:0digits$}");
        format!("{whole}.{}{name}", rest.trim_end_matches('0'))
    };
    match nanoseconds {
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => fraction(n, 1_000, "µs"),
        n if n < SECOND => fraction(n, 1_000_000, "ms"),
        n => {
            let (minutes, rest) = (n / (60 * SECOND), n % (60 * SECOND));
            let (hours, minutes) = (minutes / 60, minutes % 60);
            let seconds = fraction(rest, SECOND, "s");
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_go_prints_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1_500_000, "1.5ms"),
            (30_000_000_000, "30s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500_000_000, "1.5s"),
        ] {
            assert_eq!(go_duration(nanoseconds), text);
        }
    }

    #[test]
    fn texts_are_buildkits() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            quoted_list(&words(&["/bin/sh", "-c", "echo \"a\tb\""])),
            r#"["/bin/sh" "-c" "echo \"a\tb\""]"#
        );
        assert_eq!(
            run(&words(&["/bin/sh", "-c", "make"]), (1, " A=1")),
            "RUN |1 A=1 /bin/sh -c make # buildkit"
        );
        let check = Healthcheck {
            test: Some(words(&["CMD-SHELL", "true"])),
            interval: Some(30_000_000_000),
            retries: Some(3),
            ..Healthcheck::default()
        };
        assert_eq!(
            healthcheck(&check),
            "HEALTHCHECK {Test:[CMD-SHELL true] Interval:30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:3}"
        );
    }
}
