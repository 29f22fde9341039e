//! One request, then its answers.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::LinkError;

#[derive(Debug)]
pub(super) struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
}

/// What became of one answer.
enum Step {
    /// There may be more.
    More,
    /// That was the last.
    Last,
}

impl Socket {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request that changes something, and waits for its acknowledgement.
    pub(super) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        request: impl Fn() -> String,
    ) -> Result<(), LinkError> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.answers(&request, |_| {})
    }

    /// Sends a request for all objects of a kind, and gathers them.
    pub(super) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        request: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, LinkError> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut found = Vec::new();
        self.answers(&|| request.to_owned(), |answer| found.push(answer))?;
        Ok(found)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), LinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(LinkError::Socket)?;
        Ok(())
    }

    fn answers(
        &mut self,
        request: &impl Fn() -> String,
        mut take: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), LinkError> {
        let garbled = |reason: String| LinkError::Garbled {
            request: request(),
            reason,
        };
        loop {
            let (bytes, _) = self.socket.recv_from_full().map_err(LinkError::Socket)?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let packet = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|e| garbled(e.to_string()))?;
                let length = usize::try_from(packet.header.length).unwrap_or(usize::MAX);
                let ours = packet.header.sequence_number == self.sequence;
                if ours && let Step::Last = step(packet, request, &mut take)? {
                    return Ok(());
                }
                // NLMSG_ALIGN (linux/netlink.h).
                let next = length.max(16).next_multiple_of(4);
                rest = rest.get(next..).unwrap_or_default();
            }
        }
    }
}

fn step(
    packet: NetlinkMessage<RouteNetlinkMessage>,
    request: &impl Fn() -> String,
    take: &mut impl FnMut(RouteNetlinkMessage),
) -> Result<Step, LinkError> {
    match packet.payload {
        NetlinkPayload::Error(error) => match error.code {
            None => Ok(Step::Last),
            Some(_) => Err(LinkError::Refused {
                request: request(),
                source: error.to_io(),
            }),
        },
        NetlinkPayload::Done(_) => Ok(Step::Last),
        NetlinkPayload::InnerMessage(message) => {
            take(message);
            Ok(Step::More)
        }
        _ => Ok(Step::More),
    }
}
