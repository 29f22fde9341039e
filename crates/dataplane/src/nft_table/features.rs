//! The features of nf_tables that a mode uses and that a kernel may lack, each with operations that
//! the kernel refuses without it.

use model::IpFamily;
use netfilter::nft::{
    BaseChain, Chain, ChainKind, DataType, DynsetOp, Expr, FibAddress, Fields, Hook, Op, Policy,
    Reg, Set, SetData, SetFlags,
};

use super::build::{Build, Field};
use super::{base, reject};
use crate::Feature;

/// The table itself.
pub const TABLES: Feature = Feature::new("nf_tables", "nf_tables", "CONFIG_NF_TABLES");

/// The chain of the rules that are tried.
const CHAIN: &str = "try";
/// The set that rules update.
const LEARNED: &str = "learned";

/// Return the features of rules that choose endpoints and masquerade, in addition to [`relayed`].
pub(crate) fn balanced(family: IpFamily) -> Vec<(Feature, Op)> {
    let random = Feature::new("numgen", "nft_numgen", "CONFIG_NFT_NUMGEN");
    let masquerade = Feature::new("masquerade", "nft_masq", "CONFIG_NFT_MASQ");
    let learning = Feature::new("sets that rules update", "nf_tables", "CONFIG_NF_TABLES");
    let learn = Expr::Dynset {
        set: LEARNED.to_owned(),
        op: DynsetOp::Update,
        key: Reg::FIRST,
        data: None,
        timeout_ms: Some(1000),
    };
    let build = || Build::new(family);
    let mut tried = relayed(family);
    tried.extend([
        rule(random, build().load(&[Field::Random(2, 0)], Reg::FIRST)),
        rule(masquerade, build().masquerade()),
        (learning, Op::AddSet(learned())),
        rule(
            learning,
            build().load(&[Field::Protocol], Reg::FIRST).push(learn),
        ),
    ]);
    tried
}

/// Return the features of the tables of iptables' nf_tables back end. The first is the table's family.
pub fn chains(family: IpFamily) -> Vec<(Feature, Op)> {
    let name = match family {
        IpFamily::V4 => Feature::new("nf_tables family ip", "nf_tables", "CONFIG_NF_TABLES_IPV4"),
        IpFamily::V6 => Feature::new("nf_tables family ip6", "nf_tables", "CONFIG_NF_TABLES_IPV6"),
    };
    let nat = Feature::new("chains of type nat", "nft_chain_nat", "CONFIG_NFT_NAT");
    vec![
        (name, chain("filter", Some((ChainKind::Filter, 0)))),
        (nat, chain("nat", Some((ChainKind::Nat, base::NAT_DST)))),
        (name, chain(CHAIN, None)),
    ]
}

/// Return the features of rules that translate destinations. The first is the table's family.
pub(crate) fn relayed(family: IpFamily) -> Vec<(Feature, Op)> {
    let (fib, rejects) = match family {
        IpFamily::V4 => (
            Feature::new("fib", "nft_fib_ipv4", "CONFIG_NFT_FIB_IPV4"),
            Feature::new("reject", "nft_reject_ipv4", "CONFIG_NFT_REJECT_IPV4"),
        ),
        IpFamily::V6 => (
            Feature::new("fib", "nft_fib_ipv6", "CONFIG_NFT_FIB_IPV6"),
            Feature::new("reject", "nft_reject_ipv6", "CONFIG_NFT_REJECT_IPV6"),
        ),
    };
    let nat = Feature::new("dnat", "nft_nat", "CONFIG_NFT_NAT");
    let ct = Feature::new("ct", "nft_ct", "CONFIG_NFT_CT");
    let ranges = Feature::new(
        "sets of concatenations with ranges",
        "nf_tables",
        "Linux 5.6",
    );
    let build = || Build::new(family);
    let load = build().load(&[Field::Daddr, Field::Dport], Reg::FIRST);
    let mut tried = chains(family);
    tried.extend([
        (ranges, Op::AddSet(ranged(family))),
        rule(ct, build().if_new()),
        rule(fib, build().if_local(FibAddress::Destination)),
        rule(nat, load.dnat(Reg::FIRST)),
        rule(rejects, build().push(reject(family))),
    ]);
    tried
}

fn rule(feature: Feature, build: Build) -> (Feature, Op) {
    (feature, Op::AddRule(build.rule(CHAIN)))
}

fn chain(name: &str, base: Option<(ChainKind, i32)>) -> Op {
    Op::AddChain(Chain {
        name: name.to_owned(),
        base: base.map(|(kind, priority)| BaseChain {
            kind,
            hook: Hook::Prerouting,
            priority,
            policy: Policy::Accept,
        }),
        comment: None,
    })
}

fn set(name: &str, types: &[DataType], flags: SetFlags) -> Set {
    Set {
        name: name.to_owned(),
        key: Fields::Types(types.to_vec()),
        data: SetData::None,
        flags,
        timeout_ms: None,
        size: flags.dynamic.then_some(1),
        comment: None,
    }
}

fn learned() -> Set {
    let flags = SetFlags {
        timeout: true,
        dynamic: true,
        ..SetFlags::default()
    };
    set(LEARNED, &[DataType::InetProto], flags)
}

fn ranged(family: IpFamily) -> Set {
    let address = match family {
        IpFamily::V4 => DataType::Ipv4Addr,
        IpFamily::V6 => DataType::Ipv6Addr,
    };
    let flags = SetFlags {
        interval: true,
        ..SetFlags::default()
    };
    set("ranges", &[DataType::InetService, address], flags)
}

/// Return the expressions of a table that are neither part of every nf_tables nor tried.
#[cfg(test)]
pub(crate) fn untried<'a>(
    table: &'a netfilter::nft::table::Contents,
    tried: &[(Feature, Op)],
) -> Vec<&'a Expr> {
    let is_tried = |expr: &Expr| {
        tried.iter().any(|(_, op)| match op {
            Op::AddRule(rule) => rule
                .exprs
                .iter()
                .any(|e| std::mem::discriminant(e) == std::mem::discriminant(expr)),
            _ => false,
        })
    };
    let is_core = |expr: &Expr| {
        matches!(
            expr,
            Expr::Payload { .. }
                | Expr::Meta { .. }
                | Expr::MetaSet { .. }
                | Expr::Cmp { .. }
                | Expr::Bitwise { .. }
                | Expr::Lookup { .. }
                | Expr::Immediate { .. }
                | Expr::Verdict(_)
        )
    };
    let rules = table.chains.values().flat_map(|chain| &chain.rules);
    let exprs = rules.flat_map(|rule| &rule.exprs);
    exprs.filter(|e| !is_core(e) && !is_tried(e)).collect()
}
