//! Targets (`-j`, `-g`), one file for each extension. Names and meanings are those of
//! iptables-extensions(8).
//!
//! A file contains the extension's type, names, options, parser and writer, and examples that cover
//! every option. The table below is the only list of them.

pub(crate) mod connmark;
pub(crate) mod ct;
pub(crate) mod dnat;
pub(crate) mod log;
pub(crate) mod mark;
pub(crate) mod masquerade;
pub(crate) mod nat;
pub(crate) mod nflog;
pub(crate) mod notrack;
pub(crate) mod redirect;
pub(crate) mod reject;
pub(crate) mod set;
pub(crate) mod snat;
pub(crate) mod tcpmss;
pub(crate) mod tproxy;

use super::extension::{Row, extensions};
use super::name::{Chain, Family};
use super::syntax::segment::{Extension, Segment, plain};
use super::syntax::text::{raw_word, words};
use super::syntax::{Fault, Options, Parsed};

/// The action of a rule on a packet that satisfies every condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `-j CHAIN`: call the chain; a return continues after this rule.
    Jump(Chain),
    /// `-g CHAIN`: continue in the chain; a return goes to the caller of the present chain.
    Goto(Chain),
    /// `ACCEPT`.
    Accept,
    /// `DROP`.
    Drop,
    /// `RETURN`: back to the calling chain; in a built-in chain, its policy.
    Return,
    /// `REJECT`: drop, and notify the sender.
    Reject(reject::RejectWith),
    /// `MARK`: set the packet's mark; the packet continues.
    Mark(mark::Xmark),
    /// `CONNMARK`: the connection's mark; the packet continues.
    Connmark(connmark::ConnmarkAction),
    /// `DNAT`.
    Dnat(nat::NatTarget),
    /// `SNAT`.
    Snat(nat::NatTarget),
    /// `MASQUERADE`: SNAT to the address of the output interface.
    Masquerade(masquerade::MasqueradeTarget),
    /// `REDIRECT`.
    Redirect(redirect::RedirectTarget),
    /// `CT`: how the connection is tracked, and `NOTRACK`. Only in the raw table.
    Ct(Box<ct::CtTarget>),
    /// `LOG`: to the kernel's log; the packet continues.
    Log(Box<log::LogTarget>),
    /// `NFLOG`: to a netlink group; the packet continues.
    Nflog(Box<nflog::NflogTarget>),
    /// `TCPMSS`: change the MSS option of a SYN; the packet continues.
    Tcpmss(tcpmss::TcpmssTarget),
    /// `SET`: add the packet to an ipset, or remove it; the packet continues.
    Set(Box<set::SetTarget>),
    /// `TPROXY`.
    Tproxy(Box<tproxy::TproxyTarget>),
    /// Any other target extension, word for word.
    Unknown(Box<Extension>),
}

impl Target {
    /// Return the chain of a jump or goto.
    pub fn chain(&self) -> Option<Chain> {
        match self {
            Target::Jump(chain) | Target::Goto(chain) => Some(*chain),
            _ => None,
        }
    }

    /// `MARK --or-mark BITS`.
    pub fn or_mark(bits: u32) -> Self {
        Target::Mark(mark::Xmark {
            value: bits,
            mask: bits,
        })
    }

    /// `MARK --xor-mark BITS`.
    pub fn xor_mark(bits: u32) -> Self {
        Target::Mark(mark::Xmark {
            value: bits,
            mask: 0,
        })
    }
}

extensions! {
    Target, " -j ", |out| {
        Target::Jump(chain) => chain_name(out, " -j ", chain),
        Target::Goto(chain) => chain_name(out, " -g ", chain),
        Target::Accept => out.push_str(" -j ACCEPT"),
        Target::Drop => out.push_str(" -j DROP"),
        Target::Return => out.push_str(" -j RETURN"),
    }
    Reject => reject,
    Mark => mark,
    Connmark => connmark,
    Dnat => dnat,
    Snat => snat,
    Masquerade => masquerade,
    Redirect => redirect,
    Ct => ct | notrack,
    Log => log,
    Nflog => nflog,
    Tcpmss => tcpmss,
    Set => set,
    Tproxy => tproxy,
}

fn chain_name(out: &mut String, option: &str, chain: &Chain) {
    out.push_str(option);
    out.push_str(chain.as_str());
}

/// Return the options of a target; empty for standard targets and chains. `None` for an extension that is
/// not modelled.
pub(crate) fn options(name: &str) -> Option<Options> {
    match Row::find(ROWS, name) {
        Some(row) => Some(row.options),
        None if OTHER_TARGETS.contains(&name) => None,
        None => Some(&[]),
    }
}

/// Build the target of a segment. An extension with options beyond the model is kept word for word;
/// a name that is not an extension is a chain.
pub(crate) fn build(family: Family, segment: &Segment<'_>) -> Parsed<Target> {
    let unknown = || Target::Unknown(Box::new(segment.verbatim()));
    if segment.foreign || OTHER_TARGETS.contains(&segment.name) {
        return Ok(unknown());
    }
    for item in &segment.items {
        plain(item)?;
    }
    if let Some(row) = Row::find(ROWS, segment.name) {
        return Ok((row.parse)(family, segment)?.unwrap_or_else(unknown));
    }
    Ok(match segment.name {
        "ACCEPT" => Target::Accept,
        "DROP" => Target::Drop,
        "RETURN" => Target::Return,
        name => {
            let chain = Chain::new(name).map_err(|e| Fault::new(segment.column, e.to_string()))?;
            Target::Jump(chain)
        }
    })
}

/// Target extensions of the kernel that are not modelled; any other name is a chain.
const OTHER_TARGETS: &[&str] = &[
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
