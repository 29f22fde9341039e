//! Targets as nft_compat expressions (`target`).

use std::net::IpAddr;

use super::info::{Reader, Writer};
use super::{SetIndex, Unsupported, foreign, sets};
use crate::iptables::{
    ConnmarkAction, CtTarget, Family, LogTarget, MasqueradeTarget, NatTarget, NflogTarget,
    PortRange, RedirectTarget, RejectWith, Target, TcpmssTarget, TproxyTarget, Xmark,
};
use crate::nft::Expr;

fn made(name: &str, revision: u32, info: Writer) -> Expr {
    Expr::Target {
        name: name.into(),
        revision,
        info: info.finish(),
    }
}

fn unsupported<T>(what: &str) -> Result<T, Unsupported> {
    Err(Unsupported::new(what))
}

/// Encode a target other than a verdict as the iptables tools do.
pub(crate) fn encode(
    family: Family,
    target: &Target,
    index: &SetIndex,
) -> Result<Expr, Unsupported> {
    let v6 = family == Family::Ipv6;
    Ok(match target {
        Target::Reject(with) => {
            let mut w = Writer::new(4);
            let numbers = reject_numbers(family).iter();
            let number = numbers.copied().find(|(_, w)| w == with);
            let Some((number, _)) = number else {
                return unsupported("this REJECT in this family");
            };
            w.u32(0, number);
            made("REJECT", 0, w)
        }
        Target::Mark(mark) => {
            let mut w = Writer::new(8);
            w.u32(0, mark.value);
            w.u32(4, mark.mask);
            made("MARK", 2, w)
        }
        Target::Connmark(action) => made("CONNMARK", 2, put_connmark(*action)),
        Target::Dnat(nat) => made("DNAT", 2, Range::of(nat).put_range2()),
        Target::Snat(nat) => made("SNAT", v6.into(), Range::of(nat).put(family)),
        Target::Masquerade(m) => {
            let range = Range {
                ports: m.ports,
                random: m.random,
                random_fully: m.random_fully,
                ..Range::default()
            };
            made("MASQUERADE", 0, range.put(family))
        }
        Target::Redirect(r) => {
            let range = Range {
                ports: r.ports,
                random: r.random,
                ..Range::default()
            };
            made("REDIRECT", 0, range.put(family))
        }
        Target::Ct(ct) => made("CT", 2, put_ct(ct)?),
        Target::Log(log) => made("LOG", 0, put_log(log)?),
        Target::Nflog(nflog) => made("NFLOG", 0, put_nflog(nflog)?),
        Target::Tcpmss(tcpmss) => {
            let mut w = Writer::new(2);
            match tcpmss {
                TcpmssTarget::Set(mss) => w.u16(0, *mss),
                TcpmssTarget::ClampToPmtu => w.u16(0, XT_TCPMSS_CLAMP_PMTU),
            }
            made("TCPMSS", 0, w)
        }
        Target::Tproxy(tproxy) => made("TPROXY", 1, put_tproxy(tproxy)),
        Target::Set(set) => made("SET", 3, sets::put_target(set, index)?),
        Target::Unknown(extension) => return unsupported(&format!("target {}", extension.name)),
        Target::Jump(_) | Target::Goto(_) | Target::Accept | Target::Drop | Target::Return => {
            return unsupported("a verdict as a target");
        }
    })
}

