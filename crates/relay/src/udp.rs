//! UDP: one socket towards the endpoint for each client, so that answers find their way.
//!
//! Sending never waits: what does not fit into a socket's buffer is lost, as on any wire.

mod flows;
mod message;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, ready};
use std::time::Instant;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use self::flows::{Flow, Flows};
use self::message::{Beside, Client};
use crate::Shared;
use crate::balance::Balancer;
use crate::buffer::with_buffer;
use crate::limits::Place;

/// A frontend. Whoever carries answers holds it only while sending one, so that its address is free
/// as soon as nobody serves it.
struct Server {
    socket: UdpSocket,
    _open: oneshot::Sender<Infallible>,
    balancer: Balancer,
    shared: Arc<Shared>,
    flows: Mutex<Flows>,
}

/// A flow's way to its endpoint.
struct Upstream {
    socket: UdpSocket,
    endpoint: SocketAddr,
    last_used: Mutex<Instant>,
    /// The endpoint's host said that nobody listens there.
    refused: AtomicBool,
}

/// A socket that has the address. What comes before it is served is dropped.
pub(crate) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = socket_for(address)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if address.ip().is_unspecified() {
        message::tell_addresses(&socket, address.is_ipv6())?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn socket_for(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Leaves behind what came while the port was only reserved: nobody was meant to use it.
pub(crate) fn open(socket: Socket) -> io::Result<UdpSocket> {
    let socket: std::net::UdpSocket = socket.into();
    while socket.recv(&mut [0]).is_ok() {}
    UdpSocket::from_std(socket)
}

/// Serves a frontend; when its socket is closed, `open` is dropped.
pub(crate) async fn serve(
    socket: UdpSocket,
    open: oneshot::Sender<Infallible>,
    balancer: Balancer,
    shared: Arc<Shared>,
) {
    let server = Arc::new(Server {
        socket,
        _open: open,
        balancer,
        shared,
        flows: Mutex::default(),
    });
    let mut beside = Beside::new();
    loop {
        let received = server.socket.readable().await.and_then(|()| {
            with_buffer(|mut buffer| {
                let buffer = buffer.initialize_unfilled();
                let (client, length) = message::receive(&server.socket, buffer, &mut beside)?;
                server.forward(client, buffer.get(..length).unwrap_or_default());
                Ok(())
            })
        });
        match received {
            Ok(()) => {}
            // Not a datagram after all.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // An ICMP error that an earlier answer met; the socket is well.
            Err(error) => tracing::debug!("receiving a datagram: {error}"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Sends a datagram on: to where the client's flow leads, unless that endpoint is gone or
    /// refuses, and then elsewhere.
    fn forward(self: &Arc<Self>, client: Client, datagram: &[u8]) {
        let known = lock(&self.flows).get(client);
        let mut refused = None;
        if let Some(upstream) = known {
            let endpoint = upstream.endpoint;
            let there = self.balancer.has(endpoint);
            // An error that an earlier datagram met shows here, and this one has not been sent.
            if there && !upstream.refused.load(Ordering::Acquire) && upstream.send(datagram) {
                *lock(&upstream.last_used) = Instant::now();
                return;
            }
            lock(&self.flows).remove(client, &upstream);
            if there {
                tracing::debug!("{endpoint} refuses, {} goes elsewhere", client.address);
                self.balancer.refused(client.address.ip(), endpoint);
                refused = Some(endpoint);
            }
        }
        if let Some(upstream) = self.begin(client, refused) {
            upstream.send(datagram);
        }
    }

    /// A new flow; to the endpoint that refused only where there is no other.
    fn begin(
        self: &Arc<Self>,
        client: Client,
        refused: Option<SocketAddr>,
    ) -> Option<Arc<Upstream>> {
        let now = Instant::now();
        let candidates = self.balancer.candidates(client.address.ip(), now);
        let other = candidates.iter().find(|e| Some(**e) != refused);
        let endpoint = *other.or(candidates.first())?;
        let place = self.place(now)?;
        let upstream = match Upstream::connect(endpoint, self.shared.limits.mark, now) {
            Ok(upstream) => Arc::new(upstream),
            Err(error) => {
                if self.shared.starved.now() {
                    tracing::warn!("a datagram for {endpoint} is lost: {error}");
                }
                return None;
            }
        };
        self.balancer.used(client.address.ip(), endpoint, now);
        let (carried, server) = (Arc::clone(&upstream), Arc::downgrade(self));
        let task = tokio::spawn(answers(carried, client, server));
        let flow = Flow::new(Arc::clone(&upstream), task.abort_handle(), place);
        lock(&self.flows).insert(client, flow);
        Some(upstream)
    }

    /// A place for a new flow, where need be that of an idle one.
    fn place(&self, now: Instant) -> Option<Place> {
        let places = &self.shared.flows;
        let free = places.take();
        if free.is_some() {
            return free;
        }
        if self.shared.full.now() {
            let limit = self.shared.limits.flows;
            tracing::warn!("{limit} UDP flows are open, the most there may be: idle ones make way");
        }
        lock(&self.flows).evict(now);
        places.take()
    }

    fn answer(&self, client: Client, datagram: &[u8]) {
        if let Err(error) = message::send(&self.socket, client, datagram) {
            tracing::debug!("an answer for {} is lost: {error}", client.address);
        }
    }
}

impl Upstream {
    fn connect(endpoint: SocketAddr, mark: u32, now: Instant) -> io::Result<Self> {
        let socket = socket_for(endpoint)?;
        if mark != 0 {
            socket.set_mark(mark)?;
        }
        socket.connect(&endpoint.into())?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            endpoint,
            last_used: Mutex::new(now),
            refused: AtomicBool::new(false),
        })
    }

    /// Sends it, if there is room; false if the endpoint is known not to get it.
    fn send(&self, datagram: &[u8]) -> bool {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
        match SockRef::from(&self.socket).send(datagram) {
            Err(error) => !matches!(
                error.kind(),
                ConnectionRefused | HostUnreachable | NetworkUnreachable
            ),
            Ok(_) => true,
        }
    }
}

/// Carries answers back until the flow has been idle for too long in both directions.
async fn answers(upstream: Arc<Upstream>, client: Client, server: Weak<Server>) {
    let Some(idle) = server.upgrade().map(|s| s.shared.limits.udp_idle) else {
        return;
    };
    let mut end = pin!(tokio::time::sleep(idle));
    loop {
        let carried = poll_fn(|context| {
            with_buffer(|mut buffer| {
                let received = ready!(upstream.socket.poll_recv(context, &mut buffer));
                let Some(server) = server.upgrade() else {
                    return Poll::Ready(false);
                };
                match received {
                    Ok(()) => {
                        *lock(&upstream.last_used) = Instant::now();
                        server.answer(client, buffer.filled());
                    }
                    // The client's next datagram goes elsewhere.
                    Err(_) => upstream.refused.store(true, Ordering::Release),
                }
                Poll::Ready(true)
            })
        });
        tokio::select! {
            biased;
            goes_on = carried => if !goes_on {
                return;
            },
            () = &mut end => {
                // Not set anew with every datagram, but looked at when it is over.
                let until = *lock(&upstream.last_used) + idle;
                if until <= Instant::now() {
                    break;
                }
                end.as_mut().reset(until.into());
            }
        }
    }
    if let Some(server) = server.upgrade() {
        lock(&server.flows).remove(client, &upstream);
    }
}
