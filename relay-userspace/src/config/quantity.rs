//! Durations as people write them: `500ms`, `5s`, `125m`, `2h`, `1d`; rates: `500kbps`, `1.5Gbps`; sizes:
//! `500GB`, `100GiB`; bytes as a text or `hex:00ff`.

use std::time::Duration;

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// What a duration may look like, for error texts.
pub const DURATION_FORMS: &str = r#"write a number and a unit: "500ms", "5s", "125m", "2h" or "1d""#;

/// `None` for anything that is not a whole number and a unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let (_, milliseconds) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}

/// The shortest form that reads back the same.
pub fn format_duration(duration: Duration) -> String {
    let total = duration.as_millis();
    let (name, unit) = UNITS
        .into_iter()
        .rev()
        .find(|&(_, unit)| total.is_multiple_of(u128::from(unit)) && total >= u128::from(unit))
        .unwrap_or(UNITS[1]);
    format!("{}{name}", total / u128::from(unit))
}

const RATE_UNITS: [(&str, u64); 4] =
    [("bps", 1), ("kbps", 1_000), ("Mbps", 1_000_000), ("Gbps", 1_000_000_000)];

/// What a rate may look like, for error texts.
pub const RATE_FORMS: &str =
    r#"write a number and a unit of bits per second: "500kbps", "100Mbps" or "1.5Gbps""#;

/// Bits per second; `None` for anything that is not a number and a unit. Bytes are no unit: who means them would get an eighth.
pub fn parse_rate(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text);
    let (_, unit) = RATE_UNITS.into_iter().find(|(name, _)| *name == unit)?;
    times(number, unit)
}

/// The shortest form that reads back the same.
pub fn format_rate(rate: u64) -> String {
    let fits = |&(_, unit): &(&str, u64)| rate.is_multiple_of(unit) && rate >= unit;
    let (name, unit) = RATE_UNITS.into_iter().rev().find(fits).unwrap_or(RATE_UNITS[0]);
    format!("{}{name}", rate / unit)
}

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// What a size may look like, for error texts.
pub const SIZE_FORMS: &str =
    r#"write a number and a unit of bytes: "500GB", "1.5TB" (decimal) or "100GiB" (binary)"#;

/// Bytes; `None` for anything that is not a number and a unit.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text);
    let (_, unit) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit)?;
    times(number, unit)
}

/// The shortest form that reads back the same.
pub fn format_size(bytes: u64) -> String {
    let fits = |&&(_, unit): &&(&str, u64)| bytes.is_multiple_of(unit) && bytes >= unit;
    let (name, unit) = SIZE_UNITS.iter().rev().find(fits).copied().unwrap_or(SIZE_UNITS[0]);
    format!("{}{name}", bytes / unit)
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count())
}

/// So many units, whole or with up to nine decimals; a part of the smallest one is nothing.
fn times(number: &str, unit: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').map_or((number, None), |(whole, part)| (whole, Some(part)));
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let Some(part) = part else { return Some(whole) };
    if part.len() > 9 {
        return None;
    }
    let scale = 10_u64.pow(u32::try_from(part.len()).ok()?);
    let part = part.parse::<u64>().ok()?.checked_mul(unit)?;
    part.is_multiple_of(scale).then(|| whole.checked_add(part / scale))?
}

/// What begins bytes that are no text.
const HEX: &str = "hex:";

/// What bytes may look like, for error texts.
pub const BYTES_FORMS: &str = r#"write a text, or bytes like "hex:00ff""#;

/// `None` if `hex:` is followed by anything but pairs of hexadecimal digits.
pub fn parse_bytes(text: &str) -> Option<Box<[u8]>> {
    let Some(digits) = text.strip_prefix(HEX) else { return Some(text.as_bytes().into()) };
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(16 * digit(*high)? + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

fn digit(byte: u8) -> Option<u32> {
    char::from(byte).to_digit(16)
}

/// As a text where that reads back the same and can be read at all.
pub fn format_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(HEX) && !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.iter().fold(HEX.to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print() {
        for (text, milliseconds, printed) in [
            ("500ms", 500, "500ms"),
            ("5s", 5_000, "5s"),
            ("125m", 7_500_000, "125m"),
            ("120m", 7_200_000, "2h"),
            ("1d", 86_400_000, "1d"),
            ("0s", 0, "0s"),
        ] {
            let duration = parse_duration(text).expect(text);
            assert_eq!(duration.as_millis(), milliseconds);
            assert_eq!(format_duration(duration), printed);
        }
    }

    #[test]
    fn rates_read_and_print() {
        for (text, bits, printed) in [
            ("100Mbps", 100_000_000, "100Mbps"),
            ("1.5Gbps", 1_500_000_000, "1500Mbps"),
            ("0.5kbps", 500, "500bps"),
            ("1000kbps", 1_000_000, "1Mbps"),
            ("7bps", 7, "7bps"),
        ] {
            assert_eq!(parse_rate(text), Some(bits), "{text}");
            assert_eq!(format_rate(bits), printed);
        }
        let no_rates = [
            "",
            "100",
            "Mbps",
            "100 Mbps",
            "100MBps",
            "100MB/s",
            "100mbps",
            "-1Mbps",
            "1.2.3Mbps",
            "1.Mbps",
            ".5Mbps",
            "0.0001kbps",
            "1.0000000000Gbps",
            "99999999999Gbps",
        ];
        for text in no_rates {
            assert_eq!(parse_rate(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes, printed) in [
            ("500GB", 500_000_000_000, "500GB"),
            ("1.5TB", 1_500_000_000_000, "1500GB"),
            ("100GiB", 107_374_182_400, "100GiB"),
            ("1024MiB", 1 << 30, "1GiB"),
            ("0.5kB", 500, "500B"),
            ("7B", 7, "7B"),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(format_size(bytes), printed);
        }
        for text in ["", "100", "GB", "1 GB", "1Gb", "1gb", "1G", "-1GB", "0.1B", "99999999TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_read_and_print() {
        for (text, bytes, printed) in [
            ("ping", &b"ping"[..], "ping"),
            ("hex:00fF10", &[0, 255, 16], "hex:00ff10"),
            ("hex:70696e67", b"ping", "ping"),
            ("a\n", b"a\n", "hex:610a"),
            ("hex:", b"", ""),
        ] {
            let read = parse_bytes(text).expect(text);
            assert_eq!(&*read, bytes, "{text}");
            assert_eq!(format_bytes(&read), printed);
        }
        for text in ["hex:0", "hex:zz", "hex:00 11", "hex:é"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn nothing_else_is_a_duration() {
        for text in
            ["", "5", "s", "5 s", "-5s", "5sec", "1.5h", "99999999999999999999s", "999999999999999999d"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
