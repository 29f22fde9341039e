//! The kernel's control replies: acknowledgements, refusals and the end of a dump.

use netfilter::netlink::{
    Attributes, DecodeError, Message, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_HDRLEN, NLMSG_NOOP, NLMSG_OVERRUN, NLMSGERR_ATTR_MSG, NLMSGERR_ATTR_OFFS, align,
};
use nix::errno::Errno;

use super::Refusal;

/// A message about a request rather than an answer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// To be ignored.
    Noop,
    /// The request succeeded, or was refused.
    Acknowledged(Option<Refusal>),
    /// The end of a dump, with the refusal that broke it off.
    Done(Option<Refusal>),
    /// Data was lost.
    Overrun,
}

impl Control {
    /// Read a control message; `None` for data.
    ///
    /// # Errors
    /// [`DecodeError`] if it is too short for its type.
    pub fn read(message: &Message<'_>) -> Result<Option<Self>, DecodeError> {
        match message.kind {
            NLMSG_NOOP => Ok(Some(Control::Noop)),
            NLMSG_OVERRUN => Ok(Some(Control::Overrun)),
            NLMSG_DONE => Ok(Some(Control::Done(refusal(message, 4)?))),
            NLMSG_ERROR => {
                let quoted = message.payload.get(4..).unwrap_or_default();
                let Some(&[a, b, c, d, ..]) = quoted.first_chunk::<NLMSG_HDRLEN>() else {
                    let what = "an acknowledgement too short for its request";
                    return Err(DecodeError::Malformed(what));
                };
                let length = u32::from_ne_bytes([a, b, c, d]) as usize;
                // A capped acknowledgement quotes the request's header only.
                let quoted = if message.flags & NLM_F_CAPPED != 0 || length < NLMSG_HDRLEN {
                    NLMSG_HDRLEN
                } else {
                    align(length)
                };
                Ok(Some(Control::Acknowledged(refusal(message, 4 + quoted)?)))
            }
            _ => Ok(None),
        }
    }
}

/// Return the refusal in an error or at the end of a dump; its attributes start at `attributes`.
fn refusal(message: &Message<'_>, attributes: usize) -> Result<Option<Refusal>, DecodeError> {
    let code = match message.payload.first_chunk::<4>() {
        Some(bytes) => i32::from_ne_bytes(*bytes),
        // Some dumps end without a code.
        None if message.kind == NLMSG_DONE => 0,
        None => {
            let what = "an acknowledgement without its code";
            return Err(DecodeError::Malformed(what));
        }
    };
    // The end of a dump may carry a positive count.
    if code >= 0 {
        return Ok(None);
    }
    let code = code.checked_neg().unwrap_or_default();
    let mut refusal = Refusal {
        errno: Errno::from_raw(code),
        code,
        text: None,
        offset: None,
    };
    if message.flags & NLM_F_ACK_TLVS != 0 {
        let attributes = message.payload.get(attributes..).unwrap_or_default();
        // The attributes are optional: the refusal counts even if they are garbled.
        for attribute in Attributes::new(attributes, "nlmsgerr_attrs").map_while(Result::ok) {
            match attribute.kind {
                NLMSGERR_ATTR_MSG => refusal.text = Some(attribute.string_lossy()),
                NLMSGERR_ATTR_OFFS => refusal.offset = attribute.ne32().ok(),
                _ => {}
            }
        }
    }
    Ok(Some(refusal))
}
