//! Kernel settings below `/proc/sys`, read before they are written.
//!
//! The caller decides which settings to write. kube-proxy v1.36 uses these:
//!
//! | setting | mode | value |
//! |---|---|---|
//! | `net/ipv4/conf/all/route_localnet` | iptables, with NodePorts on loopback; IPv4 | 1 |
//! | `net/bridge/bridge-nf-call-iptables`, `…-ip6tables` | iptables, ipvs | only read: absent or 0 causes a warning when traffic of bridges is to be seen |
//! | `net/netfilter/nf_conntrack_max` | all | cores × maxPerCore, at least min; never lowered by more than asked |
//! | `/sys/module/nf_conntrack/parameters/hashsize` | all | a quarter of it, if it is smaller; a module parameter, not a sysctl |
//! | `net/netfilter/nf_conntrack_tcp_be_liberal` | all, if configured | 1 |
//! | `net/netfilter/nf_conntrack_tcp_timeout_established` | all, if above 0 | seconds |
//! | `net/netfilter/nf_conntrack_tcp_timeout_close_wait` | all, if above 0 | seconds |
//! | `net/netfilter/nf_conntrack_udp_timeout`, `…_udp_timeout_stream` | all, if above 0 | seconds |
//! | `net/ipv4/vs/conntrack` | ipvs | 1 |
//! | `net/ipv4/vs/conn_reuse_mode` | ipvs, kernels from 4.1 to before 5.9 | 0 |
//! | `net/ipv4/vs/expire_nodest_conn` | ipvs | 1 |
//! | `net/ipv4/vs/expire_quiescent_template` | ipvs | 1 |
//! | `net/ipv4/ip_forward` | ipvs | 1 |
//! | `net/ipv4/conf/all/arp_ignore` | ipvs with strictARP | 1 |
//! | `net/ipv4/conf/all/arp_announce` | ipvs with strictARP | 2 |

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A setting, by its path below `/proc/sys` (slashes, since an interface's name may have dots).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sysctl(Cow<'static, str>);

impl Sysctl {
    /// `net/ipv4/conf/all/route_localnet`: packets from elsewhere may go to 127.0.0.0/8.
    pub const ROUTE_LOCALNET: Sysctl = Sysctl::new("net/ipv4/conf/all/route_localnet");
    /// `net/ipv4/ip_forward`.
    pub const IP_FORWARD: Sysctl = Sysctl::new("net/ipv4/ip_forward");
    /// `net/ipv4/vs/conntrack`: IPVS' connections are tracked, so that iptables can masquerade them.
    pub const VS_CONNTRACK: Sysctl = Sysctl::new("net/ipv4/vs/conntrack");
    /// `net/ipv4/vs/expire_nodest_conn`: a connection ends with its destination.
    pub const VS_EXPIRE_NODEST_CONN: Sysctl = Sysctl::new("net/ipv4/vs/expire_nodest_conn");
    /// `net/ipv4/vs/expire_quiescent_template`: affinity ends when its destination's weight is 0.
    pub const VS_EXPIRE_QUIESCENT_TEMPLATE: Sysctl =
        Sysctl::new("net/ipv4/vs/expire_quiescent_template");
    /// `net/ipv4/conf/all/arp_ignore`.
    pub const ARP_IGNORE: Sysctl = Sysctl::new("net/ipv4/conf/all/arp_ignore");
    /// `net/ipv4/conf/all/arp_announce`.
    pub const ARP_ANNOUNCE: Sysctl = Sysctl::new("net/ipv4/conf/all/arp_announce");
    /// `net/netfilter/nf_conntrack_max`; read-only in all but the first network namespace.
    pub const CONNTRACK_MAX: Sysctl = Sysctl::new("net/netfilter/nf_conntrack_max");
    /// `module/nf_conntrack/parameters/hashsize`, below `/sys`: the number of hash buckets.
    pub const CONNTRACK_BUCKETS: Sysctl = Sysctl::new("module/nf_conntrack/parameters/hashsize");
    /// `net/netfilter/nf_conntrack_count`: the current number of entries.
    pub const CONNTRACK_COUNT: Sysctl = Sysctl::new("net/netfilter/nf_conntrack_count");
    /// `net/netfilter/nf_conntrack_tcp_be_liberal`.
    pub const CONNTRACK_TCP_BE_LIBERAL: Sysctl =
        Sysctl::new("net/netfilter/nf_conntrack_tcp_be_liberal");
    /// `net/netfilter/nf_conntrack_tcp_timeout_established`, seconds.
    pub const CONNTRACK_TCP_TIMEOUT_ESTABLISHED: Sysctl =
        Sysctl::new("net/netfilter/nf_conntrack_tcp_timeout_established");
    /// `net/netfilter/nf_conntrack_tcp_timeout_close_wait`, seconds.
    pub const CONNTRACK_TCP_TIMEOUT_CLOSE_WAIT: Sysctl =
        Sysctl::new("net/netfilter/nf_conntrack_tcp_timeout_close_wait");
    /// `net/netfilter/nf_conntrack_udp_timeout`, seconds.
    pub const CONNTRACK_UDP_TIMEOUT: Sysctl = Sysctl::new("net/netfilter/nf_conntrack_udp_timeout");
    /// `net/netfilter/nf_conntrack_udp_timeout_stream`, seconds.
    pub const CONNTRACK_UDP_TIMEOUT_STREAM: Sysctl =
        Sysctl::new("net/netfilter/nf_conntrack_udp_timeout_stream");

