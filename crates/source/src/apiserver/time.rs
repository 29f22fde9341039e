//! Times as the Kubernetes API writes them (RFC 3339, in UTC).

/// `2026-11-22T01:02:03Z`, from seconds since the epoch.
pub(super) fn rfc3339(seconds: i64) -> String {
    let (date, second) = (
        civil(seconds.div_euclid(86_400)),
        seconds.rem_euclid(86_400),
    );
    let (year, month, day) = date;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `2026-11-22T01:02:03.000004Z`, the form of the API's `MicroTime`.
pub(super) fn rfc3339_micro(seconds: i64, micros: u32) -> String {
    let whole = rfc3339(seconds);
    format!("{}.{micros:06}Z", whole.trim_end_matches('Z'))
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
/// Counted in eras of 400 years that begin on 1 March, so that the leap day is a year's last.
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day.clamp(-100_000_000, 100_000_000) + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
        assert_eq!(rfc3339(951_870_599), "2000-03-01T00:29:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_252_765), "2026-11-21T09:19:25Z");
        assert_eq!(rfc3339_micro(0, 42), "1970-01-01T00:00:00.000042Z");
        rfc3339(i64::MAX);
        rfc3339(i64::MIN);
    }
}
