//! Times in the Kubernetes API (RFC 3339).

/// Parse a time such as `2026-11-22T01:02:03Z`, with any offset, into seconds since the epoch;
/// truncate fractions. `None` if the text is malformed.
pub fn parse_rfc3339(s: &str) -> Option<i64> {
    let (date, time) = s.split_once(['T', 't'])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let clock_end = time.find(|c: char| !c.is_ascii_digit() && c != ':')?;
    let (clock, rest) = time.split_at_checked(clock_end)?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let end = fraction.find(|c: char| !c.is_ascii_digit())?;
            (end > 0).then(|| fraction.get(end..)).flatten()?
        }
        None => rest,
    };
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (sign, offset) = match zone.strip_prefix('-') {
                Some(offset) => (-1, offset),
                None => (1, zone.strip_prefix('+')?),
            };
            let [hours, minutes] = numbers(offset, ':', [2, 2])?;
            (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))?
        }
    };
    let in_range =
        (1..=days_in(year, month)?).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    in_range.then(|| {
        days_since_epoch(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset
    })
}

/// Parse fixed-width numbers with a separator.
fn numbers<const N: usize>(s: &str, separator: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut out = [0; N];
    let mut parts = s.split(separator);
    for (number, width) in out.iter_mut().zip(widths) {
        let part = parts.next()?;
        let digits = part.len() == width && part.bytes().all(|b| b.is_ascii_digit());
        *number = digits.then(|| part.parse().ok()).flatten()?;
    }
    parts.next().is_none().then_some(out)
}

fn days_in(year: i64, month: i64) -> Option<i64> {
    Some(match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => return None,
    })
}

/// Return the days since 1970-01-01 in the proleptic Gregorian calendar. Years start in March, so
/// that the leap day is the last day.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + leap_days + day_of_year - 719_468
}
