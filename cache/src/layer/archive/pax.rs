//! PAX extended headers: `<length> <key>=<value>\n`, where the length counts the whole record.
//!
//! Read by that length and not by lines, because values (capabilities, say) may contain newlines.

use crate::tree::Xattr;

/// Attributes as star and GNU tar write them, and as every container engine does.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What an extended header says about the entry behind it.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds and nanoseconds.
    pub(super) mtime: Option<(i64, u32)>,
    /// In order of their names.
    pub(super) xattrs: Vec<Xattr>,
}

/// Reads all records; the error says what is wrong with them.
pub(super) fn parse(mut data: &[u8]) -> Result<Records, String> {
    let mut records = Records::default();
    while !data.is_empty() {
        let (record, rest) = split(data).ok_or("its extended header is malformed")?;
        data = rest;
        let equals = record.iter().position(|byte| *byte == b'=');
        let (key, value) = match equals {
            Some(equals) if equals > 0 => (&record[..equals], &record[equals + 1..]),
            _ => return Err("its extended header has a record without a key".to_owned()),
        };
        records.add(key, value)?;
    }
    records.xattrs.sort_unstable();
    Ok(records)
}

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let wrong = |what| format!("its extended header has a {what} that is none");
        let name = |value: &[u8]| match value.contains(&0) {
            true => Err("a name contains a NUL byte".to_owned()),
            // An empty value takes an earlier one back.
            false => Ok((!value.is_empty()).then(|| value.to_vec())),
        };
        let number = |what, value: &[u8]| match value {
            [] => Ok(None),
            value => decimal(value).map(Some).ok_or_else(|| wrong(what)),
        };
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = number("size", value)?,
            b"uid" => self.uid = number("uid", value)?,
            b"gid" => self.gid = number("gid", value)?,
            b"mtime" => {
                self.mtime = match value {
                    [] => None,
                    value => Some(time(value).ok_or_else(|| wrong("time"))?),
                };
            }
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err("it is sparse in a format of GNU tar that is not supported".to_owned());
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.retain(|xattr| xattr.name != name);
                    self.xattrs.push(Xattr { name: name.to_vec(), value: value.to_vec() });
                }
            }
        }
        Ok(())
    }
}

/// The first record's `key=value`, and what stands behind it.
fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    // A mebibyte has seven digits.
    let space = data.iter().take(8).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
        return None;
    }
    Some((&data[space + 1..length - 1], &data[length..]))
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]seconds[.fraction]`, the fraction cut after nanoseconds.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = i64::try_from(decimal(seconds)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    match (is_negative, nanoseconds) {
        (false, _) => Some((seconds, nanoseconds)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_by_their_length() {
        let records = parse(b"20 path=a\nb\nc=d e\xff\n\n31 SCHILY.xattr.user.x=y\n1=2 z\n");
        let records = match records {
            Ok(records) => records,
            Err(reason) => panic!("{reason}"),
        };
        assert_eq!(records.path.as_deref(), Some(&b"a\nb\nc=d e\xff\n"[..]));
        assert_eq!(records.xattrs[0].value, b"y\n1=2 z");
    }

    #[test]
    fn malformed_records_are_refused() {
        for data in [
            &b"x"[..],
            b"6 a=b",
            b"7 a=b\n",
            b"5 a=b\n",
            b"0 a=b\n",
            b"-6 a=b\n",
            b"99999999 a=b\n",
            b"5 =b\n",
            b"4 a\n",
            b"10 size=x\n",
            b"11 size=-1\n",
            b"12 path=a\0b\n",
            b"12 mtime=1e\n\0",
            b"26 GNU.sparse.major=1=2=3\n",
        ] {
            assert!(parse(data).is_err(), "{data:?}");
        }
    }

    #[test]
    fn times_before_1970_keep_a_positive_fraction() {
        assert_eq!(time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"7.1234567891"), Some((7, 123_456_789)));
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b""), None);
    }
}
