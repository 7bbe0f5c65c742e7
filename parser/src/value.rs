//! Values that are checked after expansion: durations, signals, ports, sizes.

use std::time::Duration;

use crate::diagnostic::Diagnostic;
use crate::head::go_quoted;
use crate::span::Span;

/// A value that does not say what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ValueError {
    /// In BuildKit's words.
    pub message: String,
    /// What would be right, where that is short.
    pub hint: Option<&'static str>,
}

impl ValueError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// As an error at a place.
    pub(crate) fn at(self, span: Span) -> Diagnostic {
        let error = Diagnostic::error(self.message, span);
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

const DURATION: &str = "write the unit behind the number: 3s, 2m, 1h30m";
const PORT: &str = "a port is a number from 0 to 65535, a range is 8000-8010";

/// A duration as Go writes it: `1h30m`, `1.5s`, `0`. Negative ones are errors: no instruction
/// takes one.
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    const UNITS: [(&str, u64); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let quoted = go_quoted(text);
    let invalid = || ValueError::new(format!("time: invalid duration {quoted}"));
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, behind) = rest.split_at(number);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, next) = behind.split_at(end);
        if unit.is_empty() {
            let message = format!("time: missing unit in duration {quoted}");
            return Err(ValueError::new(message).hint(DURATION));
        }
        let scale = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
        let scale = scale.ok_or_else(|| {
            let unit = go_quoted(unit);
            let message = format!("time: unknown unit {unit} in duration {quoted}");
            ValueError::new(message).hint(DURATION)
        })?;
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        // Digits below a nanosecond do not count; 18 of them fit without overflow.
        let fraction = &fraction[..fraction.len().min(18)];
        let part: u128 = if fraction.is_empty() {
            0
        } else {
            let value: u128 = fraction.parse().map_err(|_| invalid())?;
            value * u128::from(scale) / 10u128.pow(fraction.len() as u32)
        };
        nanos = whole
            .checked_mul(scale)
            .and_then(|whole| whole.checked_add(part as u64))
            .and_then(|part| nanos.checked_add(part))
            .filter(|nanos| *nanos <= i64::MAX as u64)
            .ok_or_else(invalid)?;
        rest = next;
    }
    Ok(Duration::from_nanos(nanos))
}

/// A size as Docker reads it: `64m`, `1.5GiB`, `1024`, units of 1024; the result in bytes.
pub fn parse_size(text: &str) -> Result<u64, ValueError> {
    let invalid = || ValueError::new(format!("invalid size: '{text}'"));
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let shift = match unit.strip_suffix('i').unwrap_or(unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(invalid()),
    };
    let bytes = number * (1u64 << shift) as f64;
    if bytes > i64::MAX as f64 {
        return Err(invalid());
    }
    Ok(bytes as u64)
}

/// Linux signals of x86-64 and arm64 by number, from 1.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// Other names of the same.
const SIGNAL_ALIASES: [(&str, i32); 3] = [("IOT", 6), ("CLD", 17), ("POLL", 29)];
/// The first real-time signal that C libraries leave to programs, and the last.
const REAL_TIME: (i32, i32) = (34, 64);

/// A signal by number, or by name with or without `SIG` in any case, `RTMIN+3` and `RTMAX-2` too.
/// The result is its number. As in BuildKit any number but 0 is one, and names reach from either
/// end of the real-time signals to their middle: `RTMIN+15`, `RTMAX-14`.
pub fn parse_signal(text: &str) -> Result<i32, ValueError> {
    let invalid = || {
        let hint = "name a signal (SIGTERM, QUIT, RTMIN+3) or its number";
        ValueError::new(format!("Invalid signal: {text}")).hint(hint)
    };
    if let Ok(number) = text.parse::<i32>() {
        return if number == 0 { Err(invalid()) } else { Ok(number) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = SIGNALS.iter().position(|known| *known == name) {
        return Ok(at as i32 + 1);
    }
    if let Some((_, number)) = SIGNAL_ALIASES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let offset = |text: &str, sign: char, last: i32| match text.strip_prefix(sign) {
        Some(digits) => (1..=last).find(|offset| offset.to_string() == digits),
        None => text.is_empty().then_some(0),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest, '+', 15).map(|offset| REAL_TIME.0 + offset)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest, '-', 14).map(|offset| REAL_TIME.1 - offset)
    } else {
        None
    };
    number.ok_or_else(invalid)
}

/// One expanded `EXPOSE` word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExposedPorts {
    /// `80/tcp`, one entry for each port of a range, ascending.
    pub ports: Vec<String>,
    /// The whole word if its protocol was not in lower case (`ExposeProtoCasing`).
    pub proto_casing: Option<String>,
    /// Whether an address or a host port was given, and is ignored (`ExposeInvalidFormat`).
    pub host_part: bool,
}

impl ExposedPorts {
    /// The build checks that `written`, the word they came from, fails: rule and message.
    pub fn warnings(&self, written: &str) -> Vec<(&'static str, String)> {
        let casing =
            format!("Defined protocol '{written}' in EXPOSE instruction should be lowercase");
        let format = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found \
             '{written}'"
        );
        let casing = self.proto_casing.as_ref().map(|_| ("ExposeProtoCasing", casing));
        casing
            .into_iter()
            .chain(self.host_part.then_some(("ExposeInvalidFormat", format)))
            .collect()
    }
}

