//! Addresses and their changes against the real kernel.

mod support;

use std::time::Duration;

use kernel::address::{AddressWatch, InterfaceAddress, addresses};
use support::{in_namespace, run};

fn listed() -> Vec<String> {
    let show = |a: &InterfaceAddress| format!("{} {} {:?}", a.interface, a.address, a.scope);
    let mut all: Vec<String> = addresses().unwrap().iter().map(show).collect();
    all.sort();
    all
}

#[test]
fn addresses_are_listed_with_their_interfaces() {
    in_namespace(|| {
        assert_eq!(listed(), ["lo 127.0.0.1/8 Host", "lo ::1/128 Host"]);
        run("ip link add kern-a type veth peer name kern-b");
        run("ip addr add 10.1.2.3/24 dev kern-a");
        run("ip addr add 10.9.0.1 peer 10.9.0.2/30 dev kern-a");
        run("ip addr add fd00::5/64 dev kern-b nodad");
        let expected = [
            "kern-a 10.1.2.3/24 Global",
            "kern-a 10.9.0.1/30 Global",
            "kern-b fd00::5/64 Global",
            "lo 127.0.0.1/8 Host",
            "lo ::1/128 Host",
        ];
        assert_eq!(listed(), expected);
        assert!(
            addresses()
                .unwrap()
                .iter()
                .all(|a| a.up == (a.interface == "lo"))
        );
    });
}

#[test]
fn many_addresses_come_in_several_parts() {
    in_namespace(|| {
        let mut commands = String::new();
        for at in 0..1500 {
            commands += &format!("addr add 10.{}.{}.1/32 dev lo\n", at / 250, at % 250);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), commands).unwrap();
        run(&format!("ip -batch {}", file.path().display()));
        assert_eq!(addresses().unwrap().len(), 1502);
    });
}

#[test]
fn changes_are_told() {
    in_namespace(|| {
        let mut watch = AddressWatch::open().unwrap();
        assert!(!watch.changed().unwrap());
        for change in [
            "ip addr add 10.1.2.3/32 dev lo",
            "ip addr add fd00::1/128 dev lo",
            "ip addr del 10.1.2.3/32 dev lo",
            "ip link set lo down",
        ] {
            run(change);
            assert!(watch.wait(Duration::from_secs(5)).unwrap(), "{change}");
            assert!(watch.changed().unwrap(), "{change}");
            assert!(!watch.changed().unwrap(), "{change}");
        }
    });
}
