//! The relay at the limit of open files. In a process of its own, because the limit applies to the process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use model::Protocol;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use relay::{Backends, Frontend, Limits, Relay};
use socket2::{Domain, Socket, Type};

#[test]
fn a_client_waits_while_files_are_exhausted_and_is_served_afterwards() {
    let relay = Relay::start(Limits::default()).unwrap();
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let backends = Backends {
        endpoints: [endpoint.local_addr().unwrap()].into(),
        affinity: None,
    };
    let frontend = Frontend {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        protocol: Protocol::Tcp,
    };
    let (bound, _) = relay.serve(BTreeMap::from([(frontend, backends)])).unwrap();
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();

    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    let mut all = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        all.push(file);
    }
    client.connect(&bound[0].address.into()).unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut client: TcpStream = client.into();
    let waits = client.read(&mut [0]).unwrap_err();
    assert_eq!(waits.kind(), ErrorKind::WouldBlock, "{waits}");
    assert_eq!(relay.open_connections(), 0);

    drop(all);
    let (served, _) = endpoint.accept().unwrap();
    drop(served);
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}