/// `[[ip:]host:]port[-port][/proto]`
pub fn parse_expose(text: &str) -> Result<ExposedPorts, ValueError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (ip, host, container) = match parts.as_slice() {
        [container] => (String::new(), "", *container),
        [host, container] => (String::new(), *host, *container),
        [ip @ .., host, container] => (ip.join(":"), *host, *container),
        [] => (String::new(), "", text),
    };
    let wrong = |why: &str| ValueError::new(format!("invalid port: {}: {why}", go_quoted(text)));
    let (range, proto) = container.split_once('/').unwrap_or((container, ""));
    if range.is_empty() {
        return Err(wrong("no port specified"));
    }
    let lower = match proto.to_ascii_lowercase() {
        lower if lower.is_empty() => "tcp".to_owned(),
        lower if matches!(lower.as_str(), "tcp" | "udp" | "sctp") => lower,
        _ => {
            let error = wrong(&format!("invalid proto: {proto}"));
            return Err(error.hint("the protocols are tcp, udp and sctp"));
        }
    };
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(&ip);
    if !bare.is_empty() && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(ValueError::new(format!("invalid IP address: {bare}")));
    }
    let (first, last) = port_range(range)
        .ok_or_else(|| ValueError::new(format!("invalid containerPort: {range}")).hint(PORT))?;
    if !host.is_empty() {
        let (host_first, host_last) =
            port_range(host).ok_or_else(|| ValueError::new(format!("invalid hostPort: {host}")))?;
        if last - first != host_last - host_first && first != last {
            return Err(ValueError::new(format!(
                "invalid ranges specified for container and host Ports: {range} and {host}"
            )));
        }
    }
    Ok(ExposedPorts {
        ports: (first..=last).map(|port| format!("{port}/{lower}")).collect(),
        proto_casing: (!proto.is_empty() && proto != lower).then(|| text.to_owned()),
        host_part: !ip.is_empty() || !host.is_empty(),
    })
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.strip_prefix('+').unwrap_or(text).parse::<u16>().ok();
    match text.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some((first, last))
        }
        None => number(text).map(|port| (port, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let nanos = |text| parse_duration(text).map(|d| d.as_nanos()).map_err(|e| e.message);
        for (text, expected) in [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1h2m3s", 3_723_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5ms", 500_000),
            ("1.s", 1_000_000_000),
            ("2us", 2_000),
            ("2µs", 2_000),
            ("3ns", 3),
            ("+1m", 60_000_000_000),
            ("0s", 0),
        ] {
            assert_eq!(nanos(text), Ok(expected), "{text}");
        }
        for (text, expected) in [
            ("", "time: invalid duration \"\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5d", "time: unknown unit \"d\" in duration \"5d\""),
            ("s", "time: invalid duration \"s\""),
            (".s", "time: invalid duration \".s\""),
            ("1.2.3s", "time: invalid duration \"1.2.3s\""),
            ("9999999h", "time: invalid duration \"9999999h\""),
        ] {
            assert_eq!(nanos(text), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, expected) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGKILL", 9),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-2", 62),
            ("RTMIN+15", 49),
            ("POLL", 29),
            ("-1", -1),
            ("65", 65),
        ] {
            assert_eq!(parse_signal(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "SIGFOO", "RTMIN+16", "RTMAX-15", "RTMIN-1", "RTMIN+", "FOO9"] {
            let error = parse_signal(text).unwrap_err();
            assert_eq!(error.message, format!("Invalid signal: {text}"));
        }
    }

    #[test]
    fn exposed_ports_are_spelled_out() {
        let ports = |text| parse_expose(text).map(|e| e.ports.join(" ")).map_err(|e| e.message);
        for (text, expected) in [
            ("80", "80/tcp"),
            ("80/UDP", "80/udp"),
            ("80/", "80/tcp"),
            ("8000-8002/sctp", "8000/sctp 8001/sctp 8002/sctp"),
            ("8080:80", "80/tcp"),
            ("127.0.0.1:8080:80", "80/tcp"),
            ("[::1]:8080:80", "80/tcp"),
            ("0", "0/tcp"),
            ("65535", "65535/tcp"),
        ] {
            assert_eq!(ports(text), Ok(expected.to_owned()), "{text}");
        }
        for (text, expected) in [
            ("80/icmp", "invalid port: \"80/icmp\": invalid proto: icmp"),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("65536", "invalid containerPort: 65536"),
            ("http", "invalid containerPort: http"),
            ("9-8", "invalid containerPort: 9-8"),
            ("x:80", "invalid hostPort: x"),
            ("1-2:3-5", "invalid ranges specified for container and host Ports: 3-5 and 1-2"),
            ("a.b:1:2", "invalid IP address: a.b"),
        ] {
            assert_eq!(ports(text), Err(expected.to_owned()), "{text}");
        }
        let rules = |text| {
            let exposed = parse_expose(text).unwrap();
            exposed.warnings(text).into_iter().map(|(rule, _)| rule).collect::<Vec<_>>()
        };
        assert_eq!(rules("80/TCP"), ["ExposeProtoCasing"]);
        assert_eq!(rules("1:80/Udp"), ["ExposeProtoCasing", "ExposeInvalidFormat"]);
        assert_eq!(rules("80/tcp"), [""; 0]);
    }

    #[test]
    fn sizes_are_in_units_of_1024() {
        for (text, expected) in
            [("0", 0), ("1024", 1024), ("64m", 64 << 20), ("1.5GiB", 3 << 29), ("2 KB", 2048)]
        {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "m", "-1", "1x", "1mm", "1..5m", "99999999p"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
