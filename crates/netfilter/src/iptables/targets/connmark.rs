//! `-j CONNMARK`.

use super::mark::{Xmark, parse_xmark, write_xmark};
use crate::iptables::name::Family;
use crate::iptables::syntax::segment::{Segment, needed, value};
use crate::iptables::syntax::text::{hex, option};
use crate::iptables::syntax::{Options, Parsed, values};

pub(crate) const NAMES: &[&str] = &["CONNMARK"];

pub(crate) const OPTIONS: Options = &[
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

/// The action of `CONNMARK`.
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

pub(crate) fn parse(_: Family, segment: &Segment<'_>) -> Parsed<Option<ConnmarkAction>> {
    let mut action = None;
    let (mut nfmask, mut ctmask) = (u32::MAX, u32::MAX);
    for item in &segment.items {
        match item.option {
            "--save-mark" => action = Some(ConnmarkAction::Save { nfmask, ctmask }),
            "--restore-mark" => action = Some(ConnmarkAction::Restore { nfmask, ctmask }),
            "--nfmask" => nfmask = values::number(value(item)?)?,
            "--ctmask" => ctmask = values::number(value(item)?)?,
            "--mask" => {
                nfmask = values::number(value(item)?)?;
                ctmask = nfmask;
            }
            option => {
                if let Some(xmark) = parse_xmark(option, value(item)?) {
                    action = Some(ConnmarkAction::Set(xmark?));
                }
            }
        }
    }
    let found = match needed(action, segment, "--set-xmark")? {
        ConnmarkAction::Save { .. } => ConnmarkAction::Save { nfmask, ctmask },
        ConnmarkAction::Restore { .. } => ConnmarkAction::Restore { nfmask, ctmask },
        set @ ConnmarkAction::Set(_) => set,
    };
    Ok(Some(found))
}

pub(crate) fn write(out: &mut String, action: &ConnmarkAction) {
    out.push_str(" -j CONNMARK");
    let (name, nfmask, ctmask) = match *action {
        ConnmarkAction::Set(xmark) => {
            out.push_str(" --set-xmark ");
            return write_xmark(out, xmark);
        }
        ConnmarkAction::Save { nfmask, ctmask } => ("--save-mark", nfmask, ctmask),
        ConnmarkAction::Restore { nfmask, ctmask } => ("--restore-mark", nfmask, ctmask),
    };
    option(out, name);
    out.push_str(" --nfmask ");
    hex(out, nfmask);
    out.push_str(" --ctmask ");
    hex(out, ctmask);
}

#[cfg(test)]
pub(crate) const EXAMPLES: &[&str] = &[
    "-j CONNMARK --set-xmark 0x4000",
    "-j CONNMARK --set-mark 0x4000",
    "-j CONNMARK --and-mark 0x4000",
    "-j CONNMARK --or-mark 0x4000",
    "-j CONNMARK --xor-mark 0x4000",
    "-j CONNMARK --save-mark --nfmask 0x1 --ctmask 0x2",
    "-j CONNMARK --restore-mark --mask 0xff",
];
