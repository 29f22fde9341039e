//! Asks the kernel for xtables extensions and tables, without a program and without rules.

use std::os::fd::{AsRawFd, OwnedFd};

use netfilter::netlink::{
    Builder, NFNL_SUBSYS_NFT_COMPAT, NLM_F_ACK, NLM_F_REQUEST, nfgenmsg, nfnl_msg_type,
};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::{Backend, Table};
use crate::netlink::{self, Refusal, Socket};
use crate::{Family, family, module};

/// `NFNL_MSG_COMPAT_GET`.
const GET: u8 = 0;
const NFTA_COMPAT_NAME: u16 = 1;
const NFTA_COMPAT_REV: u16 = 2;
const NFTA_COMPAT_TYPE: u16 = 3;
/// `XT_EXTENSION_MAXNAMELEN`.
const NAME_LEN: usize = 29;
/// `XT_TABLE_MAXNAMELEN`.
const TABLE_NAME_LEN: usize = 32;
/// `sizeof(struct ipt_getinfo)`: the name, and thirteen numbers.
const GETINFO_LEN: usize = TABLE_NAME_LEN + 13 * 4;

/// The kind of an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExtensionKind {
    /// A match, as in `-m NAME`.
    Match,
    /// A target, as in `-j NAME`.
    Target,
}

/// The extensions of one back end and family. A request makes the kernel load a missing module if
/// possible.
#[derive(Debug)]
pub struct Extensions {
    family: Family,
    socket: Interface,
}

#[derive(Debug)]
enum Interface {
    Nft(Socket),
    /// Any socket of the family, for the socket options of `ip_tables`.
    Legacy(OwnedFd),
}

impl Extensions {
    /// Open the back end's interface.
    ///
    /// # Errors
    /// [`netlink::Error::System`].
    pub fn open(family: Family, backend: Backend) -> Result<Self, netlink::Error> {
        let socket = match backend {
            Backend::Nft => Interface::Nft(Socket::open(SockProtocol::NetlinkNetFilter)?),
            Backend::Legacy => Interface::Legacy(any_socket(family)?),
        };
        Ok(Self { family, socket })
    }

    /// Return whether the kernel has this back end. Load the module of the legacy one if it is missing.
    pub fn is_available(&self) -> bool {
        let Interface::Legacy(socket) = &self.socket else {
            return true;
        };
        let lacks = || {
            let mut question = [0; NAME_LEN + 1];
            write_name(&mut question, "standard", NAME_LEN - 1);
            let option = base(self.family).1;
            let answer = ask_option(socket, self.family, option, &mut question);
            answer == Err(Errno::ENOPROTOOPT)
        };
        if !lacks() {
            return true;
        }
        module::load_legacy_iptables(self.family);
        !lacks()
    }

