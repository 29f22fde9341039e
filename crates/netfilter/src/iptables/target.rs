//! Targets (`-j`, `-g`). Names and meanings are those of iptables-extensions(8).

use std::net::IpAddr;

use super::{Chain, Extension, PortRange, SetDirection};

/// What becomes of a packet for which a rule's conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `-j CHAIN`: go on in this chain and come back behind this rule.
    Jump(Chain),
    /// `-g CHAIN`: go on in this chain and come back where the present one would have returned to.
    Goto(Chain),
    /// `ACCEPT`.
    Accept,
    /// `DROP`.
    Drop,
    /// `RETURN`: back to the calling chain; in a built-in chain, its policy.
    Return,
    /// `REJECT`: drop, and tell the sender.
    Reject(RejectWith),
    /// `MARK`: set the packet's mark; the packet goes on.
    Mark(Xmark),
    /// `CONNMARK`: the connection's mark; the packet goes on.
    Connmark(ConnmarkAction),
    /// `DNAT`.
    Dnat(NatTarget),
    /// `SNAT`.
    Snat(NatTarget),
    /// `MASQUERADE`: SNAT to the address of the interface through which the packet leaves.
    Masquerade(MasqueradeTarget),
    /// `REDIRECT`: DNAT to this host, to these ports.
    #[allow(missing_docs)]
    Redirect {
        ports: Option<PortRange>,
        random: bool,
    },
    /// `NOTRACK`, which newer versions print as `CT --notrack`.
    Notrack,
    /// `CT`: how the connection is tracked. Only in the raw table.
    Ct(Box<CtTarget>),
    /// `LOG`: to the kernel's log; the packet goes on.
    Log(Box<LogTarget>),
    /// `NFLOG`: to a netlink group; the packet goes on.
    Nflog(Box<NflogTarget>),
    /// `TCPMSS`: change the MSS option of a SYN; the packet goes on.
    Tcpmss(TcpmssTarget),
    /// `SET`: add the packet to an ipset, or take it out; the packet goes on.
    Set(Box<SetTarget>),
    /// `TPROXY`.
    Tproxy(Box<TproxyTarget>),
    /// Any other target extension, word for word.
    Unknown(Box<Extension>),
}

impl Target {
    /// The chain that a jump or goto leads to.
    pub fn chain(&self) -> Option<Chain> {
        match self {
            Target::Jump(chain) | Target::Goto(chain) => Some(*chain),
            _ => None,
        }
    }

    /// `MARK --or-mark BITS`.
    pub fn or_mark(bits: u32) -> Self {
        Target::Mark(Xmark {
            value: bits,
            mask: bits,
        })
    }

    /// `MARK --xor-mark BITS`.
    pub fn xor_mark(bits: u32) -> Self {
        Target::Mark(Xmark {
            value: bits,
            mask: 0,
        })
    }
}

/// `mark = (mark & !mask) ^ value`, what `--set-xmark VALUE/MASK` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Xmark {
    pub value: u32,
    pub mask: u32,
}

impl Xmark {
    /// The mark afterwards.
    pub fn apply(self, mark: u32) -> u32 {
        (mark & !self.mask) ^ self.value
    }
}

/// What `CONNMARK` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnmarkAction {
    /// Set the connection's mark.
    Set(Xmark),
    /// `--save-mark`: `connection = (connection & !ctmask) ^ (packet & nfmask)`.
    #[allow(missing_docs)]
    Save { nfmask: u32, ctmask: u32 },
    /// `--restore-mark`: `packet = (packet & !nfmask) ^ (connection & ctmask)`.
    #[allow(missing_docs)]
    Restore { nfmask: u32, ctmask: u32 },
}

/// The message with which `REJECT` answers, IPv4's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum RejectWith {
    IcmpNetUnreachable,
    IcmpHostUnreachable,
    IcmpPortUnreachable,
    IcmpProtoUnreachable,
    IcmpNetProhibited,
    IcmpHostProhibited,
    IcmpAdminProhibited,
    TcpReset,
    Icmp6NoRoute,
    Icmp6AdmProhibited,
    Icmp6AddrUnreachable,
    Icmp6PortUnreachable,
    Icmp6PolicyFail,
    Icmp6RejectRoute,
}

