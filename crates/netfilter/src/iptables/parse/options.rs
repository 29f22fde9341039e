//! Which options the modelled extensions have, and how many values each takes.
//!
//! Needed before anything is interpreted: options of several extensions can be mixed in one rule
//! (`-m tcp -m comment --dport 80 --comment x`), and a value can look like an option.

type Options = &'static [(&'static str, u8)];

const PORTS: Options = &[
    ("--dport", 1),
    ("--sport", 1),
    ("--destination-port", 1),
    ("--source-port", 1),
];

const TCP: Options = &[
    ("--dport", 1),
    ("--sport", 1),
    ("--destination-port", 1),
    ("--source-port", 1),
    ("--tcp-flags", 2),
    ("--syn", 0),
    ("--tcp-option", 1),
];

const SCTP: Options = &[
    ("--dport", 1),
    ("--sport", 1),
    ("--destination-port", 1),
    ("--source-port", 1),
    ("--chunk-types", 2),
];

const MULTIPORT: Options = &[
    ("--dports", 1),
    ("--sports", 1),
    ("--ports", 1),
    ("--destination-ports", 1),
    ("--source-ports", 1),
];

const CONNTRACK: Options = &[
    ("--ctstate", 1),
    ("--ctproto", 1),
    ("--ctorigsrc", 1),
    ("--ctorigdst", 1),
    ("--ctreplsrc", 1),
    ("--ctrepldst", 1),
    ("--ctorigsrcport", 1),
    ("--ctorigdstport", 1),
    ("--ctreplsrcport", 1),
    ("--ctrepldstport", 1),
    ("--ctstatus", 1),
    ("--ctexpire", 1),
    ("--ctdir", 1),
];

const RECENT: Options = &[
    ("--set", 0),
    ("--rcheck", 0),
    ("--update", 0),
    ("--remove", 0),
    ("--seconds", 1),
    ("--reap", 0),
    ("--hitcount", 1),
    ("--rttl", 0),
    ("--name", 1),
    ("--mask", 1),
    ("--rsource", 0),
    ("--rdest", 0),
];

const MATCH_SET: Options = &[
    ("--match-set", 2),
    ("--set", 2),
    ("--return-nomatch", 0),
    ("--update-counters", 0),
    ("--update-subcounters", 0),
    ("--packets-eq", 1),
    ("--packets-lt", 1),
    ("--packets-gt", 1),
    ("--bytes-eq", 1),
    ("--bytes-lt", 1),
    ("--bytes-gt", 1),
];

const NAT: Options = &[
    ("--to-destination", 1),
    ("--to-source", 1),
    ("--random", 0),
    ("--random-fully", 0),
    ("--persistent", 0),
];

const CONNMARK: Options = &[
    ("--set-xmark", 1),
    ("--set-mark", 1),
    ("--and-mark", 1),
    ("--or-mark", 1),
    ("--xor-mark", 1),
    ("--save-mark", 0),
    ("--restore-mark", 0),
    ("--mask", 1),
    ("--nfmask", 1),
    ("--ctmask", 1),
];

const LOG: Options = &[
    ("--log-level", 1),
    ("--log-prefix", 1),
    ("--log-tcp-sequence", 0),
    ("--log-tcp-options", 0),
    ("--log-ip-options", 0),
    ("--log-uid", 0),
    ("--log-macdecode", 0),
];

const PHYSDEV: Options = &[
    ("--physdev-in", 1),
    ("--physdev-out", 1),
    ("--physdev-is-in", 0),
    ("--physdev-is-out", 0),
    ("--physdev-is-bridged", 0),
];