/// Reads a structure of a sufficient size.
type Decode = fn(Reader<'_>, Family) -> Result<Target, Unsupported>;

/// Decode a target.
pub(crate) fn decode(
    family: Family,
    name: &str,
    revision: u32,
    info: &[u8],
    index: &SetIndex,
) -> Result<Target, Unsupported> {
    let r = Reader(info);
    if name == "SET" && info.len() >= sets::target_size(revision) {
        let set = sets::get_target(r, revision, index)?;
        return Ok(Target::Set(Box::new(set)));
    }
    let single = match family {
        Family::Ipv4 => 20,
        Family::Ipv6 => 40,
    };
    let (size, decoded): (usize, Decode) = match (name, revision) {
        ("REJECT", 0) => (4, get_reject),
        ("MARK", 2) => (8, |r, _| Ok(Target::Mark(get_xmark(r)))),
        ("CONNMARK", 1 | 2) => (if revision == 1 { 13 } else { 15 }, get_connmark),
        ("DNAT", 2) => (42, |r, f| Ok(Target::Dnat(Range::get_range2(r, f)?.nat()))),
        ("DNAT", 0 | 1) => (single, |r, f| Ok(Target::Dnat(Range::get(r, f)?.nat()))),
        ("SNAT", 0 | 1) => (single, |r, f| Ok(Target::Snat(Range::get(r, f)?.nat()))),
        ("MASQUERADE", 0) => (single, |r, f| {
            let range = Range::get(r, f)?;
            Ok(Target::Masquerade(MasqueradeTarget {
                ports: range.ports,
                random: range.random,
                random_fully: range.random_fully,
            }))
        }),
        ("REDIRECT", 0) => (single, |r, f| {
            let range = Range::get(r, f)?;
            Ok(Target::Redirect(RedirectTarget {
                ports: range.ports,
                random: range.random,
            }))
        }),
        ("CT", 1 | 2) => (60, get_ct),
        ("NOTRACK", 0) => (0, |_, _| Ok(notrack())),
        ("LOG", 0) => (32, get_log),
        ("NFLOG", 0) => (76, get_nflog),
        ("TCPMSS", 0) => (2, |r, _| {
            Ok(Target::Tcpmss(match r.u16(0) {
                XT_TCPMSS_CLAMP_PMTU => TcpmssTarget::ClampToPmtu,
                mss => TcpmssTarget::Set(mss),
            }))
        }),
        ("TPROXY", 1) => (26, |r, f| Ok(get_tproxy(r, f))),
        _ => {
            let found = foreign::read_target(family, name, revision, info);
            let found = found.map(|extension| Target::Unknown(Box::new(extension)));
            let what = || Unsupported::new(format!("target {name} revision {revision}"));
            return found.ok_or_else(what);
        }
    };
    if info.len() < size {
        return unsupported(&format!("target {name} of {} bytes", info.len()));
    }
    decoded(r, family)
}

/// `enum ipt_reject_with`.
const REJECT_V4: &[(u32, RejectWith)] = &[
    (0, RejectWith::IcmpNetUnreachable),
    (1, RejectWith::IcmpHostUnreachable),
    (2, RejectWith::IcmpProtoUnreachable),
    (3, RejectWith::IcmpPortUnreachable),
    (5, RejectWith::IcmpNetProhibited),
    (6, RejectWith::IcmpHostProhibited),
    (7, RejectWith::TcpReset),
    (8, RejectWith::IcmpAdminProhibited),
];
/// `enum ip6t_reject_with`.
const REJECT_V6: &[(u32, RejectWith)] = &[
    (0, RejectWith::Icmp6NoRoute),
    (1, RejectWith::Icmp6AdmProhibited),
    (3, RejectWith::Icmp6AddrUnreachable),
    (4, RejectWith::Icmp6PortUnreachable),
    (6, RejectWith::TcpReset),
    (7, RejectWith::Icmp6PolicyFail),
    (8, RejectWith::Icmp6RejectRoute),
];

fn reject_numbers(family: Family) -> &'static [(u32, RejectWith)] {
    match family {
        Family::Ipv4 => REJECT_V4,
        Family::Ipv6 => REJECT_V6,
    }
}

fn get_reject(r: Reader<'_>, family: Family) -> Result<Target, Unsupported> {
    let number = r.u32(0);
    let found = reject_numbers(family).iter().find(|(n, _)| *n == number);
    match found {
        Some((_, with)) => Ok(Target::Reject(*with)),
        None => unsupported("this REJECT"),
    }
}

fn get_xmark(r: Reader<'_>) -> Xmark {
    Xmark {
        value: r.u32(0),
        mask: r.u32(4),
    }
}

/// `struct xt_connmark_tginfo2`: `ctmark`, `ctmask`, `nfmask`, `shift_dir`, `shift_bits`, `mode`.
fn put_connmark(action: ConnmarkAction) -> Writer {
    let mut w = Writer::new(15);
    let (ctmark, ctmask, nfmask, mode) = match action {
        ConnmarkAction::Set(mark) => (mark.value, mark.mask, u32::MAX, 0),
        ConnmarkAction::Save { nfmask, ctmask } => (0, ctmask, nfmask, 1),
        ConnmarkAction::Restore { nfmask, ctmask } => (0, ctmask, nfmask, 2),
    };
    w.u32(0, ctmark);
    w.u32(4, ctmask);
    w.u32(8, nfmask);
    w.u8(14, mode);
    w
}

