//! What the tracer claims to understand, kind by kind, so that a test can tell whether each was
//! tried out. The compiler sees to it that no kind is missing.

use std::collections::BTreeSet;

use netfilter::iptables::{Header, Match, Rule, TableSet, Target};
use netfilter::nft::listing::{
    BinaryOp, Ct, Expr, FibResult, Field, Item, Meta, NatKind, Op, Ruleset, Set, SetOp, SetRef,
    Statement, Verdict,
};

/// A function from values to names, and the list of all names.
macro_rules! kinds {
    ($name:ident, $all:ident, $type:ty, $($pattern:pat => $word:literal),+ $(,)?) => {
        fn $name(of: &$type) -> &'static str {
            match of { $($pattern => $word),+ }
        }
        pub const $all: &[&str] = &[$($word),+];
    };
}

kinds!(match_name, MATCHES, Match,
    Match::Comment(_) => "-m comment",
    Match::Tcp(_) => "-m tcp",
    Match::Udp(_) => "-m udp",
    Match::Sctp(_) => "-m sctp",
    Match::Multiport(_) => "-m multiport",
    Match::Mark(_) => "-m mark",
    Match::Connmark(_) => "-m connmark",
    Match::Conntrack(_) => "-m conntrack",
    Match::State(_) => "-m state",
    Match::Addrtype(_) => "-m addrtype",
    Match::Statistic(_) => "-m statistic",
    Match::Recent(_) => "-m recent",
    Match::Nfacct(_) => "-m nfacct",
    Match::Set(_) => "-m set",
    Match::Physdev(_) => "-m physdev",
    Match::Limit(_) => "-m limit",
    Match::Icmp(_) => "-m icmp",
    Match::Rpfilter(_) => "-m rpfilter",
    Match::Owner(_) => "-m owner",
    Match::Ipvs(_) => "-m ipvs",
    Match::IpRange(_) => "-m iprange",
    Match::Unknown(_) => "-m another",
);

kinds!(target_name, TARGETS, Target,
    Target::Jump(_) => "-j CHAIN",
    Target::Goto(_) => "-g CHAIN",
    Target::Accept => "-j ACCEPT",
    Target::Drop => "-j DROP",
    Target::Return => "-j RETURN",
    Target::Reject(_) => "-j REJECT",
    Target::Mark(_) => "-j MARK",
    Target::Connmark(_) => "-j CONNMARK",
    Target::Dnat(_) => "-j DNAT",
    Target::Snat(_) => "-j SNAT",
    Target::Masquerade(_) => "-j MASQUERADE",
    Target::Redirect(_) => "-j REDIRECT",
    Target::Ct(_) => "-j CT",
    Target::Log(_) => "-j LOG",
    Target::Nflog(_) => "-j NFLOG",
    Target::Tcpmss(_) => "-j TCPMSS",
    Target::Set(_) => "-j SET",
    Target::Tproxy(_) => "-j TPROXY",
    Target::Unknown(_) => "-j ANOTHER",
);

kinds!(statement_name, STATEMENTS, Statement,
    Statement::Match { .. } => "match",
    Statement::Vmap { .. } => "vmap",
    Statement::Verdict(Verdict::Accept) => "accept",
    Statement::Verdict(Verdict::Drop) => "drop",
    Statement::Verdict(Verdict::Continue) => "continue",
    Statement::Verdict(Verdict::Return) => "return",
    Statement::Verdict(Verdict::Jump(_)) => "jump",
    Statement::Verdict(Verdict::Goto(_)) => "goto",
    Statement::Verdict(Verdict::Queue) => "queue",
    Statement::Assign { .. } => "assign",
    Statement::Nat(netfilter::nft::listing::Nat { kind: NatKind::Snat, .. }) => "snat",
    Statement::Nat(netfilter::nft::listing::Nat { kind: NatKind::Dnat, .. }) => "dnat",
    Statement::Nat(netfilter::nft::listing::Nat { kind: NatKind::Masquerade, .. }) => "masquerade",
    Statement::Nat(netfilter::nft::listing::Nat { kind: NatKind::Redirect, .. }) => "redirect",
    Statement::Reject(_) => "reject",
    Statement::Dynset { op: SetOp::Add, .. } => "add",
    Statement::Dynset { op: SetOp::Update, .. } => "update",
    Statement::Dynset { op: SetOp::Delete, .. } => "delete",
    Statement::Limit { .. } => "limit",
    Statement::Notrack => "notrack",
    Statement::Inert(_) => "inert",
    Statement::Unknown(_) => "another statement",
);

