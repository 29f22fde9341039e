//! Translation of addresses and ports, and packets that are handed over.

use super::Reader;
use crate::nft_list::statement::Slots;
use crate::nft_list::value::{IFINDEX, IP6ADDR, IPADDR, SERVICE, Type};

impl Reader<'_> {
    /// `NFTA_NAT_*`: type 1, family 2, addresses 3 and 4, ports 5 and 6, flags 7.
    pub(super) fn nat(&mut self, s: &Slots<'_>) -> Option<()> {
        let word = if s.number(1)? == 0 { "snat" } else { "dnat" };
        let family = s.number(2)?;
        let of = Type::of(if family == 10 { IP6ADDR } else { IPADDR });
        let flags = s.number_or(7, 0);
        let mut target = String::new();
        let mut named = !matches!(self.table.family, 2 | 10);
        if let Some(first) = s.number(3) {
            let mapped = self
                .registers
                .held(first)
                .is_some_and(|held| held.mapped.len() > 1);
            named |= mapped;
            let from = self.value(first, of)?;
            let range = match s.number(4).filter(|last| *last != first) {
                Some(last) if !mapped => Some(self.value(last, of)?),
                _ => None,
            };
            let address = match range.filter(|to| *to != from) {
                Some(to) => format!("{from}-{to}"),
                None => from,
            };
            let ports = s.number(5).filter(|_| !mapped);
            let constant = self
                .registers
                .held(first)
                .is_some_and(|held| held.constant.is_some());
            target = match family == 10 && ports.is_some() && constant {
                true => format!("[{address}]"),
                false => address,
            };
        }
        let mapped = s.number(3).and_then(|r| self.registers.held(r));
        let has_own_port = mapped.is_some_and(|held| held.mapped.len() > 1);
        if let Some(port) = s.number(5).filter(|_| !has_own_port) {
            target.push_str(&self.ports(port, s.number(6))?);
        }
        let family = match (named, family) {
            (false, _) => "",
            (true, 10) => " ip6",
            (true, _) => " ip",
        };
        if flags & 0x40 != 0 {
            return None;
        }
        self.push(format!("{word}{family} to {target}{}", nat_flags(flags)));
        Some(())
    }

    fn ports(&mut self, first: u32, last: Option<u32>) -> Option<String> {
        let from = self.value(first, Type::of(SERVICE))?;
        Some(match last.filter(|last| *last != first) {
            Some(last) => {
                let to = self.value(last, Type::of(SERVICE))?;
                if to == from {
                    format!(":{from}")
                } else {
                    format!(":{from}-{to}")
                }
            }
            None => format!(":{from}"),
        })
    }

    /// `NFTA_MASQ_*`: flags 1, ports 2 and 3; `NFTA_REDIR_*`: ports 1 and 2, flags 3.
    pub(super) fn local_nat(&mut self, name: &str, s: &Slots<'_>) -> Option<()> {
        let (word, flags, ports) = match name {
            "masq" => ("masquerade", 1, [2, 3]),
            _ => ("redirect", 3, [1, 2]),
        };
        let target = match s.number(ports[0]) {
            Some(first) => format!(" to {}", self.ports(first, s.number(ports[1]))?),
            None => String::new(),
        };
        let flags = nat_flags(s.number_or(flags, 0));
        self.push(format!("{word}{target}{flags}"));
        Some(())
    }

    pub(super) fn redirect(&mut self, name: &str, s: &Slots<'_>) -> Option<()> {
        let text = match name {
            "tproxy" => {
                let family = s.number_or(1, 0);
                let of = Type::of(if family == 10 { IP6ADDR } else { IPADDR });
                let mut text = "tproxy".to_owned();
                text.push_str(match family {
                    2 => " ip to ",
                    10 => " ip6 to ",
                    _ => " to ",
                });
                if let Some(address) = s.number(2) {
                    let address = self.value(address, of)?;
                    text.push_str(&if family == 10 {
                        format!("[{address}]")
                    } else {
                        address
                    });
                }
                if let Some(port) = s.number(3) {
                    text.push_str(&self.ports(port, None)?);
                }
                text
            }
            "dup" => format!("dup to {}", self.value(s.number(1)?, Type::of(IPADDR))?),
            _ => format!("fwd to {}", self.value(s.number(1)?, Type::of(IFINDEX))?),
        };
        self.push(text);
        Some(())
    }
}

/// `NF_NAT_RANGE_*`.
fn nat_flags(flags: u32) -> String {
    let words = [(4, "random"), (16, "fully-random"), (8, "persistent")];
    let set = words.iter().filter(|(bit, _)| flags & bit != 0);
    let words: Vec<&str> = set.map(|(_, word)| *word).collect();
    match words.is_empty() {
        true => String::new(),
        false => format!(" {}", words.join(",")),
    }
}