/// How many values an option of a match takes; `None` where the match is not modelled or has no
/// such option.
pub(super) fn of_match(name: &str, option: &str) -> Option<u8> {
    let options: Options = match name {
        "comment" => &[("--comment", 1)],
        "tcp" => TCP,
        "udp" => PORTS,
        "sctp" => SCTP,
        "multiport" => MULTIPORT,
        "mark" | "connmark" => &[("--mark", 1)],
        "conntrack" => CONNTRACK,
        "state" => &[("--state", 1)],
        "addrtype" => &[
            ("--src-type", 1),
            ("--dst-type", 1),
            ("--limit-iface-in", 0),
            ("--limit-iface-out", 0),
        ],
        "statistic" => &[
            ("--mode", 1),
            ("--probability", 1),
            ("--every", 1),
            ("--packet", 1),
        ],
        "recent" => RECENT,
        "nfacct" => &[("--nfacct-name", 1)],
        "set" => MATCH_SET,
        "physdev" => PHYSDEV,
        "limit" => &[("--limit", 1), ("--limit-burst", 1)],
        "icmp" => &[("--icmp-type", 1)],
        "icmp6" | "icmpv6" => &[("--icmpv6-type", 1)],
        "rpfilter" => &[
            ("--loose", 0),
            ("--validmark", 0),
            ("--accept-local", 0),
            ("--invert", 0),
        ],
        "owner" => &[
            ("--uid-owner", 1),
            ("--gid-owner", 1),
            ("--socket-exists", 0),
        ],
        "ipvs" => &[
            ("--ipvs", 0),
            ("--vproto", 1),
            ("--vaddr", 1),
            ("--vport", 1),
            ("--vdir", 1),
            ("--vmethod", 1),
            ("--vportctl", 1),
        ],
        "iprange" => &[("--src-range", 1), ("--dst-range", 1)],
        _ => return None,
    };
    find(options, option)
}

/// As [`of_match`], for a target.
pub(super) fn of_target(name: &str, option: &str) -> Option<u8> {
    let options: Options = match name {
        "REJECT" => &[("--reject-with", 1)],
        "MARK" => &[
            ("--set-xmark", 1),
            ("--set-mark", 1),
            ("--and-mark", 1),
            ("--or-mark", 1),
            ("--xor-mark", 1),
        ],
        "CONNMARK" => CONNMARK,
        "DNAT" | "SNAT" => NAT,
        "MASQUERADE" | "REDIRECT" => &[("--to-ports", 1), ("--random", 0), ("--random-fully", 0)],
        "CT" => &[
            ("--notrack", 0),
            ("--zone", 1),
            ("--helper", 1),
            ("--ctevents", 1),
            ("--expevents", 1),
            ("--zone-orig", 1),
            ("--zone-reply", 1),
            ("--timeout", 1),
        ],
        "LOG" => LOG,
        "NFLOG" => &[
            ("--nflog-prefix", 1),
            ("--nflog-group", 1),
            ("--nflog-range", 1),
            ("--nflog-size", 1),
            ("--nflog-threshold", 1),
        ],
        "TCPMSS" => &[("--set-mss", 1), ("--clamp-mss-to-pmtu", 0)],
        "SET" => &[
            ("--add-set", 2),
            ("--del-set", 2),
            ("--exist", 0),
            ("--timeout", 1),
        ],
        "TPROXY" => &[("--on-port", 1), ("--on-ip", 1), ("--tproxy-mark", 1)],
        _ => return None,
    };
    find(options, option)
}

fn find(options: Options, option: &str) -> Option<u8> {
    let found = options.iter().find(|(name, _)| *name == option);
    found.map(|(_, values)| *values)
}

/// Target extensions of the kernel that are not modelled; any other name is a chain's.
pub(super) const OTHER_TARGETS: &[&str] = &[
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CLUSTERIP",
    "CONNSECMARK",
    "DNPT",
    "DSCP",
    "ECN",
    "HL",
    "HMARK",
    "IDLETIMER",
    "LED",
    "NETMAP",
    "NFQUEUE",
    "QUEUE",
    "RATEEST",
    "SECMARK",
    "SNPT",
    "SYNPROXY",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TRACE",
    "TTL",
    "ULOG",
];
