//! Every kind of match, target and expression that the tracer supports, so that a test can check that
//! each was used. The compiler ensures that none is missing.

use std::collections::BTreeSet;

use netfilter::iptables::{Header, Match, Rule, TableSet, Target};
use netfilter::nft_lang::{
    BinaryOp, Ct, FibField, Field, Item, Meta, NatType, Op, Ruleset, SetDecl, SetOp, SetRef,
    Statement, Term, VerdictStatement,
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
    Statement::Verdict(VerdictStatement::Accept) => "accept",
    Statement::Verdict(VerdictStatement::Drop) => "drop",
    Statement::Verdict(VerdictStatement::Continue) => "continue",
    Statement::Verdict(VerdictStatement::Return) => "return",
    Statement::Verdict(VerdictStatement::Jump(_)) => "jump",
    Statement::Verdict(VerdictStatement::Goto(_)) => "goto",
    Statement::Verdict(VerdictStatement::Queue) => "queue",
    Statement::Assign { .. } => "assign",
    Statement::Nat(netfilter::nft_lang::NatStatement { kind: NatType::Snat, .. }) => "snat",
    Statement::Nat(netfilter::nft_lang::NatStatement { kind: NatType::Dnat, .. }) => "dnat",
    Statement::Nat(netfilter::nft_lang::NatStatement { kind: NatType::Masquerade, .. }) => "masquerade",
    Statement::Nat(netfilter::nft_lang::NatStatement { kind: NatType::Redirect, .. }) => "redirect",
    Statement::Reject(_) => "reject",
    Statement::Dynset { op: SetOp::Add, .. } => "add",
    Statement::Dynset { op: SetOp::Update, .. } => "update",
    Statement::Dynset { op: SetOp::Delete, .. } => "delete",
    Statement::Limit { .. } => "limit",
    Statement::Notrack => "notrack",
    Statement::Inert(_) => "inert",
    Statement::Unknown(_) => "another statement",
);

kinds!(expr_name, EXPRS, Term,
    Term::Field(Field::Saddr4) => "ip saddr",
    Term::Field(Field::Daddr4) => "ip daddr",
    Term::Field(Field::Saddr6) => "ip6 saddr",
    Term::Field(Field::Daddr6) => "ip6 daddr",
    Term::Field(Field::Protocol4) => "ip protocol",
    Term::Field(Field::Nexthdr6) => "ip6 nexthdr",
    Term::Field(Field::Sport(Some(_))) => "tcp sport",
    Term::Field(Field::Sport(None)) => "th sport",
    Term::Field(Field::Dport(Some(_))) => "tcp dport",
    Term::Field(Field::Dport(None)) => "th dport",
    Term::Field(Field::TcpFlags) => "tcp flags",
    Term::Field(Field::IcmpType) => "icmp type",
    Term::Field(Field::IcmpCode) => "icmp code",
    Term::Field(Field::Icmpv6Type) => "icmpv6 type",
    Term::Field(Field::Icmpv6Code) => "icmpv6 code",
    Term::Field(Field::Version) => "ip version",
    Term::Meta(Meta::L4proto) => "meta l4proto",
    Term::Meta(Meta::Nfproto) => "meta nfproto",
    Term::Meta(Meta::Protocol) => "meta protocol",
    Term::Meta(Meta::Mark) => "meta mark",
    Term::Meta(Meta::Iif) => "iif",
    Term::Meta(Meta::Oif) => "oif",
    Term::Meta(Meta::Iifname) => "iifname",
    Term::Meta(Meta::Oifname) => "oifname",
    Term::Meta(Meta::Pkttype) => "meta pkttype",
    Term::Ct(Ct::State) => "ct state",
    Term::Ct(Ct::Status) => "ct status",
    Term::Ct(Ct::Mark) => "ct mark",
    Term::Ct(Ct::Direction) => "ct direction",
    Term::Ct(Ct::Saddr { reply: false }) => "ct original saddr",
    Term::Ct(Ct::Saddr { reply: true }) => "ct reply saddr",
    Term::Ct(Ct::Daddr { reply: false }) => "ct original daddr",
    Term::Ct(Ct::Daddr { reply: true }) => "ct reply daddr",
    Term::Ct(Ct::Sport { reply: false }) => "ct original proto-src",
    Term::Ct(Ct::Sport { reply: true }) => "ct reply proto-src",
    Term::Ct(Ct::Dport { reply: false }) => "ct original proto-dst",
    Term::Ct(Ct::Dport { reply: true }) => "ct reply proto-dst",
    Term::Ct(Ct::Protocol) => "ct protocol",
    Term::Ct(Ct::L3proto) => "ct l3proto",
    Term::Ct(Ct::Zone) => "ct zone",
    Term::Fib(netfilter::nft_lang::FibLookup { result: FibField::Type, .. }) => "fib type",
    Term::Fib(netfilter::nft_lang::FibLookup { result: FibField::Oif, .. }) => "fib oif",
    Term::Fib(netfilter::nft_lang::FibLookup { result: FibField::Oifname, .. }) => "fib oifname",
    Term::Numgen { random: true, .. } => "numgen random",
    Term::Numgen { random: false, .. } => "numgen inc",
    Term::Hash { .. } => "jhash",
    Term::Value(_) => "value",
    Term::Flags(_) => "flags",
    Term::Range(..) => "range",
    Term::Prefix(_) => "prefix",
    Term::Concat(_) => "concatenation",
    Term::Set(_) => "set",
    Term::SetName(_) => "@set",
    Term::Map { .. } => "map",
    Term::Binary { op: BinaryOp::And, .. } => "&",
    Term::Binary { op: BinaryOp::Or, .. } => "|",
    Term::Binary { op: BinaryOp::Xor, .. } => "^",
    Term::Binary { op: BinaryOp::Shl, .. } => "<<",
    Term::Binary { op: BinaryOp::Shr, .. } => ">>",
    Term::Unknown(_) => "another expression",
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

/// The header's conditions, destructured so that a new one is an error.
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

fn of_expr(e: &Term, all: &mut BTreeSet<&'static str>) {
    all.insert(expr_name(e));
    match e {
        Term::Concat(parts) => parts.iter().for_each(|p| of_expr(p, all)),
        Term::Map { key, map } => {
            of_expr(key, all);
            of_map(map, all);
        }
        Term::Binary { left, right, .. } => {
            of_expr(left, all);
            of_expr(right, all);
        }
        Term::Set(set) => of_set(set, all),
        _ => {}
    }
}

fn of_map(map: &SetRef, all: &mut BTreeSet<&'static str>) {
    if let SetRef::Anonymous(set) = map {
        of_set(set, all);
    }
}

fn of_set(set: &SetDecl, all: &mut BTreeSet<&'static str>) {
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