/// Revision 1 has the mode where revision 2 has the shift.
fn get_connmark(r: Reader<'_>, _: Family) -> Result<Target, Unsupported> {
    let (ctmask, nfmask) = (r.u32(4), r.u32(8));
    let mode = match (r.u8(12), r.u8(13), r.u8(14)) {
        (mode, 0, 0) if mode != 0 => mode,
        (0, 0, mode) => mode,
        _ => return unsupported("CONNMARK with a shift"),
    };
    Ok(Target::Connmark(match mode {
        0 => ConnmarkAction::Set(get_xmark(r)),
        1 => ConnmarkAction::Save { nfmask, ctmask },
        2 => ConnmarkAction::Restore { nfmask, ctmask },
        _ => return unsupported("CONNMARK of this mode"),
    }))
}

// `NF_NAT_RANGE_*`.
const RANGE_MAP_IPS: u32 = 1;
const RANGE_PROTO_SPECIFIED: u32 = 2;
const RANGE_PROTO_RANDOM: u32 = 4;
const RANGE_PERSISTENT: u32 = 8;
const RANGE_PROTO_RANDOM_FULLY: u32 = 16;
const RANGE_ALL: u32 = 31;

/// The range of a translation.
#[derive(Clone, Copy, Default)]
struct Range {
    addresses: Option<(IpAddr, IpAddr)>,
    ports: Option<PortRange>,
    random: bool,
    random_fully: bool,
    persistent: bool,
}

impl Range {
    fn of(nat: &NatTarget) -> Self {
        Self {
            addresses: nat.addresses,
            ports: nat.ports,
            random: nat.random,
            random_fully: nat.random_fully,
            persistent: nat.persistent,
        }
    }

    fn nat(self) -> NatTarget {
        NatTarget {
            addresses: self.addresses,
            ports: self.ports,
            random: self.random,
            random_fully: self.random_fully,
            persistent: self.persistent,
        }
    }

    fn flags(&self) -> u32 {
        let set = [
            (self.addresses.is_some(), RANGE_MAP_IPS),
            (self.ports.is_some(), RANGE_PROTO_SPECIFIED),
            (self.random, RANGE_PROTO_RANDOM),
            (self.persistent, RANGE_PERSISTENT),
            (self.random_fully, RANGE_PROTO_RANDOM_FULLY),
        ];
        set.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum()
    }

    fn put_fields(&self, w: &mut Writer, flags: usize, addresses: [usize; 2], ports: usize) {
        w.u32(flags, self.flags());
        if let Some((first, last)) = self.addresses {
            w.ip(addresses[0], first);
            w.ip(addresses[1], last);
        }
        if let Some(range) = self.ports {
            w.be16(ports, range.first);
            w.be16(ports + 2, range.last);
        }
    }

    /// `struct nf_nat_ipv4_multi_range_compat` or `struct nf_nat_range`.
    fn put(&self, family: Family) -> Writer {
        match family {
            Family::Ipv4 => {
                let mut w = Writer::new(20);
                w.u32(0, 1);
                self.put_fields(&mut w, 4, [8, 12], 16);
                w
            }
            Family::Ipv6 => {
                let mut w = Writer::new(40);
                self.put_fields(&mut w, 0, [4, 20], 36);
                w
            }
        }
    }

    /// `struct nf_nat_range2`.
    fn put_range2(&self) -> Writer {
        let mut w = Writer::new(42);
        self.put_fields(&mut w, 0, [4, 20], 36);
        w
    }

    fn get(r: Reader<'_>, family: Family) -> Result<Self, Unsupported> {
        match family {
            Family::Ipv4 if r.u32(0) != 1 => unsupported("a translation to several ranges"),
            Family::Ipv4 => Self::get_fields(r, family, 4, [8, 12], 16),
            Family::Ipv6 => Self::get_fields(r, family, 0, [4, 20], 36),
        }
    }

