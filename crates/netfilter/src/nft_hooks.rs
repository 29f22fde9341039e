//! The hooks of the IP layers as nfnetlink_hook reports them, in the order of the calls
//! (`linux/netfilter/nfnetlink_hook.h`).
//!
//! Since Linux 5.14, if the kernel has `CONFIG_NETFILTER_NETLINK_HOOK`. NAT chains are called by NAT instead
//! of their hook. The kernel lists them since Linux 7.1; before, it lists NAT's own function.

use crate::netlink::{
    Attribute, Attributes, Builder, DecodeError, NFGENMSG_LEN, NFNL_SUBSYS_HOOK, NFPROTO_INET,
    NFPROTO_IPV4, NFPROTO_IPV6, NLM_F_REQUEST, nfgenmsg, nfnl_msg_type,
};

const NFNL_MSG_HOOK_GET: u8 = 0;
const NFNLA_HOOK_HOOKNUM: u16 = 1;
const NFNLA_HOOK_PRIORITY: u16 = 2;
const NFNLA_HOOK_FUNCTION_NAME: u16 = 4;
const NFNLA_HOOK_CHAIN_INFO: u16 = 6;
const NFNLA_HOOK_INFO_DESC: u16 = 1;
const NFNLA_CHAIN_TABLE: u16 = 1;
const NFNLA_CHAIN_FAMILY: u16 = 2;
const NFNLA_CHAIN_NAME: u16 = 3;

/// The function of iptables-legacy's tables.
const LEGACY: [&str; 2] = ["ipt_do_table", "ip6t_do_table"];

/// The hooks of a family by number (`enum nf_inet_hooks`), with their built-in chains.
pub const HOOKS: [(u32, &str, &str); 5] = [
    (0, "prerouting", "PREROUTING"),
    (1, "input", "INPUT"),
    (2, "forward", "FORWARD"),
    (3, "output", "OUTPUT"),
    (4, "postrouting", "POSTROUTING"),
];

/// One function that a hook calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooked {
    /// Its priority.
    pub priority: i32,
    /// Its name; empty if the kernel hides symbols.
    pub function: String,
    /// Family, table and chain, if it runs a chain of nf_tables.
    pub chain: Option<(u8, String, String)>,
}

/// Return the request for a hook's functions.
pub fn request(family: u8, hook: u32) -> Vec<u8> {
    Builder::new(
        nfnl_msg_type(NFNL_SUBSYS_HOOK, NFNL_MSG_HOOK_GET),
        NLM_F_REQUEST,
    )
    .fixed(&nfgenmsg(family, 0))
    .bytes(NFNLA_HOOK_HOOKNUM, &hook.to_be_bytes())
    .finish()
}

impl Hooked {
    /// Decode the payload of a message.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let attrs = payload
            .get(NFGENMSG_LEN..)
            .ok_or(DecodeError::Header(payload.len()))?;
        let mut hooked = Self::default();
        for attr in Attributes::new(attrs, "nfnl_hook") {
            let attr = attr?;
            match attr.kind {
                NFNLA_HOOK_PRIORITY => hooked.priority = attr.be32()?.cast_signed(),
                NFNLA_HOOK_FUNCTION_NAME => hooked.function = attr.string_lossy(),
                NFNLA_HOOK_CHAIN_INFO => hooked.chain = chain(&attr)?,
                _ => {}
            }
        }
        Ok(hooked)
    }

    /// Return the chain as `ip nat PREROUTING`, with `legacy` before it for iptables-legacy; `None` for
    /// a function without a chain. `built_in` is the hook's chain in iptables.
    pub fn label(&self, family: u8, built_in: &str) -> Option<String> {
        if let Some((family, table, chain)) = &self.chain {
            return Some(format!("{} {table} {chain}", name(*family)?));
        }
        let table = match self.priority {
            -300 => "raw",
            -150 => "mangle",
            -100 | 100 => "nat",
            0 => "filter",
            50 => "security",
            _ => return None,
        };
        let is_legacy = LEGACY.contains(&&*self.function);
        is_legacy.then(|| Some(format!("legacy {} {table} {built_in}", name(family)?)))?
    }
}

fn name(family: u8) -> Option<&'static str> {
    Some(match family {
        NFPROTO_INET => "inet",
        NFPROTO_IPV4 => "ip",
        NFPROTO_IPV6 => "ip6",
        _ => return None,
    })
}

fn chain(info: &Attribute<'_>) -> Result<Option<(u8, String, String)>, DecodeError> {
    let (mut family, mut table, mut chain) = (None, None, None);
    for attr in info.nested("nfnl_hook_chain_info") {
        let attr = attr?;
        if attr.kind != NFNLA_HOOK_INFO_DESC {
            continue;
        }
        for attr in attr.nested("nfnl_hook_chain_desc") {
            let attr = attr?;
            match attr.kind {
                NFNLA_CHAIN_TABLE => table = Some(attr.string_lossy()),
                NFNLA_CHAIN_FAMILY => family = Some(attr.u8()?),
                NFNLA_CHAIN_NAME => chain = Some(attr.string_lossy()),
                _ => {}
            }
        }
    }
    Ok(family.zip(table).zip(chain).map(|((f, t), c)| (f, t, c)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Writer;

    /// Return a payload with what the kernel writes for a function (`nfnl_hook_dump_one`).
    fn payload(priority: i32, function: &str, chain: Option<(u8, &str, &str)>) -> Vec<u8> {
        let mut bytes = nfgenmsg(NFPROTO_IPV4, 0).to_vec();
        let mut w = Writer(&mut bytes);
        w.string(NFNLA_HOOK_FUNCTION_NAME, function);
        if let Some((family, table, name)) = chain {
            w.nest(NFNLA_HOOK_CHAIN_INFO, |w| {
                w.nest(NFNLA_HOOK_INFO_DESC, |w| {
                    w.string(NFNLA_CHAIN_TABLE, table);
                    w.string(NFNLA_CHAIN_NAME, name);
                    w.bytes(NFNLA_CHAIN_FAMILY, &[family]);
                });
            });
        }
        w.be32(NFNLA_HOOK_HOOKNUM, 0);
        w.be32(NFNLA_HOOK_PRIORITY, priority.cast_unsigned());
        bytes
    }

    fn label(payload: &[u8]) -> Option<String> {
        let hooked = Hooked::decode(payload).unwrap();
        hooked.label(NFPROTO_IPV4, "PREROUTING")
    }

    #[test]
    fn chains_of_both_back_ends_have_different_names() {
        let native = payload(-100, "nft_nat_do_chain", Some((2, "nat", "PREROUTING")));
        assert_eq!(label(&native).unwrap(), "ip nat PREROUTING");
        let legacy = payload(-100, "ipt_do_table", None);
        assert_eq!(label(&legacy).unwrap(), "legacy ip nat PREROUTING");
        let inet = payload(5, "nft_do_chain_inet", Some((1, "fw", "pre")));
        assert_eq!(label(&inet).unwrap(), "inet fw pre");
        assert_eq!(label(&payload(-100, "nf_nat_ipv4_pre_routing", None)), None);
        assert_eq!(label(&payload(-200, "ipv4_conntrack_in", None)), None);
    }

    #[test]
    fn damaged_messages_are_errors() {
        let whole = payload(-100, "nft_nat_do_chain", Some((2, "nat", "PREROUTING")));
        for length in 0..whole.len() {
            let _ = Hooked::decode(&whole[..length]);
        }
        assert!(Hooked::decode(&whole[..3]).is_err());
        assert!(Hooked::decode(&whole[..10]).is_err());
    }
}
