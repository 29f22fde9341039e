use netfilter::iptables::{Family as IpFamily, Table};
use netfilter::nft::{Chain, Family, Op};
use nix::errno::Errno;

use super::*;
use crate::iptables::RestoreError;
use crate::nfnetlink::{TableId, TransactionError};

const SERVICES: &[u8] =
    b"*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n-A KUBE-SERVICES -j KUBE-SVC-A\nCOMMIT\n";

fn saved(kernel: &mut FakeKernel) -> String {
    let iptables = kernel.iptables(IpFamily::Ipv4).unwrap();
    String::from_utf8(iptables.save(Table::Nat).unwrap()).unwrap()
}

#[test]
fn a_restore_is_all_or_nothing() {
    let mut kernel = FakeKernel::default();
    let iptables = kernel.iptables(IpFamily::Ipv4).unwrap();
    iptables.restore(SERVICES).unwrap();
    let before = saved(&mut kernel);
    assert!(
        before.contains("-A KUBE-SERVICES -j KUBE-SVC-A"),
        "{before}"
    );
    // The chain is still jumped to.
    let bad = b"*nat\n:KUBE-SVC-B - [0:0]\n-X KUBE-SVC-A\nCOMMIT\n";
    let error = kernel.v4.restore(bad).unwrap_err();
    assert!(matches!(error, RestoreError::Refused { .. }), "{error}");
    assert_eq!(error.lines()[0].number, 3);
    assert_eq!(saved(&mut kernel), before);
    let garbage = kernel.v4.restore(b"*nat\n-A\nCOMMIT\n").unwrap_err();
    assert!(
        matches!(garbage, RestoreError::BadInput { .. }),
        "{garbage}"
    );
    assert_eq!(saved(&mut kernel), before);
}

#[test]
fn it_fails_when_told_to() {
    let mut kernel = FakeKernel::default();
    kernel.v4.fail(0, RestoreFault::LockHeld);
    kernel.v4.fail(1, RestoreFault::Hung);
    kernel.v4.fail(2, RestoreFault::HungAfterCommit);
    let held = kernel.v4.restore(SERVICES).unwrap_err();
    assert!(matches!(held, RestoreError::LockHeld { .. }));
    assert!(matches!(
        kernel.v4.restore(SERVICES),
        Err(RestoreError::Exec(_))
    ));
    assert_eq!(saved(&mut kernel), "");
    assert!(matches!(
        kernel.v4.restore(SERVICES),
        Err(RestoreError::Exec(_))
    ));
    assert!(saved(&mut kernel).contains("KUBE-SVC-A"));
    assert_eq!(kernel.v4.restores.len(), 3);
    kernel.v4.restore(SERVICES).unwrap();
}

#[test]
fn rules_are_refused_by_what_they_are() {
    let mut kernel = FakeKernel::default();
    kernel
        .v4
        .refuse(|_, chain, _| chain.as_str() == "KUBE-SERVICES");
    let error = kernel.v4.restore(SERVICES).unwrap_err();
    assert_eq!(error.lines()[0].text, "-A KUBE-SERVICES -j KUBE-SVC-A");
    assert_eq!(saved(&mut kernel), "");
    kernel.v4.refuse_nothing();
    kernel.v4.restore(SERVICES).unwrap();
}

#[test]
fn a_kernel_without_ipv6_says_so() {
    let mut kernel = FakeKernel {
        v6: None,
        ..FakeKernel::default()
    };
    let error = kernel.iptables(IpFamily::Ipv6).err().unwrap();
    assert_eq!(error.to_string(), "IPv6 is disabled in this kernel");
}

#[test]
fn settings_are_there_or_not_and_written_or_not() {
    let mut kernel = FakeKernel::default();
    let sysctls = &mut kernel.sysctls;
    let name = Sysctl::ROUTE_LOCALNET;
    assert!(matches!(
        sysctls.set(&name, "1"),
        Err(sysctl::Error::Absent(_))
    ));
    sysctls.values.insert(name.clone(), "0".to_owned());
    assert!(sysctls.set(&name, "1").unwrap());
    assert!(!sysctls.set(&name, "1").unwrap());
    sysctls.read_only.insert(name.clone());
    assert!(matches!(
        sysctls.set(&name, "0"),
        Err(sysctl::Error::Denied { .. })
    ));
    assert_eq!(sysctls.written, [(name, "1".to_owned())]);
}

#[test]
fn nf_tables_commits_all_or_nothing_and_fails_when_told_to() {
    let mut kernel = FakeKernel::default();
    let table = TableId::new(Family::Ip, "kube-proxy");
    let chain = |name: &str| {
        Op::AddChain(Chain {
            name: name.to_owned(),
            base: None,
            comment: None,
        })
    };
    let make = [Op::AddTable { comment: None }, chain("a")];
    let nft = &mut kernel.nftables;
    let start = nft.generation;
    for fault in [
        CommitFault::GenerationChanged,
        CommitFault::LostBeforeCommit,
        CommitFault::RefusedOp(1, Errno::EINVAL),
        CommitFault::RefusedWhole(Errno::ENOMEM),
    ] {
        nft.fail(0, fault);
        let generation = nft.generation;
        let error = nft.commit(&table, &make, Some(generation)).unwrap_err();
        let right = match fault {
            CommitFault::GenerationChanged => {
                matches!(error, TransactionError::GenerationChanged)
            }
            CommitFault::LostBeforeCommit => matches!(error, TransactionError::LostReply),
            CommitFault::RefusedOp(..) => matches!(error, TransactionError::Refused(_)),
            _ => matches!(error, TransactionError::RefusedWhole(_)),
        };
        assert!(right, "{fault:?}: {error}");
        assert!(nft.read_table(&table).unwrap().0.is_none());
    }
    assert_eq!(nft.generation, start.next());
    nft.fail(0, CommitFault::LostAfterCommit);
    assert!(nft.commit(&table, &make, None).is_err());
    let (read, generation) = nft.read_table(&table).unwrap();
    assert!(read.unwrap().contents.chains.contains_key("a"));
    assert_eq!(generation, start.next().next());
    // The second operation is refused, and the first with it.
    let bad = [chain("b"), Op::DeleteChain("gone".to_owned())];
    match nft.commit(&table, &bad, None) {
        Err(TransactionError::Refused(faults)) => {
            assert_eq!((faults[0].at, faults[0].refusal.errno), (1, Errno::ENOENT));
        }
        other => panic!("{other:?}"),
    }
    nft.refuse(|op| matches!(op, Op::AddChain(chain) if chain.name == "b"));
    assert!(nft.commit(&table, &[chain("b")], None).is_err());
    nft.meddle(&table, |table| *table = None);
    assert_ne!(nft.generation, generation);
    assert!(nft.read_table(&table).unwrap().0.is_none());
    assert_eq!(nft.commits.len(), 7);
}
