//! Times as the Kubernetes API writes them (RFC 3339, in UTC); `model` parses them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second that RFC 3339 can express, 9999-12-31T23:59:59Z.
const LAST: u64 = 253_402_300_799;

/// Format seconds since the epoch as `2026-11-22T01:02:03Z`. A time out of range becomes the
/// nearest one in range.
pub(super) fn rfc3339(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0).min(LAST);
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Format the current time as the API's `MicroTime`, `2026-11-22T01:02:03.000004Z`.
pub(super) fn now_micro() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_870_599), "2000-03-01T00:29:59Z");
        assert_eq!(rfc3339(i64::MIN), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T23:59:59Z");
    }
}
