//! The whole rule set: every table, whichever program made it.

use netfilter::iptables::Family;
use netfilter::iptables_nft::{SetIndex, State};
use netfilter::netlink::{
    Builder, Message, NFNL_SUBSYS_NFTABLES, NLM_F_REQUEST, nfgenmsg, nfnl_msg_type,
};
use netfilter::nft::consts::{
    NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET, NFT_MSG_GETSETELEM, NFT_MSG_GETTABLE,
    NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE,
};
use netfilter::nft::decode;
use netfilter::nft_list::Listing;
use nix::errno::Errno;

use super::NfTables;
use crate::netlink::Error;

const NFT_MSG_GETOBJ: u16 = 19;
const NFT_MSG_GETFLOWTABLE: u16 = 23;
/// How many times the rule set is read again if other programs change it meanwhile.
const ATTEMPTS: u32 = 10;

/// The rule set at one moment.
#[derive(Clone, Debug)]
pub struct Ruleset {
    /// All tables.
    pub listing: Listing,
    /// The rules of iptables-nft, of both families. Extensions that are not modelled are kept by name.
    pub iptables: [State; 2],
    /// Messages that could not be decoded.
    pub problems: Vec<String>,
}

impl NfTables {
    /// Read the whole rule set. `sets` are the names of ipsets, which rules of iptables-nft contain.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Interrupted`] if other programs kept changing it.
    pub fn ruleset(&mut self, sets: &SetIndex) -> Result<Ruleset, Error> {
        for _ in 0..ATTEMPTS {
            let before = self.generation()?.generation;
            let read = self.ruleset_once(sets);
            // An object may have been deleted meanwhile.
            let unchanged = self.generation()?.generation == before;
            match read {
                Err(Error::Interrupted { .. }) => {}
                read if unchanged => return read,
                _ => {}
            }
        }
        let what = "reading the nf_tables rule set";
        Err(Error::Interrupted { what })
    }

    fn ruleset_once(&mut self, sets: &SetIndex) -> Result<Ruleset, Error> {
        let state = |family| {
            let mut state = State::with_sets(family, sets.clone());
            state.keeps_unknown = true;
            state
        };
        let mut ruleset = Ruleset {
            listing: Listing::default(),
            iptables: [Family::Ipv4, Family::Ipv6].map(state),
            problems: Vec::new(),
        };
        for kind in [
            NFT_MSG_GETTABLE,
            NFT_MSG_GETCHAIN,
            NFT_MSG_GETSET,
            NFT_MSG_GETOBJ,
            NFT_MSG_GETFLOWTABLE,
            NFT_MSG_GETRULE,
        ] {
            let request = request(kind, 0).finish();
            match self.stream(&request, |message| {
                ruleset.add(message);
                Ok(())
            }) {
                // A kernel without flow tables.
                Err(error) if kind == NFT_MSG_GETFLOWTABLE && is_absent(&error) => {}
                read => read?,
            }
        }
        for (family, table, set) in ruleset.listing.sets() {
            let request = request(NFT_MSG_GETSETELEM, family)
                .string(NFTA_SET_ELEM_LIST_TABLE, &table)
                .string(NFTA_SET_ELEM_LIST_SET, &set)
                .finish();
            self.stream(&request, |message| {
                ruleset.add(message);
                Ok(())
            })?;
        }
        Ok(ruleset)
    }
}

fn is_absent(error: &Error) -> bool {
    matches!(
        error.errno(),
        Some(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOENT)
    )
}

fn request(kind: u16, family: u8) -> Builder {
    let kind = nfnl_msg_type(NFNL_SUBSYS_NFTABLES, kind as u8);
    Builder::new(kind, NLM_F_REQUEST).fixed(&nfgenmsg(family, 0))
}

impl Ruleset {
    fn add(&mut self, message: &Message<'_>) {
        let kind = message.kind & 0xff;
        if let Err(error) = self.listing.add(kind, message.payload) {
            self.problems
                .push(format!("message of kind {kind}: {error}"));
        }
        for state in &mut self.iptables {
            if let Ok(decoded) = decode(kind, message.payload) {
                state.add(decoded);
            }
        }
    }
}
