//! Rules as text. The writer follows the contents of the registers through the expressions.

use super::super::consts::{ICMP_PORT_UNREACH, ICMPV6_PORT_UNREACH, RTN_LOCAL};
use super::super::consts::{IPS_DST_NAT, NF_CT_STATE_NEW_BIT, NF_NAT_RANGE_PROTO_RANDOM_FULLY};
use super::super::expr::{
    CmpOp, CtDirection, CtKey, DynsetOp, Expr, FibAddress, FibResult, LookupInto, MetaKey, Nat,
    NatKind, NumgenKind, PayloadBase, Reg, Reject,
};
use super::super::object::{DataType, Family, Rule, Verdict};
use super::super::table::Contents;
use super::super::value::Value;
use super::{Inexpressible, value};

/// The contents of a register.
#[derive(Clone, Debug)]
struct Held {
    /// nft's text of it.
    text: String,
    /// The kind of value.
    kind: Kind,
    /// The length in bytes.
    len: usize,
    /// The mask that was applied.
    mask: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data(DataType),
    CtState,
    CtStatus,
    FibType,
    Name,
    /// A map's data. nft can only use it at once and whole.
    Mapped,
    /// An address. nft can express it only together with a map's port.
    Constant,
}

struct Writer<'a> {
    family: Family,
    contents: &'a Contents,
    registers: [Option<Held>; 16],
    words: Vec<String>,
}

/// Return the text of a rule, with its comment.
///
/// # Errors
/// [`Inexpressible`] if nft cannot express it.
pub fn rule_text(
    family: Family,
    contents: &Contents,
    rule: &Rule,
) -> Result<String, Inexpressible> {
    let mut writer = Writer {
        family,
        contents,
        registers: Default::default(),
        words: Vec::new(),
    };
    for expr in &rule.exprs {
        writer.expr(expr)?;
    }
    if let Some(comment) = &rule.comment {
        writer.words.push(format!("comment \"{comment}\""));
    }
    Ok(writer.words.join(" "))
}

/// Return nft's text of the verdict.
pub(super) fn verdict_text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Drop => "drop".to_owned(),
        Verdict::Accept => "accept".to_owned(),
        Verdict::Continue => "continue".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
    }
}

