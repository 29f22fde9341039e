//! The text of targets. The order of options is that of each extension's `save` function.

use std::net::IpAddr;

use super::super::{
    ConnmarkAction, CtTarget, LogTarget, MasqueradeTarget, NatTarget, NflogTarget, PortRange,
    RejectWith, SetTarget, Target, TcpmssTarget, TproxyTarget, Xmark,
};
use super::matches::set_directions;
use super::{address, hex, number, option, option_number, port_range, quoted, raw_word, words};

pub(super) fn write(out: &mut String, target: &Target) {
    match target {
        Target::Jump(chain) => {
            out.push_str(" -j ");
            out.push_str(chain.as_str());
        }
        Target::Goto(chain) => {
            out.push_str(" -g ");
            out.push_str(chain.as_str());
        }
        Target::Accept => out.push_str(" -j ACCEPT"),
        Target::Drop => out.push_str(" -j DROP"),
        Target::Return => out.push_str(" -j RETURN"),
        Target::Reject(with) => {
            let name = RejectWith::NAMES.iter().find(|(_, w)| w == with);
            out.push_str(" -j REJECT --reject-with ");
            out.push_str(name.map_or("", |(name, _)| name));
        }
        Target::Mark(xmark) => {
            out.push_str(" -j MARK --set-xmark ");
            write_xmark(out, *xmark);
        }
        Target::Connmark(action) => write_connmark(out, *action),
        Target::Dnat(nat) => {
            out.push_str(" -j DNAT --to-destination ");
            write_nat(out, nat);
        }
        Target::Snat(nat) => {
            out.push_str(" -j SNAT --to-source ");
            write_nat(out, nat);
        }
        Target::Masquerade(masquerade) => write_masquerade(out, masquerade),
        Target::Redirect { ports, random } => {
            out.push_str(" -j REDIRECT");
            to_ports(out, *ports);
            flags(out, &[(*random, "--random")]);
        }
        Target::Notrack => out.push_str(" -j CT --notrack"),
        Target::Ct(ct) => write_ct(out, ct),
        Target::Log(log) => write_log(out, log),
        Target::Nflog(nflog) => write_nflog(out, nflog),
        Target::Tcpmss(TcpmssTarget::Set(mss)) => {
            out.push_str(" -j TCPMSS");
            option_number(out, "--set-mss", u64::from(*mss));
        }
        Target::Tcpmss(TcpmssTarget::ClampToPmtu) => {
            out.push_str(" -j TCPMSS --clamp-mss-to-pmtu");
        }
        Target::Set(set) => write_set(out, set),
        Target::Tproxy(tproxy) => write_tproxy(out, tproxy),
        Target::Unknown(extension) => {
            out.push_str(" -j ");
            raw_word(out, &extension.name);
            words(out, &extension.words);
        }
    }
}

fn flags(out: &mut String, all: &[(bool, &str)]) {
    for (on, name) in all {
        if *on {
            option(out, name);
        }
    }
}

fn write_xmark(out: &mut String, xmark: Xmark) {
    hex(out, xmark.value);
    out.push('/');
    hex(out, xmark.mask);
}

fn write_connmark(out: &mut String, action: ConnmarkAction) {
    out.push_str(" -j CONNMARK");
    let (name, nfmask, ctmask) = match action {
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

impl NatTarget {
    /// Appends the destination (or source) alone: `10.0.0.1:80`, `[fd00::1]:80`.
    pub fn write_to(&self, out: &mut String) {
        if let Some((first, last)) = self.addresses {
            let brackets = matches!(first, IpAddr::V6(_)) && self.ports.is_some();
            if brackets {
                out.push('[');
            }
            address(out, first);
            if last != first {
                out.push('-');
                address(out, last);
            }
            if brackets {
                out.push(']');
            }
        }
        if let Some(ports) = self.ports {
            out.push(':');
            port_range(out, ports, '-');
        }
    }
}

fn write_nat(out: &mut String, nat: &NatTarget) {
    nat.write_to(out);
    flags(
        out,
        &[
            (nat.random, "--random"),
            (nat.random_fully, "--random-fully"),
            (nat.persistent, "--persistent"),
        ],
    );
}

fn to_ports(out: &mut String, ports: Option<PortRange>) {
    if let Some(ports) = ports {
        out.push_str(" --to-ports ");
        port_range(out, ports, '-');
    }
}

fn write_masquerade(out: &mut String, masquerade: &MasqueradeTarget) {
    out.push_str(" -j MASQUERADE");
    to_ports(out, masquerade.ports);
    flags(
        out,
        &[
            (masquerade.random, "--random"),
            (masquerade.random_fully, "--random-fully"),
        ],
    );
}

fn write_ct(out: &mut String, ct: &CtTarget) {
    out.push_str(" -j CT");
    flags(out, &[(ct.notrack, "--notrack")]);
    if let Some(helper) = &ct.helper {
        out.push_str(" --helper ");
        raw_word(out, helper);
    }
    words(out, &ct.other);
    if let Some(zone) = ct.zone {
        option_number(out, "--zone", zone.into());
    }
}

fn write_log(out: &mut String, log: &LogTarget) {
    out.push_str(" -j LOG");
    if let Some(prefix) = &log.prefix {
        out.push_str(" --log-prefix");
        quoted(out, prefix);
    }
    if let Some(level) = log.level {
        option_number(out, "--log-level", level.into());
    }
    words(out, &log.flags);
}

fn write_nflog(out: &mut String, nflog: &NflogTarget) {
    out.push_str(" -j NFLOG");
    if let Some(prefix) = &nflog.prefix {
        out.push_str(" --nflog-prefix");
        quoted(out, prefix);
    }
    if nflog.group != 0 {
        option_number(out, "--nflog-group", nflog.group.into());
    }
    words(out, &nflog.other);
}

fn write_set(out: &mut String, set: &SetTarget) {
    out.push_str(if set.delete {
        " -j SET --del-set "
    } else {
        " -j SET --add-set "
    });
    raw_word(out, &set.name);
    out.push(' ');
    set_directions(out, &set.directions);
    flags(out, &[(set.exist, "--exist")]);
    if let Some(timeout) = set.timeout {
        option_number(out, "--timeout", timeout.into());
    }
}

fn write_tproxy(out: &mut String, tproxy: &TproxyTarget) {
    out.push_str(" -j TPROXY --on-port ");
    number(out, tproxy.port.into());
    if let Some(ip) = tproxy.ip {
        out.push_str(" --on-ip ");
        address(out, ip);
    }
    if let Some(mark) = tproxy.mark {
        out.push_str(" --tproxy-mark ");
        write_xmark(out, mark);
    }
}
