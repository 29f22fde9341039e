//! A netlink socket.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netfilter::netlink::{DecodeError, Message, Messages};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recvmsg, sendmsg, setsockopt, socket, sockopt,
};

use super::{Control, Error};

/// The kernel fills at most 32 KiB of one reply datagram (`netlink_dump`); notifications of
/// nf_tables are of `NLMSG_GOODSIZE`, below a page or two.
const BUFFER: usize = 128 * 1024;
/// Timeout for a part of a reply. Usually it is already available: the kernel composes it while it
/// processes the request or delivers the previous part. A part that does not fit the buffer is lost,
/// often without a report.
const PATIENCE: Duration = Duration::from_millis(200);

/// A netlink socket of the namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

/// The result of a read.
#[derive(Debug)]
pub(crate) enum Received {
    /// A datagram of this many bytes, in [`Socket::datagram`].
    Datagram(usize),
    /// No datagram is available.
    Nothing,
    /// A datagram did not fit the buffer and was lost (`ENOBUFS`).
    Lost,
}

impl Socket {
    /// Open a socket that receives short acknowledgements with the kernel's explanations.
    ///
    /// # Errors
    /// [`Error::System`] with the step that failed.
    pub fn open(protocol: SockProtocol) -> Result<Self, Error> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            protocol,
        )
        .map_err(system("socket"))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(system("bind"))?;
        let address: NetlinkAddr = getsockname(fd.as_raw_fd()).map_err(system("getsockname"))?;
        let socket = Socket {
            fd,
            port: address.pid(),
            sequence: 0,
            buffer: vec![0; BUFFER],
        };
        // Kernels before 4.12 and 4.3 lack these options; their acknowledgements are supported too.
        let _ = socket.option(libc::NETLINK_EXT_ACK, 1);
        let _ = socket.option(libc::NETLINK_CAP_ACK, 1);
        Ok(socket)
    }

    /// Return the socket's own address, by which the kernel identifies it in notifications.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Join a multicast group.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn subscribe(&self, group: u32) -> Result<(), Error> {
        let group = libc::c_int::try_from(group).unwrap_or(libc::c_int::MAX);
        self.option(libc::NETLINK_ADD_MEMBERSHIP, group)
            .map_err(system("joining a multicast group"))
    }

    /// Set the receive buffer's size, beyond the system's limit if permitted.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn set_receive_buffer(&self, bytes: usize) -> Result<(), Error> {
        setsockopt(&self.fd, sockopt::RcvBufForce, &bytes)
            .or_else(|_| setsockopt(&self.fd, sockopt::RcvBuf, &bytes))
            .map_err(system("setting the receive buffer's size"))
    }

    /// Set the send buffer's size, beyond the system's limit if permitted. One
    /// message to the kernel cannot be longer than twice this.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn set_send_buffer(&self, bytes: usize) -> Result<(), Error> {
        setsockopt(&self.fd, sockopt::SndBufForce, &bytes)
            .or_else(|_| setsockopt(&self.fd, sockopt::SndBuf, &bytes))
            .map_err(system("setting the send buffer's size"))
    }

    /// Reserve `count` new sequence numbers, and return the first.
    pub(crate) fn take_sequences(&mut self, count: u32) -> u32 {
        // Skip 0, which the kernel uses for messages without a request.
        let first = match self.sequence.checked_add(1) {
            Some(first) if first.checked_add(count).is_some() => first,
            _ => 1,
        };
        self.sequence = first + count.saturating_sub(1);
        first
    }

    /// Send the parts to the kernel as one datagram.
    pub(crate) fn send(&self, parts: &[IoSlice<'_>]) -> Result<(), Error> {
        let kernel = NetlinkAddr::new(0, 0);
        let length: usize = parts.iter().map(|part| part.len()).sum();
        loop {
            let flags = MsgFlags::empty();
            match sendmsg(self.fd.as_raw_fd(), parts, &[], flags, Some(&kernel)) {
                Ok(sent) if sent == length => return Ok(()),
                Ok(_) => return Err(system("sending")(Errno::EMSGSIZE)),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(system("sending")(errno)),
            }
        }
    }

    /// Receive a datagram without waiting.
    pub(crate) fn receive(&mut self) -> Result<Received, Error> {
        loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let got = recvmsg::<NetlinkAddr>(self.fd.as_raw_fd(), &mut parts, None, flags);
            match got {
                Ok(got) => {
                    if got.flags.contains(MsgFlags::MSG_TRUNC) {
                        return Ok(Received::Lost);
                    }
                    // Ignore datagrams of other processes.
                    if got.address.is_none_or(|sender| sender.pid() == 0) {
                        return Ok(Received::Datagram(got.bytes));
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(Errno::ENOBUFS) => return Ok(Received::Lost),
                Err(errno) => return Err(system("receiving")(errno)),
            }
        }
    }

    /// Return the datagram that [`Socket::receive`] reported.
    pub(crate) fn datagram(&self, length: usize) -> &[u8] {
        self.buffer.get(..length).unwrap_or_default()
    }

    /// Send a request and pass every message of the answer to `each`, until the end of the dump (if
    /// `request` is a dump) or the acknowledgement.
    ///
    /// # Errors
    /// As `each`, or the failure of the exchange; after an error the rest of the answer is read
    /// and dropped, so that the socket stays usable.
    pub fn exchange(
        &mut self,
        what: &'static str,
        mut request: Vec<u8>,
        mut each: impl FnMut(&Message<'_>) -> Result<(), DecodeError>,
    ) -> Result<(), Error> {
        let sequence = self.take_sequences(1);
        match request.get_mut(8..12) {
            Some(place) => place.copy_from_slice(&sequence.to_ne_bytes()),
            None => {
                let cause = DecodeError::Malformed("a request without a header");
                return Err(Error::Malformed { what, cause });
            }
        }
        self.send(&[IoSlice::new(&request)])?;
        let mut failure = None;
        let mut interrupted = false;
        loop {
            let length = match self.receive()? {
                Received::Datagram(length) => length,
                // The queued messages belong to this request; the next one skips them by their
                // sequence number.
                Received::Lost => return Err(Error::LostReply { what }),
                Received::Nothing if self.wait(PATIENCE)? => continue,
                Received::Nothing => return Err(Error::LostReply { what }),
            };
            for message in Messages::new(self.datagram(length)) {
                let message = message.map_err(|cause| Error::Malformed { what, cause })?;
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.interrupted();
                let control =
                    Control::read(&message).map_err(|cause| Error::Malformed { what, cause })?;
                match control {
                    None if failure.is_none() => failure = each(&message).err(),
                    None | Some(Control::Noop) => {}
                    Some(Control::Overrun) => return Err(Error::LostReply { what }),
                    Some(Control::Acknowledged(end) | Control::Done(end)) => {
                        return match (end, failure) {
                            (Some(refusal), _) => Err(Error::Refused { what, refusal }),
                            (None, Some(cause)) => Err(Error::Malformed { what, cause }),
                            (None, None) if interrupted => Err(Error::Interrupted { what }),
                            (None, None) => Ok(()),
                        };
                    }
                }
            }
        }
    }

    /// Wait for a datagram; `false` on timeout.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn wait(&self, limit: Duration) -> Result<bool, Error> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        loop {
            match poll(
                &mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)],
                timeout,
            ) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(system("waiting")(errno)),
            }
        }
    }

    fn option(&self, name: libc::c_int, value: libc::c_int) -> Result<(), Errno> {
        // SAFETY: the pointer is to a `c_int` that outlives the call, and the length is its size.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_NETLINK,
                name,
                std::ptr::from_ref(&value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        Errno::result(result).map(drop)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn system(step: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::System { step, errno }
}