    fn get_range2(r: Reader<'_>, family: Family) -> Result<Self, Unsupported> {
        Self::get_fields(r, family, 0, [4, 20], 36)
    }

    fn get_fields(
        r: Reader<'_>,
        family: Family,
        flags: usize,
        addresses: [usize; 2],
        ports: usize,
    ) -> Result<Self, Unsupported> {
        let flags = r.u32(flags);
        if flags & !RANGE_ALL != 0 {
            return unsupported("a translation with these flags");
        }
        let [first, last] = addresses.map(|at| r.ip(at, family));
        Ok(Self {
            addresses: (flags & RANGE_MAP_IPS != 0).then_some((first, last)),
            ports: (flags & RANGE_PROTO_SPECIFIED != 0).then(|| PortRange {
                first: r.be16(ports),
                last: r.be16(ports + 2),
            }),
            random: flags & RANGE_PROTO_RANDOM != 0,
            random_fully: flags & RANGE_PROTO_RANDOM_FULLY != 0,
            persistent: flags & RANGE_PERSISTENT != 0,
        })
    }
}

// `struct xt_ct_target_info_v1` and `XT_CT_*`.
const XT_CT_NOTRACK: u16 = 1;
const XT_CT_NOTRACK_ALIAS: u16 = 2;
const XT_CT_ZONE_DIR_ORIG: u16 = 4;
const XT_CT_ZONE_DIR_REPL: u16 = 8;
const XT_CT_ZONE_MARK: u16 = 16;
const CT_EVENTS: usize = 4;
const CT_EXPECT_EVENTS: usize = 8;
const CT_HELPER: usize = 12;
const CT_HELPER_LEN: usize = 16;
const CT_TIMEOUT: usize = 28;
const CT_TIMEOUT_LEN: usize = 32;
/// `IPCT_*` of `linux/netfilter/nf_conntrack_common.h`, in the order of the bits.
const CT_EVENT_NAMES: [&str; 10] = [
    "new",
    "related",
    "destroy",
    "reply",
    "assured",
    "protoinfo",
    "helper",
    "mark",
    "natseqinfo",
    "secmark",
];
/// `IPEXP_NEW`.
const CT_EXPECT_EVENT_NAMES: [&str; 1] = ["new"];

fn notrack() -> Target {
    Target::Ct(Box::new(CtTarget {
        notrack: true,
        ..CtTarget::default()
    }))
}

fn put_ct(ct: &CtTarget) -> Result<Writer, Unsupported> {
    let mut w = Writer::new(72);
    let mut flags = flag_if(ct.notrack, XT_CT_NOTRACK);
    let mut zone = ct.zone.unwrap_or_default();
    for (option, value) in options(&ct.other, "CT")? {
        match option {
            "--zone-orig" | "--zone-reply" => {
                flags |= match option {
                    "--zone-orig" => XT_CT_ZONE_DIR_ORIG,
                    _ => XT_CT_ZONE_DIR_REPL,
                };
                zone = number(value, "CT")?;
            }
            "--zone" if value == "mark" => flags |= XT_CT_ZONE_MARK,
            "--ctevents" => w.u32(CT_EVENTS, event_bits(value, &CT_EVENT_NAMES)?),
            "--expevents" => w.u32(CT_EXPECT_EVENTS, event_bits(value, &CT_EXPECT_EVENT_NAMES)?),
            "--timeout" => w.text(CT_TIMEOUT, CT_TIMEOUT_LEN, value)?,
            _ => return unsupported("CT with these options"),
        }
    }
    w.u16(0, flags);
    w.u16(2, zone);
    w.text(
        CT_HELPER,
        CT_HELPER_LEN,
        ct.helper.as_deref().unwrap_or_default(),
    )?;
    Ok(w)
}