impl Writer<'_> {
    fn say(&mut self, text: impl Into<String>) {
        self.words.push(text.into());
    }

    fn hold(&mut self, dreg: Reg, text: impl Into<String>, kind: Kind, len: usize) {
        let first = usize::from(dreg.unit());
        for register in self.registers.iter_mut().skip(first).take(len.div_ceil(4)) {
            *register = None;
        }
        if let Some(register) = self.registers.get_mut(first) {
            *register = Some(Held {
                text: text.into(),
                kind,
                len,
                mask: None,
            });
        }
    }

    fn held(&self, sreg: Reg) -> Result<&Held, Inexpressible> {
        self.registers
            .get(usize::from(sreg.unit()))
            .and_then(Option::as_ref)
            .ok_or(Inexpressible("a register that was never loaded"))
    }

    #[expect(
        clippy::too_many_lines,
        reason = "exhaustive match over all expressions"
    )]
    fn expr(&mut self, expr: &Expr) -> Result<(), Inexpressible> {
        match expr {
            Expr::Payload {
                base,
                offset,
                len,
                dreg,
            } => self.payload(*base, *offset, *len, *dreg)?,
            Expr::Meta { key, dreg } => {
                let (text, kind, len) = meta(*key)?;
                self.hold(*dreg, text, kind, len);
            }
            Expr::MetaSet { key, sreg } => {
                let (text, _, _) = meta(*key)?;
                let from = self.held(*sreg)?.text.clone();
                self.say(format!("{text} set {from}"));
            }
            Expr::Cmp { op, sreg, value } => self.compare(*op, *sreg, value)?,
            Expr::Bitwise {
                sreg,
                dreg,
                mask,
                xor,
            } => self.bitwise(*sreg, *dreg, mask, xor)?,
            Expr::Lookup {
                set,
                sreg,
                into,
                inverted,
            } => self.lookup(set, *sreg, *into, *inverted)?,
            Expr::Ct {
                key,
                direction,
                dreg,
            } => {
                let (text, kind, len) = ct(*key, *direction)?;
                self.hold(*dreg, text, kind, len);
            }
            Expr::Fib {
                address,
                result: FibResult::AddressType,
                dreg,
            } => {
                let text = match address {
                    FibAddress::Source => "fib saddr type",
                    FibAddress::Destination => "fib daddr type",
                };
                self.hold(*dreg, text, Kind::FibType, 4);
            }
            Expr::Numgen {
                kind,
                modulus,
                offset,
                dreg,
            } => self.numgen(*kind, *modulus, *offset, *dreg),
            Expr::Immediate { value, dreg } => {
                let bytes = value.as_bytes();
                let kind = match self.family {
                    Family::Ip6 => DataType::Ipv6Addr,
                    Family::Ip | Family::Inet => DataType::Ipv4Addr,
                };
                if bytes.len() != kind.size() {
                    return Err(Inexpressible("a constant other than an address"));
                }
                let text = value::scalar(kind, bytes);
                self.hold(*dreg, text, Kind::Constant, bytes.len());
            }
            Expr::Verdict(v) => self.say(verdict_text(v)),
            Expr::Dynset {
                set,
                op,
                key,
                data,
                timeout_ms,
            } => self.dynset(set, *op, *key, *data, *timeout_ms)?,
            Expr::Nat(nat) => self.nat(nat)?,
            Expr::Masquerade { flags } => {
                let flags = nat_flags(*flags);
                self.say(format!("masquerade{flags}"));
            }
            Expr::Reject(reject) => self.reject(*reject)?,
            Expr::Counter { packets, bytes } => {
                self.say(format!("counter packets {packets} bytes {bytes}"));
            }
            Expr::Byteorder { .. } => return Err(Inexpressible("a byte order conversion")),
            Expr::Fib {
                result: FibResult::Oif | FibResult::OifName,
                ..
            }
            | Expr::Redirect { .. }
            | Expr::Limit { .. }
            | Expr::Range { .. }
            | Expr::Match { .. }
            | Expr::Target { .. }
            | Expr::Log { .. }
            | Expr::Objref { .. } => {
                return Err(Inexpressible("an expression that sluice does not program"));
            }
        }
        Ok(())
    }

    fn payload(
        &mut self,
        base: PayloadBase,
        offset: u32,
        len: u32,
        dreg: Reg,
    ) -> Result<(), Inexpressible> {
        let len = len as usize;
        let address = match self.family {
            Family::Ip6 => DataType::Ipv6Addr,
            Family::Ip | Family::Inet => DataType::Ipv4Addr,
        };
        let (text, kind) = match (base, self.family, offset, len) {
            (PayloadBase::Network, Family::Ip, 12, 1..=4) => ("ip saddr", address),
            (PayloadBase::Network, Family::Ip, 16, 1..=4) => ("ip daddr", address),
            (PayloadBase::Network, Family::Ip6, 8, 1..=16) => ("ip6 saddr", address),
            (PayloadBase::Network, Family::Ip6, 24, 1..=16) => ("ip6 daddr", address),
            (PayloadBase::Transport, _, 0, 2) => ("th sport", DataType::InetService),
            (PayloadBase::Transport, _, 2, 2) => ("th dport", DataType::InetService),
            _ => return Err(Inexpressible("this header field")),
        };
        self.hold(dreg, text, Kind::Data(kind), len);
        Ok(())
    }

    fn numgen(&mut self, kind: NumgenKind, modulus: u32, offset: u32, dreg: Reg) {
        let word = match kind {
            NumgenKind::Incremental => "inc",
            NumgenKind::Random => "random",
        };
        let mut text = format!("numgen {word} mod {modulus}");
        if offset != 0 {
            text.push_str(&format!(" offset {offset}"));
        }
        self.hold(dreg, text, Kind::Data(DataType::Integer), 4);
    }

    fn compare(&mut self, op: CmpOp, sreg: Reg, value: &Value) -> Result<(), Inexpressible> {
        let held = self.held(sreg)?.clone();
        let op = match op {
            CmpOp::Eq => "",
            CmpOp::Neq => "!= ",
            CmpOp::Lt => "< ",
            CmpOp::Lte => "<= ",
            CmpOp::Gt => "> ",
            CmpOp::Gte => ">= ",
        };
        let bytes = value.as_bytes();
        let number = || host_number(bytes);
        let right = match (held.kind, &held.mask) {
            (Kind::Data(t @ (DataType::Ipv4Addr | DataType::Ipv6Addr)), mask) => {
                let length = match mask {
                    Some(mask) => value::mask_length(mask.as_bytes())
                        .ok_or(Inexpressible("a non-contiguous address mask"))?,
                    None => held.len * 8,
                };
                value::prefix(bytes, t.size(), length)
            }
            (Kind::Data(DataType::Mark), Some(mask)) => {
                let mask = value::scalar(DataType::Mark, mask.as_bytes());
                let op = if op.is_empty() { "== " } else { op };
                let right = value::scalar(DataType::Mark, bytes);
                self.say(format!("{} & {mask} {op}{right}", held.text));
                return Ok(());
            }
            (Kind::CtState | Kind::CtStatus, Some(mask))
                if matches!(op, "" | "!= ") && number() == Some(0) =>
            {
                let word = match (held.kind, host_number(mask.as_bytes())) {
                    (Kind::CtState, Some(NF_CT_STATE_NEW_BIT)) => "new",
                    (Kind::CtStatus, Some(IPS_DST_NAT)) => "dnat",
                    _ => return Err(Inexpressible("this conntrack state")),
                };
                let none = if op.is_empty() { "! " } else { "" };
                self.say(format!("{} {none}{word}", held.text));
                return Ok(());
            }
            (Kind::FibType, None) if number() == Some(RTN_LOCAL) => "local".to_owned(),
            (Kind::Name, None) => name(bytes, held.len)?,
            (Kind::Data(t), None) => value::scalar(t, bytes),
            _ => return Err(Inexpressible("this comparison")),
        };
        self.say(format!("{} {op}{right}", held.text));
        Ok(())
    }

    fn bitwise(
        &mut self,
        sreg: Reg,
        dreg: Reg,
        mask: &Value,
        xor: &Value,
    ) -> Result<(), Inexpressible> {
        let held = self.held(sreg)?.clone();
        let no_xor = xor.as_bytes().iter().all(|b| *b == 0);
        if held.mask.is_none() && no_xor {
            self.hold(dreg, held.text, held.kind, held.len);
            if let Some(Some(h)) = self.registers.get_mut(usize::from(dreg.unit())) {
                h.mask = Some(*mask);
            }
            return Ok(());
        }
        let all_ones = mask.as_bytes().iter().all(|b| *b == 0xff);
        let opposite = mask
            .as_bytes()
            .iter()
            .zip(xor.as_bytes())
            .all(|(m, x)| *m == !*x);
        let (Kind::Data(DataType::Mark), None) = (held.kind, held.mask) else {
            return Err(Inexpressible("this bit operation"));
        };
        let right = value::scalar(DataType::Mark, xor.as_bytes());
        let text = match (all_ones, opposite) {
            (true, _) => format!("{} ^ {right}", held.text),
            (false, true) => format!("{} | {right}", held.text),
            _ => return Err(Inexpressible("a mask combined with an exclusive-or")),
        };
        self.hold(dreg, text, held.kind, held.len);
        Ok(())
    }

    /// Return the text of a key of `len` bytes from a register on.
    fn key(&self, from: Reg, len: usize) -> Result<String, Inexpressible> {
        let mut parts = Vec::new();
        let (mut at, mut taken) = (from, 0);
        loop {
            let held = self.held(at)?;
            if matches!(held.kind, Kind::Mapped | Kind::Constant) || held.mask.is_some() {
                return Err(Inexpressible("a key from data other than the packet"));
            }
            parts.push(held.text.as_str());
            taken += held.len.next_multiple_of(4);
            if taken >= len {
                return Ok(parts.join(" . "));
            }
            at = at.after(held.len);
        }
    }

    fn lookup(
        &mut self,
        set: &str,
        sreg: Reg,
        into: LookupInto,
        inverted: bool,
    ) -> Result<(), Inexpressible> {
        let declared = &self
            .contents
            .sets
            .get(set)
            .ok_or(Inexpressible("a set that does not exist in the table"))?
            .set;
        let key = self.key(sreg, declared.key.len())?;
        let len = match &declared.data {
            super::super::object::SetData::Fields(fields) => fields.len(),
            _ => 0,
        };
        match into {
            LookupInto::Nothing if inverted => self.say(format!("{key} != @{set}")),
            LookupInto::Nothing => self.say(format!("{key} @{set}")),
            LookupInto::Verdict => self.say(format!("{key} vmap @{set}")),
            LookupInto::Register(dreg) => {
                self.hold(dreg, format!("{key} map @{set}"), Kind::Mapped, len);
            }
        }
        Ok(())
    }

    fn dynset(
        &mut self,
        set: &str,
        op: DynsetOp,
        key: Reg,
        data: Option<Reg>,
        timeout_ms: Option<u64>,
    ) -> Result<(), Inexpressible> {
        let declared = &self
            .contents
            .sets
            .get(set)
            .ok_or(Inexpressible("a set that does not exist in the table"))?
            .set;
        let key = self.key(key, declared.key.len())?;
        if data.is_some() {
            return Err(Inexpressible("an element whose data comes from a register"));
        }
        let op = match op {
            DynsetOp::Add => "add",
            DynsetOp::Update => "update",
            DynsetOp::Delete => "delete",
        };
        let timeout = timeout_ms.map_or(String::new(), |ms| format!(" timeout {ms}ms"));
        self.say(format!("{op} @{set} {{ {key}{timeout} }}"));
        Ok(())
    }

    fn nat(&mut self, nat: &Nat) -> Result<(), Inexpressible> {
        let word = match nat.kind {
            NatKind::Source => "snat",
            NatKind::Destination => "dnat",
        };
        let address = nat
            .address
            .ok_or(Inexpressible("a translation of only the port"))?;
        let held = self.held(address)?;
        if held.kind == Kind::Constant {
            return self.nat_to_port(nat, word, &held.text.clone());
        }
        let split = nat.port.is_some_and(|port| port.unit() <= address.unit());
        if held.kind != Kind::Mapped || split {
            return Err(Inexpressible(
                "a translation to data that is not from a map",
            ));
        }
        let text = format!(
            "{word} {} to {}{}",
            nat.family.word(),
            held.text,
            nat_flags(nat.flags)
        );
        self.say(text);
        Ok(())
    }

    /// Translate to an address and a map's port. nft requires a match on protocols with ports; the kernel
    /// does not, and the map has no data for others.
    fn nat_to_port(&mut self, nat: &Nat, word: &str, address: &str) -> Result<(), Inexpressible> {
        let port = nat
            .port
            .ok_or(Inexpressible("a translation of only the address"))?;
        let held = self.held(port)?;
        if held.kind != Kind::Mapped {
            return Err(Inexpressible(
                "a translation to a port that is not from a map",
            ));
        }
        let address = match nat.family {
            Family::Ip6 => format!("[{address}]"),
            Family::Ip | Family::Inet => address.to_owned(),
        };
        let text = format!(
            "meta l4proto {{ tcp, udp, sctp }} {word} {} to {address}:{}{}",
            nat.family.word(),
            held.text,
            nat_flags(nat.flags)
        );
        self.say(text);
        Ok(())
    }

    fn reject(&mut self, reject: Reject) -> Result<(), Inexpressible> {
        let text = match (reject, self.family) {
            (Reject::Icmp(ICMP_PORT_UNREACH), Family::Ip)
            | (Reject::Icmp(ICMPV6_PORT_UNREACH), Family::Ip6) => "reject",
            (Reject::TcpReset, _) => "reject with tcp reset",
            _ => return Err(Inexpressible("this reject code")),
        };
        self.say(text);
        Ok(())
    }
}

