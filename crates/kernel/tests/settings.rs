//! Counters and sysctls against the real kernel.

mod support;

use kernel::Family;
use kernel::iptables::{Backend, Rules};
use kernel::nfacct::{Counted, Counter, NfAcct};
use kernel::sysctl::{Error, Sysctl, SysctlTree};
use support::{in_namespace, run};

#[test]
fn counters_are_made_once_and_count() {
    in_namespace(|| {
        let mut nfacct = NfAcct::open().unwrap().expect("this kernel has nfacct");
        for counter in Counter::ALL {
            assert_eq!(nfacct.read(counter).unwrap(), None);
            nfacct.ensure(counter).unwrap();
            assert_eq!(nfacct.read(counter).unwrap(), Some(Counted::default()));
        }
        let counter = Counter::LocalhostNodePortsAccepted;
        let rule = format!(
            "*filter\n-A OUTPUT -d 127.0.0.1 -p udp -m nfacct --nfacct-name {}\nCOMMIT\n",
            counter.name()
        );
        let mut rules = Rules::with_backend(Family::Ipv4, Backend::Nft).unwrap();
        rules.restore(&rule).unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .send_to(b"12345", socket.local_addr().unwrap())
            .unwrap();
        let counted = Counted {
            packets: 1,
            bytes: 33,
        };
        assert_eq!(nfacct.read(counter).unwrap(), Some(counted));
        nfacct.ensure(counter).unwrap();
        assert_eq!(nfacct.read(counter).unwrap(), Some(counted), "not set back");
        let busy = nfacct.delete(counter).unwrap_err();
        assert_eq!(busy.errno(), Some(kernel::Errno::EBUSY));
        nfacct.delete(Counter::CtStateInvalidDropped).unwrap();
        nfacct.delete(Counter::CtStateInvalidDropped).unwrap();
    });
}

#[test]
fn a_setting_is_written_only_when_it_differs() {
    in_namespace(|| {
        let sysctls = SysctlTree::default();
        let name = Sysctl::ROUTE_LOCALNET;
        assert_eq!(sysctls.read_number(&name).unwrap(), 0);
        assert!(sysctls.set(&name, "1").unwrap());
        assert!(!sysctls.set(&name, "1").unwrap());
        assert_eq!(
            run("cat /proc/sys/net/ipv4/conf/all/route_localnet").trim(),
            "1"
        );
        let of_lo = Sysctl::of_interface(Family::Ipv6, "lo", "disable_ipv6");
        assert_eq!(of_lo.path(), "net/ipv6/conf/lo/disable_ipv6");
        assert_eq!(sysctls.read_number(&of_lo).unwrap(), 0);
        assert!(sysctls.set(&Sysctl::CONNTRACK_UDP_TIMEOUT, "33").unwrap());
        assert_eq!(sysctls.read(&Sysctl::CONNTRACK_UDP_TIMEOUT).unwrap(), "33");
    });
}

#[test]
fn each_sysctl_failure_has_its_own_error() {
    in_namespace(|| {
        let sysctls = SysctlTree::default();
        let absent = Sysctl::new("net/ipv4/vs/there_is_no_such");
        let error = sysctls.set(&absent, "1").unwrap_err();
        assert!(
            matches!(&error, Error::Absent(name) if *name == absent),
            "{error}"
        );
        let error = sysctls.set(&Sysctl::IP_FORWARD, "maybe").unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        // A namespace that is not the first may not set the limit of all.
        let error = sysctls.set(&Sysctl::CONNTRACK_MAX, "123456").unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        assert!(error.to_string().contains("nf_conntrack_max"), "{error}");
        let text = Sysctl::new("net/ipv4/tcp_congestion_control");
        let error = sysctls.read_number(&text).unwrap_err();
        assert!(matches!(error, Error::NotANumber { .. }), "{error}");
    });
}
