//! Overflows of a process's netlink sockets.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
};

use crate::support::Proxy;

/// Return the ports of a process's netfilter netlink sockets.
pub(crate) fn netfilter_ports(proxy: &Proxy) -> Vec<u32> {
    let process = format!("/proc/{}", proxy.process.0.id());
    let files = fs::read_dir(format!("{process}/fd")).unwrap();
    let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    let sockets: BTreeSet<String> = links
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    let table = fs::read_to_string(format!("{process}/net/netlink")).unwrap();
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Protocol, port and, last, the inode; 12 is NETLINK_NETFILTER.
    rows.filter(|row| row[1] == "12" && row.last().is_some_and(|inode| sockets.contains(*inode)))
        .map(|row| row[2].parse().unwrap())
        .collect()
}

/// Fill the receive buffer of a netlink socket, as a privileged process may, so that the kernel's
/// notifications are lost.
pub(crate) fn fill(port: u32) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let netfilter = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, netfilter).unwrap();
    let to = NetlinkAddr::new(port, 0);
    for size in [64 << 10, 16] {
        let noise = vec![0; size];
        loop {
            match sendto(socket.as_raw_fd(), &noise, &to, MsgFlags::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => panic!("{errno}"),
            }
        }
    }
}
