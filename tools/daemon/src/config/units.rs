//! The small notations of the configuration file: sizes with a unit, queue ranges, file modes. Each is accepted as a number or
//! as text, and a wrong one is answered with what would be right.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{self, Deserializer, SeqAccess, Visitor};

/// Parses `4096`, `64KiB`, `16 MiB`, `1GiB` (powers of two; `K`, `M`, `G` mean the same) into bytes.
///
/// # Errors
///
/// What is wrong with the text and how it would be right.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "{text:?} is not a size; write bytes, or a number with KiB, MiB or GiB, as in \"64MiB\""
        )
    };
    let text_trimmed = text.trim();
    let digits = text_trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text_trimmed.len());
    let (number, unit) = text_trimmed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text:?} is more bytes than fit in 64 bits"))
}

/// Parses `3` or `0-3`.
///
/// # Errors
///
/// What is wrong with the text and how it would be right.
pub fn parse_range(text: &str) -> Result<RangeInclusive<u32>, String> {
    let wrong = || format!("{text:?} is not a queue or a range of queues; write \"3\" or \"0-3\"");
    let number = |part: &str| part.trim().parse::<u32>().map_err(|_| wrong());
    let range = match text.split_once('-') {
        Some((first, last)) => number(first)?..=number(last)?,
        None => {
            let only = number(text)?;
            only..=only
        }
    };
    if range.is_empty() {
        return Err(format!(
            "{text:?} is an empty range; write the smaller queue first"
        ));
    }
    Ok(range)
}

/// For `#[serde(deserialize_with)]`: bytes as a number or as text with a unit.
///
/// # Errors
///
/// As [`parse_bytes`].
pub fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    struct Bytes;
    impl Visitor<'_> for Bytes {
        type Value = u64;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size in bytes, or text such as \"64MiB\"")
        }
        fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
            u64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
            Ok(value)
        }
        fn visit_str<E: de::Error>(self, value: &str) -> Result<u64, E> {
            parse_bytes(value).map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Bytes).map(Some)
}

/// For `#[serde(deserialize_with)]`: queues as `3`, `"0-3"` or `[0, 1, 2]` (neighbours only).
///
/// # Errors
///
/// As [`parse_range`]; and a list with a gap is refused.
pub fn queues<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<RangeInclusive<u32>>, D::Error> {
    struct Queues;
    impl<'de> Visitor<'de> for Queues {
        type Value = RangeInclusive<u32>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a queue number, a range such as \"0-3\", or a list of neighbouring queues")
        }
        fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
            let queue = u32::try_from(value)
                .map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))?;
            Ok(queue..=queue)
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
            let queue = u32::try_from(value)
                .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))?;
            Ok(queue..=queue)
        }
        fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
            parse_range(value).map_err(E::custom)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let first: u32 = list
                .next_element()?
                .ok_or_else(|| de::Error::custom("an empty list of queues"))?;
            let mut last = first;
            while let Some(next) = list.next_element::<u32>()? {
                if last.checked_add(1) != Some(next) {
                    return Err(de::Error::custom(format!(
                        "queue {next} does not follow queue {last}; one attachment takes neighbouring queues, write a second [[interfaces.rx.queues]] for the others"
                    )));
                }
                last = next;
            }
            Ok(first..=last)
        }
    }
    deserializer.deserialize_any(Queues).map(Some)
}

/// For `#[serde(deserialize_with)]`: a file mode as text in octal, as chmod takes it.
///
/// # Errors
///
/// Anything that is not octal text of permission bits.
pub fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct Mode;
    impl Visitor<'_> for Mode {
        type Value = u32;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a file mode as octal text, such as \"0660\"")
        }
        fn visit_str<E: de::Error>(self, value: &str) -> Result<u32, E> {
            match u32::from_str_radix(value, 8) {
                Ok(mode) if mode <= 0o777 => Ok(mode),
                _ => Err(E::invalid_value(de::Unexpected::Str(value), &self)),
            }
        }
    }
    deserializer.deserialize_any(Mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units_and_refuse_nonsense() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("64KiB"), Ok(65536));
        assert_eq!(parse_bytes(" 2 MiB "), Ok(2 << 20));
        assert_eq!(parse_bytes("1G"), Ok(1 << 30));
        for wrong in ["", "MiB", "1MB", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn ranges_take_one_or_neighbours() {
        assert_eq!(parse_range("3"), Ok(3..=3));
        assert_eq!(parse_range("0-3"), Ok(0..=3));
        for wrong in ["", "3-1", "a", "1-", "-1", "1-2-3"] {
            assert!(parse_range(wrong).is_err(), "{wrong:?}");
        }
    }
}
