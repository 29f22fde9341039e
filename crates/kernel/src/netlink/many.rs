//! Many requests in few system calls.

use std::io::IoSlice;
use std::time::Duration;

use netfilter::netlink::{DecodeError, Messages, NLM_F_ACK, NLM_F_REQUEST};

use super::Control;
use super::socket::Received;
use super::{Error, Refusal, Socket};

/// Number of requests that are sent at once. The kernel answers each with an acknowledgement that takes
/// below 1 KiB of the receive buffer, which holds 200 KiB by default.
const AT_ONCE: usize = 100;
/// Maximum length of a datagram by default.
const DATAGRAM: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

impl Socket {
    /// Send requests, several in a datagram, and return the result of each in order: `None` for success.
    /// The kernel continues after a refused request.
    ///
    /// # Errors
    /// See [`Error`]. After [`Error::LostReply`] it is not known which requests took effect.
    pub fn exchange_all(
        &mut self,
        what: &'static str,
        requests: &mut [Vec<u8>],
    ) -> Result<Vec<Option<Refusal>>, Error> {
        let mut verdicts = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(AT_ONCE).take_while(|request| {
                bytes += request.len();
                bytes <= DATAGRAM
            });
            let count = fits.count().max(1);
            let (now, later) = rest.split_at_mut(count);
            self.exchange_some(what, now, &mut verdicts)?;
            rest = later;
        }
        Ok(verdicts)
    }

    fn exchange_some(
        &mut self,
        what: &'static str,
        requests: &mut [Vec<u8>],
        verdicts: &mut Vec<Option<Refusal>>,
    ) -> Result<(), Error> {
        let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let first = self.take_sequences(count);
        for (request, sequence) in requests.iter_mut().zip(first..) {
            let Some(header) = request.first_chunk_mut::<16>() else {
                let cause = DecodeError::Malformed("a request without a header");
                return Err(Error::Malformed { what, cause });
            };
            let flags = flags(header) | NLM_F_REQUEST | NLM_F_ACK;
            header[6..8].copy_from_slice(&flags.to_ne_bytes());
            header[8..12].copy_from_slice(&sequence.to_ne_bytes());
        }
        let parts: Vec<IoSlice<'_>> = requests.iter().map(|r| IoSlice::new(r)).collect();
        self.send(&parts)?;
        let mut found: Vec<Option<Option<Refusal>>> = vec![None; requests.len()];
        let mut missing = requests.len();
        while missing > 0 {
            let length = match self.receive()? {
                Received::Datagram(length) => length,
                Received::Lost => return Err(Error::LostReply { what }),
                Received::Nothing if self.wait(PATIENCE)? => continue,
                Received::Nothing => return Err(Error::LostReply { what }),
            };
            for message in Messages::new(self.datagram(length)) {
                let message = message.map_err(|cause| Error::Malformed { what, cause })?;
                let control =
                    Control::read(&message).map_err(|cause| Error::Malformed { what, cause })?;
                let at = message.sequence.wrapping_sub(first) as usize;
                if let (Some(Control::Acknowledged(end)), Some(place)) =
                    (control, found.get_mut(at))
                {
                    missing -= usize::from(place.is_none());
                    *place = Some(end);
                }
            }
        }
        verdicts.extend(found.into_iter().map(Option::unwrap_or_default));
        Ok(())
    }
}

fn flags(header: &[u8; 16]) -> u16 {
    u16::from_ne_bytes([header[6], header[7]])
}
