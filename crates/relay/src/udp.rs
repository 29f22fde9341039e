//! UDP: one socket towards the endpoint for each client, so that answers find their way.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use crate::balance::Balancer;
use crate::{Shared, Slot};

/// The largest UDP payload.
const DATAGRAM: usize = 65_535;

type Flows = Arc<Mutex<HashMap<SocketAddr, Flow>>>;

struct Flow {
    socket: Arc<UdpSocket>,
    endpoint: SocketAddr,
    last_used: Arc<Mutex<Instant>>,
    task: tokio::task::AbortHandle,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends all flows with the frontend, so that its port is free again at once.
struct Closing(Flows);

impl Drop for Closing {
    fn drop(&mut self) {
        lock(&self.0).clear();
    }
}

/// A socket that has the address. What comes before it is served is dropped.
pub(crate) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Leaves behind what came while the port was only reserved: nobody was meant to use it.
pub(crate) fn open(socket: Socket) -> io::Result<UdpSocket> {
    let socket: std::net::UdpSocket = socket.into();
    while socket.recv(&mut [0]).is_ok() {}
    UdpSocket::from_std(socket)
}

pub(crate) async fn serve(socket: UdpSocket, balancer: Balancer, shared: Arc<Shared>) {
    let socket = Arc::new(socket);
    let flows = Flows::default();
    let _closing = Closing(Arc::clone(&flows));
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error that an earlier answer met; the socket is well.
            Err(error) => {
                tracing::debug!("receiving a datagram: {error}");
                continue;
            }
        };
        let Some(datagram) = buffer.get(..length) else {
            continue;
        };
        let upstream = match known(&flows, &balancer, client) {
            Some(upstream) => upstream,
            None => match begin(&flows, &balancer, &shared, &socket, client).await {
                Some(upstream) => upstream,
                None => continue,
            },
        };
        // A refusal shows at the next receive; UDP promises nothing more.
        let _ = upstream.send(datagram).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The client's flow, unless its endpoint is gone: then the next datagram goes elsewhere.
fn known(flows: &Flows, balancer: &Balancer, client: SocketAddr) -> Option<Arc<UdpSocket>> {
    let mut flows = lock(flows);
    let flow = flows.get(&client)?;
    if !balancer.has(flow.endpoint) {
        flows.remove(&client);
        return None;
    }
    *lock(&flow.last_used) = Instant::now();
    Some(Arc::clone(&flow.socket))
}

async fn begin(
    flows: &Flows,
    balancer: &Balancer,
    shared: &Arc<Shared>,
    socket: &Arc<UdpSocket>,
    client: SocketAddr,
) -> Option<Arc<UdpSocket>> {
    let slot = shared.slot()?;
    let now = Instant::now();
    let endpoint = *balancer.candidates(client.ip(), now).first()?;
    let upstream = match connect(endpoint, shared.limits.mark).await {
        Ok(upstream) => Arc::new(upstream),
        Err(error) => {
            tracing::debug!("{endpoint} cannot be reached: {error}");
            return None;
        }
    };
    balancer.used(client.ip(), endpoint, now);
    let last_used = Arc::new(Mutex::new(now));
    let task = tokio::spawn(answers(
        Arc::clone(flows),
        Arc::clone(&upstream),
        Arc::clone(socket),
        client,
        Arc::clone(&last_used),
        Arc::clone(shared),
        slot,
    ));
    let flow = Flow {
        socket: Arc::clone(&upstream),
        endpoint,
        last_used,
        task: task.abort_handle(),
    };
    lock(flows).insert(client, flow);
    Some(upstream)
}

async fn connect(endpoint: SocketAddr, mark: u32) -> io::Result<UdpSocket> {
    let any: SocketAddr = if endpoint.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    if mark != 0 {
        SockRef::from(&socket).set_mark(mark)?;
    }
    socket.connect(endpoint).await?;
    Ok(socket)
}

/// Carries answers back until the flow has been idle for too long in both directions.
async fn answers(
    flows: Flows,
    upstream: Arc<UdpSocket>,
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    last_used: Arc<Mutex<Instant>>,
    shared: Arc<Shared>,
    slot: Slot,
) {
    let _slot = slot;
    let idle = shared.limits.udp_idle;
    let mut buffer = Vec::new();
    loop {
        let until = *lock(&last_used) + idle;
        let readable = tokio::time::timeout_at(until.into(), upstream.readable()).await;
        if readable.is_err() {
            // The client may have sent meanwhile, which moves the end.
            if *lock(&last_used) + idle <= Instant::now() {
                break;
            }
            continue;
        }
        // Allocated only while there is something to carry: idle flows hold no buffer.
        buffer.resize(DATAGRAM, 0);
        while let Ok(length) = upstream.try_recv(&mut buffer) {
            *lock(&last_used) = Instant::now();
            if let Some(datagram) = buffer.get(..length) {
                let _ = socket.send_to(datagram, client).await;
            }
        }
        buffer = Vec::new();
    }
    let mut flows = lock(&flows);
    // Another flow of the same client may have taken the place.
    if flows
        .get(&client)
        .is_some_and(|f| Arc::ptr_eq(&f.socket, &upstream))
    {
        flows.remove(&client);
    }
}