kinds!(expr_name, EXPRS, Expr,
    Expr::Field(Field::Saddr4) => "ip saddr",
    Expr::Field(Field::Daddr4) => "ip daddr",
    Expr::Field(Field::Saddr6) => "ip6 saddr",
    Expr::Field(Field::Daddr6) => "ip6 daddr",
    Expr::Field(Field::Protocol4) => "ip protocol",
    Expr::Field(Field::Nexthdr6) => "ip6 nexthdr",
    Expr::Field(Field::Sport(Some(_))) => "tcp sport",
    Expr::Field(Field::Sport(None)) => "th sport",
    Expr::Field(Field::Dport(Some(_))) => "tcp dport",
    Expr::Field(Field::Dport(None)) => "th dport",
    Expr::Field(Field::TcpFlags) => "tcp flags",
    Expr::Field(Field::IcmpType) => "icmp type",
    Expr::Field(Field::IcmpCode) => "icmp code",
    Expr::Field(Field::Icmpv6Type) => "icmpv6 type",
    Expr::Field(Field::Icmpv6Code) => "icmpv6 code",
    Expr::Field(Field::Version) => "ip version",
    Expr::Meta(Meta::L4proto) => "meta l4proto",
    Expr::Meta(Meta::Nfproto) => "meta nfproto",
    Expr::Meta(Meta::Protocol) => "meta protocol",
    Expr::Meta(Meta::Mark) => "meta mark",
    Expr::Meta(Meta::Iif) => "iif",
    Expr::Meta(Meta::Oif) => "oif",
    Expr::Meta(Meta::Iifname) => "iifname",
    Expr::Meta(Meta::Oifname) => "oifname",
    Expr::Meta(Meta::Pkttype) => "meta pkttype",
    Expr::Ct(Ct::State) => "ct state",
    Expr::Ct(Ct::Status) => "ct status",
    Expr::Ct(Ct::Mark) => "ct mark",
    Expr::Ct(Ct::Direction) => "ct direction",
    Expr::Ct(Ct::Saddr { reply: false }) => "ct original saddr",
    Expr::Ct(Ct::Saddr { reply: true }) => "ct reply saddr",
    Expr::Ct(Ct::Daddr { reply: false }) => "ct original daddr",
    Expr::Ct(Ct::Daddr { reply: true }) => "ct reply daddr",
    Expr::Ct(Ct::Sport { reply: false }) => "ct original proto-src",
    Expr::Ct(Ct::Sport { reply: true }) => "ct reply proto-src",
    Expr::Ct(Ct::Dport { reply: false }) => "ct original proto-dst",
    Expr::Ct(Ct::Dport { reply: true }) => "ct reply proto-dst",
    Expr::Ct(Ct::Protocol) => "ct protocol",
    Expr::Ct(Ct::L3proto) => "ct l3proto",
    Expr::Ct(Ct::Zone) => "ct zone",
    Expr::Fib(netfilter::nft::listing::Fib { result: FibResult::Type, .. }) => "fib type",
    Expr::Fib(netfilter::nft::listing::Fib { result: FibResult::Oif, .. }) => "fib oif",
    Expr::Fib(netfilter::nft::listing::Fib { result: FibResult::Oifname, .. }) => "fib oifname",
    Expr::Numgen { random: true, .. } => "numgen random",
    Expr::Numgen { random: false, .. } => "numgen inc",
    Expr::Hash { .. } => "jhash",
    Expr::Value(_) => "value",
    Expr::Flags(_) => "flags",
    Expr::Range(..) => "range",
    Expr::Prefix(_) => "prefix",
    Expr::Concat(_) => "concatenation",
    Expr::Set(_) => "set",
    Expr::SetName(_) => "@set",
    Expr::Map { .. } => "map",
    Expr::Binary { op: BinaryOp::And, .. } => "&",
    Expr::Binary { op: BinaryOp::Or, .. } => "|",
    Expr::Binary { op: BinaryOp::Xor, .. } => "^",
    Expr::Binary { op: BinaryOp::Shl, .. } => "<<",
    Expr::Binary { op: BinaryOp::Shr, .. } => ">>",
    Expr::Unknown(_) => "another expression",
);

