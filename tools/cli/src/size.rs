//! Sizes, rates and ranges as people write them.

/// Reads a number of bytes: `4096`, `64K`, `64M`, `1G`, also `64KiB`. The suffixes are powers of 1024.
///
/// # Errors
/// What is not a number with one of these suffixes, or does not fit 64 bits.
pub fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        other => {
            return Err(format!(
                "{other:?} is no unit of size; use K, M, G or T (powers of 1024)"
            ));
        }
    };
    let number: u64 = digits
        .trim()
        .parse()
        .map_err(|_| format!("{text:?} is no size; write for example 4096, 64M or 1G"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is more than 64 bits hold"))
}

/// Reads one queue or a range of queues: `3`, `0-3`.
///
/// # Errors
/// What is neither, and a range that runs backwards.
pub fn queues(text: &str) -> Result<(u32, u32), String> {
    let number = |part: &str| {
        part.parse::<u32>()
            .map_err(|_| format!("{text:?} is no queue; write N or N-M, for example 0 or 0-3"))
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if last < first {
        return Err(format!(
            "the range {text} runs backwards; write the smaller queue first"
        ));
    }
    Ok((first, last))
}

/// Reads a span of seconds: `5`, `0.5`.
///
/// # Errors
/// What is no number, negative, or too large for a clock.
pub fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let number: f64 = text
        .trim_end_matches('s')
        .parse()
        .map_err(|_| format!("{text:?} is no number of seconds"))?;
    std::time::Duration::try_from_secs_f64(number)
        .map_err(|_| format!("{text:?} is no span of time"))
}

/// Reads a rate above 0, in packets a second: `20000`, `20k`, `1.5M` (powers of 1000).
///
/// # Errors
/// What is no number above 0.
pub fn rate(text: &str) -> Result<f64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1e3),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    match digits.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number * unit),
        _ => Err(format!(
            "{text:?} is no rate; write packets a second, for example 20000 or 20k"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("64M"), Ok(64 << 20));
        assert_eq!(bytes("1g"), Ok(1 << 30));
        assert_eq!(bytes("2KiB"), Ok(2048));
        for bad in ["", "M", "-1", "1.5G", "1X", "99999999999T"] {
            assert!(bytes(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn queue_ranges() {
        assert_eq!(queues("3"), Ok((3, 3)));
        assert_eq!(queues("0-3"), Ok((0, 3)));
        for bad in ["", "a", "3-1", "1-", "-1", "1-2-3"] {
            assert!(queues(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn rates_and_times() {
        assert_eq!(rate("20k"), Ok(20_000.0));
        assert_eq!(rate("1.5M"), Ok(1_500_000.0));
        assert!(
            rate("0").is_err() && rate("-5").is_err() && rate("k").is_err() && rate("inf").is_err()
        );
        assert_eq!(seconds("0.5"), Ok(std::time::Duration::from_millis(500)));
        assert!(seconds("-1").is_err() && seconds("x").is_err());
    }
}