fn nat_flags(flags: u32) -> &'static str {
    if flags & NF_NAT_RANGE_PROTO_RANDOM_FULLY != 0 {
        " fully-random"
    } else {
        ""
    }
}

fn host_number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Return the text of an interface name; without the terminating NUL it is a prefix.
fn name(bytes: &[u8], len: usize) -> Result<String, Inexpressible> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = bytes
        .get(..end)
        .and_then(|b| std::str::from_utf8(b).ok())
        .ok_or(Inexpressible("an interface name that is not UTF-8"))?;
    let star = if bytes.len() < len { "*" } else { "" };
    Ok(format!("\"{text}{star}\""))
}

fn meta(key: MetaKey) -> Result<(&'static str, Kind, usize), Inexpressible> {
    Ok(match key {
        MetaKey::Mark => ("meta mark", Kind::Data(DataType::Mark), 4),
        MetaKey::L4proto => ("meta l4proto", Kind::Data(DataType::InetProto), 1),
        MetaKey::IifName => ("iifname", Kind::Name, 16),
        MetaKey::OifName => ("oifname", Kind::Name, 16),
        _ => return Err(Inexpressible("this meta key")),
    })
}

fn ct(
    key: CtKey,
    direction: Option<CtDirection>,
) -> Result<(&'static str, Kind, usize), Inexpressible> {
    match (key, direction) {
        (CtKey::State, None) => Ok(("ct state", Kind::CtState, 4)),
        (CtKey::Status, None) => Ok(("ct status", Kind::CtStatus, 4)),
        _ => Err(Inexpressible("this ct key")),
    }
}