kinds!(op_name, OPS, Op,
    Op::Implicit => "(is)",
    Op::Eq => "==",
    Op::Ne => "!=",
    Op::Lt => "<",
    Op::Gt => ">",
    Op::Le => "<=",
    Op::Ge => ">=",
    Op::Not => "!",
);

/// The header's conditions; destructured so that a new one is not forgotten.
fn header(h: &Header) -> Vec<&'static str> {
    let Header {
        source,
        destination,
        in_interface,
        out_interface,
        protocol,
        fragment,
    } = h;
    [
        (source.is_some(), "-s"),
        (destination.is_some(), "-d"),
        (in_interface.is_some(), "-i"),
        (out_interface.is_some(), "-o"),
        (protocol.is_some(), "-p"),
        (fragment.is_some(), "-f"),
    ]
    .into_iter()
    .filter_map(|(there, name)| there.then_some(name))
    .collect()
}

/// The kinds that a rule set of iptables uses.
pub fn of_iptables(set: &TableSet) -> BTreeSet<&'static str> {
    let chains = set.tables.values().flat_map(|t| t.chains.values());
    let rules: Vec<&Rule> = chains.flat_map(|c| &c.rules).collect();
    let mut all = BTreeSet::new();
    for rule in rules {
        all.extend(header(&rule.header));
        all.extend(rule.matches.iter().map(match_name));
        all.extend(rule.target.iter().map(target_name));
    }
    all
}

fn of_expr(e: &Expr, all: &mut BTreeSet<&'static str>) {
    all.insert(expr_name(e));
    match e {
        Expr::Concat(parts) => parts.iter().for_each(|p| of_expr(p, all)),
        Expr::Map { key, map } => {
            of_expr(key, all);
            of_map(map, all);
        }
        Expr::Binary { left, right, .. } => {
            of_expr(left, all);
            of_expr(right, all);
        }
        Expr::Set(set) => of_set(set, all),
        _ => {}
    }
}

fn of_map(map: &SetRef, all: &mut BTreeSet<&'static str>) {
    if let SetRef::Anonymous(set) = map {
        of_set(set, all);
    }
}

fn of_set(set: &Set, all: &mut BTreeSet<&'static str>) {
    for item in set.elements.iter().flat_map(|e| &e.key) {
        all.insert(match item {
            Item::Value(_) => "value",
            Item::Range(..) => "range",
            Item::Prefix(_) => "prefix",
        });
    }
}

/// The kinds that a rule set of nf_tables uses.
pub fn of_nft(ruleset: &Ruleset) -> BTreeSet<&'static str> {
    let chains = ruleset.tables.iter().flat_map(|t| &t.chains);
    let mut all = BTreeSet::new();
    for s in chains.flat_map(|c| &c.rules).flat_map(|r| &r.statements) {
        all.insert(statement_name(s));
        match s {
            Statement::Match { left, op, right } => {
                all.insert(op_name(op));
                of_expr(left, &mut all);
                of_expr(right, &mut all);
            }
            Statement::Vmap { key, map } => {
                of_expr(key, &mut all);
                of_map(map, &mut all);
            }
            Statement::Assign { field, value } => {
                of_expr(field, &mut all);
                of_expr(value, &mut all);
            }
            Statement::Dynset { key, .. } => of_expr(key, &mut all),
            _ => {}
        }
    }
    all
}
