//! Bytes as hexadecimal digits, two for each.

/// The bytes in lower case.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As many bytes as are wanted; `None` for any other text.
pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut out = [0; N];
    for (at, byte) in out.iter_mut().enumerate() {
        // `from_str_radix` takes a sign.
        let digits = text.get(2 * at..2 * at + 2).filter(|digits| !digits.starts_with('+'))?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_hex_digits_and_as_many_as_needed() {
        assert_eq!(decode("00ffA5"), Some([0, 0xff, 0xa5]));
        for text in ["", "00ff", "00ffa5a5", "00ffa", "00ffag", "+0ffa5", "0\u{e9}ffa"] {
            assert_eq!(decode::<3>(text), None, "{text}");
        }
        assert_eq!(encode(&[0, 0xff, 0xa5]), "00ffa5");
    }
}