    /// Return whether the kernel has an extension, in any revision.
    ///
    /// # Errors
    /// See [`netlink::Error`]: the answer is not known.
    pub fn has(&mut self, kind: ExtensionKind, name: &str) -> Result<bool, netlink::Error> {
        let what = "asking for an xtables extension";
        let answer = match &mut self.socket {
            Interface::Nft(socket) => ask_compat(socket, self.family, kind, name),
            Interface::Legacy(socket) => {
                let mut question = [0; NAME_LEN + 1];
                write_name(&mut question, name, NAME_LEN - 1);
                let option = base(self.family).1 + u32::from(kind == ExtensionKind::Target);
                ask_option(socket, self.family, option, &mut question)
                    .map_err(|errno| refused(what, errno))
            }
        };
        match answer {
            Ok(()) => Ok(true),
            Err(error) => match error.errno() {
                // The kernel has the extension in other revisions.
                Some(Errno::EPROTONOSUPPORT) => Ok(true),
                Some(Errno::ENOENT) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Return whether the kernel has a table. The legacy back end creates it, empty, if it does not
    /// exist; the other back end needs no support for single tables.
    ///
    /// # Errors
    /// See [`netlink::Error`]: the answer is not known.
    pub fn has_table(&mut self, table: Table) -> Result<bool, netlink::Error> {
        let Interface::Legacy(socket) = &self.socket else {
            return Ok(true);
        };
        let mut question = [0; GETINFO_LEN];
        write_name(&mut question, table.name(), TABLE_NAME_LEN - 1);
        // `IPT_SO_GET_INFO` is the first option.
        match ask_option(socket, self.family, base(self.family).0, &mut question) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(refused("asking for an iptables table", errno)),
        }
    }
}

fn refused(what: &'static str, errno: Errno) -> netlink::Error {
    let refusal = Refusal::of(errno);
    netlink::Error::Refused { what, refusal }
}

/// The socket options `IPT_SO_GET_INFO` and `IPT_SO_GET_REVISION_MATCH`
/// (`linux/netfilter_ipv4/ip_tables.h`), or IPv6's. That for targets follows the second.
fn base(family: Family) -> (u32, u32) {
    match family {
        Family::Ipv4 => (64, 66),
        Family::Ipv6 => (64, 68),
    }
}

fn any_socket(family: Family) -> Result<OwnedFd, netlink::Error> {
    let family = match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    };
    let opened = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    opened.map_err(|errno| netlink::Error::System {
        step: "opening a socket",
        errno,
    })
}

fn write_name(question: &mut [u8], name: &str, limit: usize) {
    for (place, byte) in question.iter_mut().take(limit).zip(name.bytes()) {
        *place = byte;
    }
}

/// Read a socket option whose buffer contains the question.
fn ask_option(
    socket: &OwnedFd,
    family: Family,
    option: u32,
    question: &mut [u8],
) -> Result<(), Errno> {
    let level = match family {
        Family::Ipv4 => libc::IPPROTO_IP,
        Family::Ipv6 => libc::IPPROTO_IPV6,
    };
    let mut length = question.len() as libc::socklen_t;
    // SAFETY: the kernel reads and writes at most `length` bytes of the buffer, which has that
    // length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option.cast_signed(),
            question.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(result).map(drop)
}

fn ask_compat(
    socket: &mut Socket,
    family: Family,
    kind: ExtensionKind,
    name: &str,
) -> Result<(), netlink::Error> {
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    let request = Builder::new(nfnl_msg_type(NFNL_SUBSYS_NFT_COMPAT, GET), flags)
        .fixed(&nfgenmsg(family::number(family), 0))
        .attributes(|w| {
            w.string(NFTA_COMPAT_NAME, name);
            w.be32(NFTA_COMPAT_REV, 0);
            w.be32(NFTA_COMPAT_TYPE, u32::from(kind == ExtensionKind::Target));
        });
    socket.exchange("asking for an xtables extension", request.finish(), |_| {
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::NetNs;

    /// Both back ends of both families, in a namespace of its own: reading a table creates it.
    fn each(test: impl Fn(&mut Extensions) + Send + Sync) {
        let name = format!("sluice-extensions-{}", std::process::id());
        let netns = NetNs::create(&name).expect("needs root");
        for family in [Family::Ipv4, Family::Ipv6] {
            for backend in [Backend::Nft, Backend::Legacy] {
                let open = || test(&mut Extensions::open(family, backend).unwrap());
                netns.run(open).unwrap();
            }
        }
        NetNs::delete(&name).unwrap();
    }

    #[test]
    fn existing_and_missing_extensions_are_distinguished() {
        each(|extensions| {
            // Conntrack has no revision 0 any more.
            for name in ["conntrack", "addrtype", "statistic"] {
                assert!(
                    extensions.has(ExtensionKind::Match, name).unwrap(),
                    "{name}"
                );
            }
            for name in ["DNAT", "MASQUERADE", "REJECT"] {
                assert!(
                    extensions.has(ExtensionKind::Target, name).unwrap(),
                    "{name}"
                );
            }
            let missing = extensions.has(ExtensionKind::Match, "nosuch").unwrap();
            assert!(!missing, "{extensions:?}");
            // DNAT is a target only.
            assert!(!extensions.has(ExtensionKind::Match, "DNAT").unwrap());
            assert!(extensions.has_table(Table::Nat).unwrap());
        });
    }
}