    /// Return the setting with this path below `/proc/sys`.
    pub const fn new(path: &'static str) -> Self {
        Sysctl(Cow::Borrowed(path))
    }

    /// Return a setting of one interface: `net/FAMILY/conf/INTERFACE/NAME`.
    pub fn of_interface(family: netfilter::iptables::Family, interface: &str, name: &str) -> Self {
        let family = match family {
            netfilter::iptables::Family::Ipv4 => "ipv4",
            netfilter::iptables::Family::Ipv6 => "ipv6",
        };
        Sysctl(Cow::Owned(format!("net/{family}/conf/{interface}/{name}")))
    }

    /// Return the path below `/proc/sys`.
    pub fn path(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The setting does not exist in this kernel or namespace, usually because a module is not loaded.
    #[error("sysctl {0} does not exist on this kernel")]
    Absent(Sysctl),
    /// The setting cannot be written here: `/proc/sys` is read-only, or the namespace does not own it.
    #[error("cannot set sysctl {name} to {value}: {cause}")]
    Denied {
        /// The setting.
        name: Sysctl,
        /// The desired value.
        value: String,
        /// The reason.
        cause: io::Error,
    },
    /// The kernel refuses the value.
    #[error("the kernel refuses {value:?} for sysctl {name}: {cause}")]
    Refused {
        /// The setting.
        name: Sysctl,
        /// The desired value.
        value: String,
        /// The reason.
        cause: io::Error,
    },
    /// It cannot be read.
    #[error("cannot read sysctl {name}: {cause}")]
    Read {
        /// The setting.
        name: Sysctl,
        /// The reason.
        cause: io::Error,
    },
    /// Its value is not a number.
    #[error("sysctl {name}: {value:?} is not a number")]
    NotANumber {
        /// The setting.
        name: Sysctl,
        /// Its value.
        value: String,
    },
}

/// The settings of the calling thread's network namespace.
#[derive(Clone, Debug)]
pub struct SysctlTree {
    root: PathBuf,
}

impl Default for SysctlTree {
    fn default() -> Self {
        Self::at("/proc/sys")
    }
}

impl SysctlTree {
    /// Use another folder than `/proc/sys` (the host's, mounted elsewhere).
    pub fn at(root: impl Into<PathBuf>) -> Self {
        SysctlTree { root: root.into() }
    }

    /// Return the value, without the newline.
    ///
    /// # Errors
    /// [`Error::Absent`], [`Error::Read`].
    pub fn read(&self, name: &Sysctl) -> Result<String, Error> {
        match std::fs::read_to_string(self.file(name)) {
            Ok(text) => Ok(text.trim_end().to_owned()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::Absent(name.clone())),
            Err(cause) => Err(Error::Read {
                name: name.clone(),
                cause,
            }),
        }
    }

    /// Return the value as a number.
    ///
    /// # Errors
    /// As [`SysctlTree::read`], and [`Error::NotANumber`].
    pub fn read_number(&self, name: &Sysctl) -> Result<i64, Error> {
        let value = self.read(name)?;
        value.parse().map_err(|_| Error::NotANumber {
            name: name.clone(),
            value,
        })
    }

    /// Set the value if it differs (a read-only `/proc/sys` with the right value is not an error). Return
    /// whether it was changed.
    ///
    /// # Errors
    /// [`Error::Absent`], [`Error::Denied`], [`Error::Refused`].
    pub fn set(&self, name: &Sysctl, value: &str) -> Result<bool, Error> {
        match self.read(name) {
            Ok(current) if current == value => return Ok(false),
            Err(error @ Error::Absent(_)) => return Err(error),
            // Some can be written but not read.
            Ok(_) | Err(_) => {}
        }
        let (name, path) = (name.clone(), self.file(name));
        let Err(cause) = std::fs::write(path, value) else {
            return Ok(true);
        };
        let value = value.to_owned();
        Err(match cause.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Error::Denied { name, value, cause }
            }
            _ => Error::Refused { name, value, cause },
        })
    }

    fn file(&self, name: &Sysctl) -> PathBuf {
        self.root.join(Path::new(name.path()))
    }
}