impl RejectWith {
    /// Names as iptables prints them.
    pub const NAMES: [(&'static str, RejectWith); 14] = [
        ("icmp-net-unreachable", RejectWith::IcmpNetUnreachable),
        ("icmp-host-unreachable", RejectWith::IcmpHostUnreachable),
        ("icmp-port-unreachable", RejectWith::IcmpPortUnreachable),
        ("icmp-proto-unreachable", RejectWith::IcmpProtoUnreachable),
        ("icmp-net-prohibited", RejectWith::IcmpNetProhibited),
        ("icmp-host-prohibited", RejectWith::IcmpHostProhibited),
        ("icmp-admin-prohibited", RejectWith::IcmpAdminProhibited),
        ("tcp-reset", RejectWith::TcpReset),
        ("icmp6-no-route", RejectWith::Icmp6NoRoute),
        ("icmp6-adm-prohibited", RejectWith::Icmp6AdmProhibited),
        ("icmp6-addr-unreachable", RejectWith::Icmp6AddrUnreachable),
        ("icmp6-port-unreachable", RejectWith::Icmp6PortUnreachable),
        ("icmp6-policy-fail", RejectWith::Icmp6PolicyFail),
        ("icmp6-reject-route", RejectWith::Icmp6RejectRoute),
    ];
}

/// `DNAT` and `SNAT`: where to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NatTarget {
    /// First and last address; equal for one. `None` where only the port is changed.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// First and last port; `None` where the port is kept.
    pub ports: Option<PortRange>,
    /// `--random`.
    pub random: bool,
    /// `--random-fully` (SNAT only).
    pub random_fully: bool,
    /// `--persistent`.
    pub persistent: bool,
}

impl NatTarget {
    /// To this address and port.
    pub fn to(ip: IpAddr, port: u16) -> Self {
        Self {
            addresses: Some((ip, ip)),
            ports: Some(PortRange::single(port)),
            ..Self::default()
        }
    }
}

/// `MASQUERADE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MasqueradeTarget {
    /// `--to-ports`.
    pub ports: Option<PortRange>,
    /// `--random`.
    pub random: bool,
    /// `--random-fully`.
    pub random_fully: bool,
}

/// `CT`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CtTarget {
    /// `--notrack`.
    pub notrack: bool,
    /// `--zone`.
    pub zone: Option<u16>,
    /// `--helper`.
    pub helper: Option<Box<str>>,
    /// The options that are not modelled, word for word.
    pub other: Vec<Box<str>>,
}

/// `LOG`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogTarget {
    /// `--log-level` as a number; 4 (warning) where none is given.
    pub level: Option<u8>,
    /// `--log-prefix`.
    pub prefix: Option<Box<str>>,
    /// `--log-tcp-sequence` and its like, in the order in which iptables prints them.
    pub flags: Vec<Box<str>>,
}

/// `NFLOG`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NflogTarget {
    /// `--nflog-prefix`.
    pub prefix: Option<Box<str>>,
    /// `--nflog-group`; 0 where none is given.
    pub group: u16,
    /// `--nflog-range` or `--nflog-size`, word for word.
    pub other: Vec<Box<str>>,
}

/// `TCPMSS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcpmssTarget {
    /// `--set-mss`.
    Set(u16),
    /// `--clamp-mss-to-pmtu`.
    ClampToPmtu,
}

/// `SET`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetTarget {
    /// `--del-set` rather than `--add-set`.
    pub delete: bool,
    /// The set.
    pub name: Box<str>,
    /// What of the packet makes each part of the element.
    pub directions: Vec<SetDirection>,
    /// `--exist`.
    pub exist: bool,
    /// `--timeout` in seconds.
    pub timeout: Option<u32>,
}

/// `TPROXY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TproxyTarget {
    /// `--on-port`.
    pub port: u16,
    /// `--on-ip`.
    pub ip: Option<IpAddr>,
    /// `--tproxy-mark`.
    pub mark: Option<Xmark>,
}
