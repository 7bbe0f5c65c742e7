//! Numbers in tar headers.

/// Octal digits between blanks and NULs, or (first bit set) a big-endian two's complement; an empty
/// field is zero. `None`: something else, or not within an `i64`.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let is_negative = first & 0x40 != 0;
        // The mark is not part of the number, but the sign behind it is.
        let first = if is_negative { *first } else { first & 0x7f };
        let fill = if is_negative { -1 } else { 0 };
        let mut value = i128::from(fill) << 8 | i128::from(first);
        for byte in rest {
            // Longer than sixteen bytes is no field of ours.
            value = value.checked_mul(256)? | i128::from(*byte);
        }
        return i64::try_from(value).ok();
    }
    let is_padding = |byte: &u8| matches!(byte, b' ' | 0);
    let digits = field.iter().skip_while(|byte| is_padding(byte));
    let mut value: i64 = 0;
    let mut ended = false;
    for byte in digits {
        match byte {
            b'0'..=b'7' if !ended => {
                value = value.checked_mul(8)?.checked_add(i64::from(byte - b'0'))?;
            }
            byte if is_padding(byte) => ended = true,
            _ => return None,
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary_or_refused() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"00000000010\0", Some(8)),
            (b"0000648\0", None),
            (b"64 4\0\0\0\0", None),
            (b"-000001\0", None),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x8f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
