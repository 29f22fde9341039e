//! ipsets over netlink, without the program `ipset`.

use std::collections::HashMap;

use netfilter::ipset::netlink as messages;
use netfilter::ipset::{Element, Op, Set, Sets};
use netfilter::iptables_nft::SetIndex;
use netfilter::netlink::{
    Builder, DecodeError, NFGENMSG_LEN, NFNL_SUBSYS_IPSET, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST,
    nfnl_msg_type,
};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::netlink::{Error, Refusal, Socket};

/// The subsystem's own error numbers (`enum ipset_errno`), with their meaning.
const ERRORS: [(i32, &str); 8] = [
    (4097, "a message that the kernel does not understand"),
    (
        4098,
        "the kernel lacks this type of set: load its module (ip_set_hash_ip, ip_set_hash_ipport, ip_set_hash_ipportip, ip_set_hash_ipportnet, ip_set_bitmap_port)",
    ),
    (4099, "the maximum number of sets is reached"),
    (4100, "the set is in use by a rule"),
    (4102, "the sets are not of one type"),
    (4103, "the element already exists, or does not exist"),
    (4352, "the set is full"),
    (17, "a set of this name with another type or size exists"),
];

/// An operation that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ipset {set}{}: {}", about(element.as_ref()), explain(refusal))]
pub struct Refused {
    /// The set.
    pub set: Box<str>,
    /// The element at fault, if any.
    pub element: Option<Element>,
    /// The kernel's reason.
    pub refusal: Refusal,
}

fn about(element: Option<&Element>) -> String {
    element.map_or_else(String::new, |element| format!(", {element}"))
}

fn explain(refusal: &Refusal) -> String {
    let known = ERRORS.iter().find(|(code, _)| *code == refusal.code);
    known.map_or_else(|| refusal.to_string(), |(_, text)| (*text).to_owned())
}

/// The sets of the network namespace in which it was opened.
#[derive(Debug)]
pub struct IpSets {
    socket: Socket,
    /// Revisions of types, by type and family.
    revisions: HashMap<Vec<u8>, u8>,
}

