//! TCP connections of which only SYNs have been seen.

use netfilter::netlink::{
    Builder, NFNL_SUBSYS_CTNETLINK, NLM_F_ACK, NLM_F_REQUEST, nfgenmsg, nfnl_msg_type,
};
use nix::errno::Errno;

use super::{Conntrack, Filter, Flow, GET, IpProtocol};
use crate::netlink::Error;
use crate::{Family, family};

impl Conntrack {
    /// Return half-open TCP connections that are `stale`, at most `limit`.
    ///
    /// # Errors
    /// See [`Error`]. A table that is resized meanwhile gives an incomplete list, but no error.
    pub fn half_open(
        &mut self,
        family: Family,
        limit: usize,
        mut stale: impl FnMut(&Flow) -> bool,
    ) -> Result<Vec<Flow>, Error> {
        let filter = Filter {
            unreplied: true,
            ..Filter::protocol(family, IpProtocol::TCP)
        };
        let mut found = Vec::new();
        let result = self.dump(&filter, |flow| {
            if found.len() < limit && flow.is_half_open() && stale(flow) {
                found.push(*flow);
            }
        });
        match result {
            Ok(()) | Err(Error::Interrupted { .. }) => Ok(found),
            Err(error) => Err(error),
        }
    }

    /// Delete those flows that are still half open, and return their number. A flow that was
    /// answered since it was read stays.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn delete_half_open(&mut self, flows: &[Flow]) -> Result<u64, Error> {
        let mut deleted = 0;
        for flow in flows {
            let now = self.get(flow)?;
            if now.is_some_and(|now| now.id == flow.id && now.is_half_open()) {
                deleted += u64::from(self.delete(flow)?);
            }
        }
        Ok(deleted)
    }

    /// Read a flow again; `None` if it no longer exists.
    fn get(&mut self, flow: &Flow) -> Result<Option<Flow>, Error> {
        let number = family::number(Family::of(flow.original.destination));
        let request = Builder::new(
            nfnl_msg_type(NFNL_SUBSYS_CTNETLINK, GET),
            NLM_F_REQUEST | NLM_F_ACK,
        )
        .fixed(&nfgenmsg(number, 0));
        let request = request.attributes(|w| flow.write_key(w)).finish();
        let mut found = None;
        let result = self
            .deleting
            .exchange("reading a flow", request, |message| {
                found = Flow::read(message)?;
                Ok(())
            });
        match result {
            Ok(()) => Ok(found),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
