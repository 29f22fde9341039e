//! The dummy interface that has the Service addresses in ipvs mode. It stays down.
//!
//! Its addresses are nevertheless local to the node (they are in the local routing table), so that
//! packets to them reach IPVS. Because it is down, the node answers no ARP request for them and IPv6
//! duplicate address detection does not start.

use std::net::IpAddr;

use ipnet::IpNet;
use netfilter::netlink::{Builder, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::netlink::{Error, Refusal, Socket};
use crate::rtnetlink::{
    IFA_ADDRESS, IFA_CACHEINFO, IFA_LOCAL, IFINFOMSG, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO,
    RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK, link_index, octets,
};

/// A failure to create the interface.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel has no dummy interfaces.
    #[error(
        "this kernel lacks dummy interfaces: load them with `modprobe dummy`, or use a kernel \
         with CONFIG_DUMMY; ipvs mode assigns the Service addresses to one"
    )]
    NoDummies,
    /// The exchange with the kernel failed.
    #[error(transparent)]
    Netlink(#[from] Error),
}

/// An address that could not be added or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {address} on kube-ipvs0: {refusal}")]
pub struct Refused {
    /// The address.
    pub address: IpAddr,
    /// The kernel's reason.
    pub refusal: Refusal,
}

/// The interface, identified by its name.
#[derive(Debug)]
pub struct ServiceDevice {
    name: String,
    socket: Socket,
}

impl ServiceDevice {
    /// Open a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(name: &str) -> Result<Self, Error> {
        Ok(Self {
            name: name.to_owned(),
            socket: Socket::open(SockProtocol::NetlinkRoute)?,
        })
    }

    /// Return its addresses; `None` if the interface does not exist.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn addresses(&mut self) -> Result<Option<Vec<IpAddr>>, Error> {
        if self.index()?.is_none() {
            return Ok(None);
        }
        let all = crate::address::addresses()?;
        let ours = all.into_iter().filter(|a| a.interface == self.name);
        Ok(Some(ours.map(|a| a.address.addr()).collect()))
    }

    /// Return whether the interface exists.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn exists(&mut self) -> Result<bool, Error> {
        Ok(self.index()?.is_some())
    }

    fn index(&mut self) -> Result<Option<u32>, Error> {
        link_index(&mut self.socket, &self.name)
    }

    /// Create the interface if it does not exist.
    ///
    /// # Errors
    /// [`DeviceError::NoDummies`] if the kernel lacks dummy interfaces.
    pub fn ensure(&mut self) -> Result<(), DeviceError> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let request = Builder::new(RTM_NEWLINK, flags)
            .fixed(&[0; IFINFOMSG])
            .string(IFLA_IFNAME, &self.name)
            .attributes(|w| w.nest(IFLA_LINKINFO, |w| w.string(IFLA_INFO_KIND, "dummy")))
            .finish();
        let what = "creating kube-ipvs0";
        match self.socket.exchange(what, request, |_| Ok(())) {
            Ok(()) => Ok(()),
            Err(error) => match error.errno() {
                Some(Errno::EEXIST) => Ok(()),
                Some(Errno::EOPNOTSUPP) => Err(DeviceError::NoDummies),
                _ => Err(error.into()),
            },
        }
    }

    /// Remove the interface with its addresses, if it exists.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn remove(&mut self) -> Result<(), Error> {
        if self.index()?.is_none() {
            return Ok(());
        }
        let request = Builder::new(RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK)
            .fixed(&[0; IFINFOMSG])
            .string(IFLA_IFNAME, &self.name)
            .finish();
        let what = "deleting kube-ipvs0";
        self.socket.exchange(what, request, |_| Ok(()))
    }

    /// Add and remove addresses. Adding an existing address and removing a missing one succeed.
    ///
    /// # Errors
    /// See [`Error`]; `ENODEV` if the interface does not exist.
    pub fn change(&mut self, add: &[IpAddr], remove: &[IpAddr]) -> Result<Vec<Refused>, Error> {
        let what = "changing addresses on kube-ipvs0";
        let Some(index) = self.index()? else {
            let refusal = Refusal::of(Errno::ENODEV);
            return Err(Error::Refused { what, refusal });
        };
        let new = NLM_F_CREATE | NLM_F_EXCL;
        let new = add
            .iter()
            .map(|ip| (*ip, request(RTM_NEWADDR, new, index, *ip)));
        let old = remove
            .iter()
            .map(|ip| (*ip, request(RTM_DELADDR, 0, index, *ip)));
        let (addresses, mut requests): (Vec<_>, Vec<_>) = new.chain(old).unzip();
        let verdicts = self.socket.exchange_all(what, &mut requests)?;
        let refused = addresses.into_iter().zip(verdicts);
        Ok(refused
            .filter_map(|(address, verdict)| {
                let refusal = verdict?;
                let fine = [Errno::EEXIST, Errno::EADDRNOTAVAIL].contains(&refusal.errno);
                (!fine).then_some(Refused { address, refusal })
            })
            .collect())
    }
}

/// Return the request for one address, with the prefix length of a single address.
fn request(kind: u16, flags: u16, index: u32, ip: IpAddr) -> Vec<u8> {
    let (family, octets) = octets(ip);
    let mut head = vec![family, IpNet::from(ip).prefix_len(), 0, 0];
    head.extend_from_slice(&index.to_ne_bytes());
    let request = Builder::new(kind, flags)
        .fixed(&head)
        .bytes(IFA_LOCAL, &octets)
        .bytes(IFA_ADDRESS, &octets);
    if ip.is_ipv4() {
        return request.finish();
    }
    // `struct ifa_cacheinfo`: valid forever, but never preferred. Otherwise the kernel would masquerade
    // with a Service's address if that shares more bits with the destination than the node's own
    // address (RFC 6724, section 5, rules 3 and 8), and the answer would never return to this node.
    let mut lifetimes = [0; 16];
    lifetimes[4..8].fill(0xff);
    request.bytes(IFA_CACHEINFO, &lifetimes).finish()
}