fn get_ct(r: Reader<'_>, _: Family) -> Result<Target, Unsupported> {
    let flags = r.u16(0);
    let tracking = XT_CT_NOTRACK | XT_CT_NOTRACK_ALIAS;
    let mut zone = Some(r.u16(2)).filter(|zone| *zone != 0);
    let mut other: Vec<Box<str>> = Vec::new();
    let mut add = |option: &str, value: String| other.extend([option.into(), value.into()]);
    let timeout = r.text(CT_TIMEOUT, CT_TIMEOUT_LEN)?;
    if !timeout.is_empty() {
        add("--timeout", timeout.to_owned());
    }
    for (at, names, option) in [
        (CT_EVENTS, &CT_EVENT_NAMES[..], "--ctevents"),
        (CT_EXPECT_EVENTS, &CT_EXPECT_EVENT_NAMES, "--expevents"),
    ] {
        if r.u32(at) != 0 {
            add(option, event_names(r.u32(at), names)?);
        }
    }
    match flags & !tracking {
        0 => {}
        XT_CT_ZONE_MARK => add("--zone", "mark".to_owned()),
        XT_CT_ZONE_DIR_ORIG => add("--zone-orig", zone.take().unwrap_or_default().to_string()),
        XT_CT_ZONE_DIR_REPL => add("--zone-reply", zone.take().unwrap_or_default().to_string()),
        _ => return unsupported("CT with these options"),
    }
    let helper = r.text(CT_HELPER, CT_HELPER_LEN)?;
    Ok(Target::Ct(Box::new(CtTarget {
        notrack: flags & tracking != 0,
        zone,
        helper: (!helper.is_empty()).then(|| helper.into()),
        other,
    })))
}

fn flag_if(on: bool, flag: u16) -> u16 {
    if on { flag } else { 0 }
}

fn event_bits(list: &str, names: &[&str]) -> Result<u32, Unsupported> {
    let bit = |name: &str| {
        let position = names.iter().position(|known| *known == name);
        let position = position.ok_or_else(|| Unsupported::new(format!("the event {name}")))?;
        Ok(1 << position)
    };
    list.split(',')
        .try_fold(0, |bits, name| Ok(bits | bit(name)?))
}

fn event_names(bits: u32, names: &[&str]) -> Result<String, Unsupported> {
    if bits >> names.len() != 0 {
        return unsupported("CT with these events");
    }
    let set = names.iter().enumerate();
    let set = set.filter(|(position, _)| bits & 1 << position != 0);
    let set: Vec<&str> = set.map(|(_, name)| *name).collect();
    Ok(set.join(","))
}

/// Return the options with one value each of a list of words.
fn options<'a>(
    words: &'a [Box<str>],
    target: &str,
) -> Result<impl Iterator<Item = (&'a str, &'a str)>, Unsupported> {
    let (pairs, []) = words.as_chunks::<2>() else {
        return unsupported(&format!("{target} with these options"));
    };
    Ok(pairs.iter().map(|[option, value]| (&**option, &**value)))
}

fn number<T: std::str::FromStr>(text: &str, target: &str) -> Result<T, Unsupported> {
    let invalid = |_| Unsupported::new(format!("{target} with the number {text:?}"));
    text.parse().map_err(invalid)
}

/// `XT_LOG_*`, in the order of the bits.
const LOG_FLAGS: [&str; 5] = [
    "--log-tcp-sequence",
    "--log-tcp-options",
    "--log-ip-options",
    "--log-uid",
    "--log-macdecode",
];
/// `LOG_DEFAULT_LEVEL` of iptables.
const LOG_DEFAULT_LEVEL: u8 = 4;
const LOG_PREFIX_LEN: usize = 30;

/// `struct xt_log_info`. The flags other than macdecode are those of `linux/netfilter/nf_log.h`.
fn put_log(log: &LogTarget) -> Result<Writer, Unsupported> {
    let mut w = Writer::new(32);
    w.u8(0, log.level.unwrap_or(LOG_DEFAULT_LEVEL));
    let mut flags = 0;
    for name in &log.flags {
        match LOG_FLAGS.iter().position(|known| **known == **name) {
            // `XT_LOG_NFLOG` (0x10) lies between `--log-uid` and `--log-macdecode`.
            Some(4) => flags |= 0x20,
            Some(bit) => flags |= 1 << bit,
            None => return unsupported("LOG with these options"),
        }
    }
    w.u8(1, flags);
    let prefix = log.prefix.as_deref().unwrap_or_default();
    w.text(2, LOG_PREFIX_LEN, prefix)?;
    Ok(w)
}

