//! What is refused, what is left out, and what is filled in.

use super::address::{parse_cidr, parse_ip};
use super::time::parse_rfc3339;

#[test]
fn addresses_are_read_as_the_api_reads_them() {
    let ip = |s: &str| parse_ip(s).map(|ip| ip.to_string());
    assert_eq!(ip("10.0.0.1").as_deref(), Some("10.0.0.1"));
    assert_eq!(ip("010.000.0.08").as_deref(), Some("10.0.0.8"));
    assert_eq!(ip("::ffff:10.0.0.1").as_deref(), Some("10.0.0.1"));
    assert_eq!(ip("FD00::1").as_deref(), Some("fd00::1"));
    for bad in [
        "",
        " ",
        "10.0.0",
        "10.0.0.1.2",
        "10.0.0.256",
        "10.0.0.-1",
        "10.0.0.1/32",
        "a.b.c.d",
        "1.2.3.",
        "fe80::1%eth0",
        ":::",
        "10.0.0.1 ",
        "１.2.3.4",
    ] {
        assert_eq!(ip(bad), None, "{bad:?}");
    }
}

#[test]
fn ranges_are_masked_and_may_be_padded() {
    let cidr = |s: &str| parse_cidr(s).map(|c| c.to_string());
    assert_eq!(cidr(" 10.1.2.3/8\t").as_deref(), Some("10.0.0.0/8"));
    assert_eq!(cidr("fd00::1/64").as_deref(), Some("fd00::/64"));
    assert_eq!(cidr("0.0.0.0/0").as_deref(), Some("0.0.0.0/0"));
    for bad in [
        "",
        "10.0.0.0",
        "10.0.0.0/33",
        "fd00::/129",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/-1",
        "10.0.0.0/08x",
        "::ffff:10.0.0.0/104",
        "/8",
    ] {
        assert_eq!(cidr(bad), None, "{bad:?}");
    }
}

#[test]
fn times_are_counted_from_the_epoch() {
    assert_eq!(parse_rfc3339("1970-01-01T00:00:00Z"), Some(0));
    assert_eq!(parse_rfc3339("2026-11-21T09:19:25Z"), Some(1_795_252_765));
    assert_eq!(
        parse_rfc3339("2026-11-21T09:19:25.123456789Z"),
        Some(1_795_252_765)
    );
    assert_eq!(
        parse_rfc3339("2026-11-21T10:19:25+01:00"),
        Some(1_795_252_765)
    );
    assert_eq!(
        parse_rfc3339("2000-02-29T23:59:59-00:30"),
        Some(951_870_599)
    );
    for bad in [
        "",
        "2026",
        "2026-11-21",
        "2026-13-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00+1:00",
        "-026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Zé",
    ] {
        assert_eq!(parse_rfc3339(bad), None, "{bad:?}");
    }
}