impl IpSets {
    /// Open a socket.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(SockProtocol::NetlinkNetFilter)?,
            revisions: HashMap::new(),
        })
    }

    /// Return the sets whose name is `wanted`, with all elements.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Malformed`] also if one of them has a type that sluice does not
    /// know.
    pub fn list(&mut self, wanted: &dyn Fn(&str) -> bool) -> Result<Sets, Error> {
        let what = "listing ipsets";
        let message = messages::list_request();
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        let request = Builder::new(nfnl_msg_type(NFNL_SUBSYS_IPSET, message.command), flags);
        let mut sets = Vec::new();
        let request = request.fixed(&message.payload).finish();
        let result = self.socket.exchange(what, request, |message| {
            messages::decode_list(message.payload, &mut sets, wanted)
                .map_err(|_| DecodeError::Malformed("a set that cannot be read"))
        });
        match result {
            Ok(()) => Ok(Sets { sets }),
            // Without the subsystem, no set exists.
            Err(error) if error.errno() == Some(Errno::EINVAL) => Ok(Sets::default()),
            Err(error) => Err(error),
        }
    }

    /// Return all sets with all elements, and the names of sets that cannot be decoded.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn list_all(&mut self) -> Result<(Sets, Vec<String>), Error> {
        let mut listed = Vec::new();
        let names = self.index()?;
        let mut unknown = Vec::new();
        for name in names.names() {
            match self.list(&|one| one == name) {
                Ok(sets) => listed.extend(sets.sets),
                Err(Error::Malformed { .. }) => unknown.push(name.to_owned()),
                Err(error) => return Err(error),
            }
        }
        Ok((Sets { sets: listed }, unknown))
    }

    /// Return the names and indices of all sets; rules contain the index. Empty if the kernel is older
    /// than Linux 4.20, which does not list indices.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn index(&mut self) -> Result<SetIndex, Error> {
        let message = messages::index_request();
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        let request = Builder::new(nfnl_msg_type(NFNL_SUBSYS_IPSET, message.command), flags);
        let request = request.fixed(&message.payload).finish();
        let mut found = Vec::new();
        let what = "listing the indices of ipsets";
        let result = self.socket.exchange(what, request, |message| {
            found.push(messages::decode_index(message.payload)?);
            Ok(())
        });
        match result {
            Ok(()) => Ok(found.into_iter().collect()),
            // Without the subsystem, no set exists; older kernels refuse the protocol's version.
            Err(Error::Refused { .. }) => Ok(SetIndex::default()),
            Err(error) => Err(error),
        }
    }

    /// Execute operations in order, in few messages, and continue after refusals.
    ///
    /// # Errors
    /// The exchange failed: it is not known which operations took effect.
    pub fn run(&mut self, ops: &[Op]) -> Result<Vec<Refused>, Error> {
        let mut refused = Vec::new();
        let mut requests = Vec::new();
        let mut places = Vec::new();
        for (place, op) in ops.iter().enumerate() {
            let revision = match op {
                Op::Create(set) => match self.revision(set)? {
                    Ok(revision) => revision,
                    Err(refusal) => {
                        refused.push(refusal_of(op, refusal));
                        continue;
                    }
                },
                _ => 0,
            };
            let mut start = 0;
            for message in op.encode(revision) {
                let kind = nfnl_msg_type(NFNL_SUBSYS_IPSET, message.command);
                requests.push(Builder::new(kind, 0).fixed(&message.payload).finish());
                places.push((place, start..start + message.elements));
                start += message.elements;
            }
        }
        let verdicts = self.socket.exchange_all("changing ipsets", &mut requests)?;
        let mut again: Vec<Op> = Vec::new();
        for ((place, elements), verdict) in places.into_iter().zip(verdicts) {
            let (Some(op), Some(refusal)) = (ops.get(place), verdict) else {
                continue;
            };
            let gone = matches!(op, Op::Destroy(_) | Op::Delete { .. });
            if gone && refusal.errno == Errno::ENOENT {
                continue;
            }
            if elements.len() > 1 {
                // One of them is at fault; send the others separately.
                again.extend(singly(op, elements));
            } else {
                refused.push(refusal_of(op, refusal));
            }
        }
        if !again.is_empty() {
            refused.extend(self.run(&again)?);
        }
        Ok(refused)
    }

    /// Return whether the kernel has the type of this set. The request makes it load the type's module
    /// if possible.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn has_type(&mut self, set: &Set) -> Result<bool, Error> {
        Ok(self.revision(set)?.is_ok())
    }

    /// Return the revision of a set's type to request: the one that `ipset` would use.
    fn revision(&mut self, set: &Set) -> Result<Result<u8, Refusal>, Error> {
        let message = messages::type_request(set);
        if let Some(known) = self.revisions.get(&message.payload) {
            return Ok(Ok(*known));
        }
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        let request = Builder::new(nfnl_msg_type(NFNL_SUBSYS_IPSET, message.command), flags);
        let request = request.fixed(&message.payload).finish();
        let mut found = 0;
        let result = self
            .socket
            .exchange("asking for a type of ipset", request, |reply| {
                if reply.payload.len() > NFGENMSG_LEN {
                    found = messages::decode_revision(reply.payload)
                        .map_err(|_| DecodeError::Malformed("a type of set"))?;
                }
                Ok(())
            });
        match result {
            Ok(()) => {
                self.revisions.insert(message.payload, found);
                Ok(Ok(found))
            }
            Err(Error::Refused { refusal, .. }) => Ok(Err(refusal)),
            Err(error) => Err(error),
        }
    }
}

/// Return the results of the elements in this range.
fn singly(op: &Op, range: std::ops::Range<usize>) -> Vec<Op> {
    let (Op::Add { set, elements } | Op::Delete { set, elements }) = op else {
        return Vec::new();
    };
    let one = |element: &Element| {
        let (set, elements) = (set.clone(), vec![element.clone()]);
        if matches!(op, Op::Add { .. }) {
            Op::Add { set, elements }
        } else {
            Op::Delete { set, elements }
        }
    };
    let range = elements.get(range).unwrap_or_default();
    range.iter().map(one).collect()
}

fn refusal_of(op: &Op, refusal: Refusal) -> Refused {
    let element = match op {
        Op::Add { elements, .. } | Op::Delete { elements, .. } => elements.first().cloned(),
        _ => None,
    };
    Refused {
        set: op.set().into(),
        element,
        refusal,
    }
}