fn get_log(r: Reader<'_>, _: Family) -> Result<Target, Unsupported> {
    let flags = r.u8(1);
    let bits = [1, 2, 4, 8, 0x20];
    if flags & !0x2f != 0 {
        return unsupported("LOG with these flags");
    }
    let names = LOG_FLAGS.iter().zip(bits);
    let level = r.u8(0);
    let prefix = r.text(2, LOG_PREFIX_LEN)?;
    Ok(Target::Log(Box::new(LogTarget {
        level: (level != LOG_DEFAULT_LEVEL).then_some(level),
        prefix: (!prefix.is_empty()).then(|| prefix.into()),
        flags: names
            .filter(|(_, bit)| flags & bit != 0)
            .map(|(name, _)| (*name).into())
            .collect(),
    })))
}

const NFLOG_PREFIX_LEN: usize = 64;

/// `XT_NFLOG_F_COPY_LEN`: the length is `--nflog-size` and not `--nflog-range`, which has no effect.
const XT_NFLOG_F_COPY_LEN: u16 = 1;

/// `struct xt_nflog_info`: `len`, `group`, `threshold`, `flags`, `pad`, `prefix`.
fn put_nflog(nflog: &NflogTarget) -> Result<Writer, Unsupported> {
    let mut w = Writer::new(76);
    w.u16(4, nflog.group);
    for (option, value) in options(&nflog.other, "NFLOG")? {
        match option {
            "--nflog-size" => {
                w.u32(0, number(value, "NFLOG")?);
                w.u16(8, XT_NFLOG_F_COPY_LEN);
            }
            "--nflog-range" => w.u32(0, number(value, "NFLOG")?),
            "--nflog-threshold" => w.u16(6, number(value, "NFLOG")?),
            _ => return unsupported("NFLOG with these options"),
        }
    }
    let prefix = nflog.prefix.as_deref().unwrap_or_default();
    w.text(12, NFLOG_PREFIX_LEN, prefix)?;
    Ok(w)
}

fn get_nflog(r: Reader<'_>, _: Family) -> Result<Target, Unsupported> {
    let (len, threshold, flags) = (r.u32(0), r.u16(6), r.u16(8));
    let size = match flags {
        0 => None,
        XT_NFLOG_F_COPY_LEN => Some(len),
        _ => return unsupported("NFLOG with these flags"),
    };
    let range = (size.is_none() && len != 0).then_some(len);
    let prefix = r.text(12, NFLOG_PREFIX_LEN)?;
    let threshold = (threshold != 0).then_some(threshold);
    Ok(nflog(r.u16(4), prefix, [size, range], threshold))
}

/// Return an `NFLOG` with its size, its range and its threshold.
pub(super) fn nflog(
    group: u16,
    prefix: &str,
    [size, range]: [Option<u32>; 2],
    threshold: Option<u16>,
) -> Target {
    let numbers = [
        ("--nflog-size", size),
        ("--nflog-range", range),
        ("--nflog-threshold", threshold.map(u32::from)),
    ];
    let given = numbers
        .iter()
        .filter_map(|(option, number)| Some((*option, (*number)?)));
    Target::Nflog(Box::new(NflogTarget {
        prefix: (!prefix.is_empty()).then(|| prefix.into()),
        group,
        other: given
            .flat_map(|(option, number)| [option.into(), number.to_string().into()])
            .collect(),
    }))
}

const XT_TCPMSS_CLAMP_PMTU: u16 = 0xffff;

/// `struct xt_tproxy_target_info_v1`: `mark_mask`, `mark_value`, `laddr`, `lport`.
fn put_tproxy(tproxy: &TproxyTarget) -> Writer {
    let mut w = Writer::new(26);
    if let Some(mark) = tproxy.mark {
        w.u32(0, mark.mask);
        w.u32(4, mark.value);
    }
    if let Some(ip) = tproxy.ip {
        w.ip(8, ip);
    }
    w.be16(24, tproxy.port);
    w
}

fn get_tproxy(r: Reader<'_>, family: Family) -> Target {
    let (mask, value) = (r.u32(0), r.u32(4));
    let ip = r.ip(8, family);
    Target::Tproxy(Box::new(TproxyTarget {
        port: r.be16(24),
        ip: (!ip.is_unspecified()).then_some(ip),
        mark: (mask != 0).then_some(Xmark { value, mask }),
    }))
}
