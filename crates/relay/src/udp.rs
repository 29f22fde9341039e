//! UDP: one socket to the endpoint per client, so that replies can be assigned to clients.
//!
//! Sending never waits: datagrams that do not fit into a socket's buffer are lost.

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
use self::message::{Client, ControlBuffer};
use crate::balance::Balancer;
use crate::buffer::with_buffer;
use crate::limits::{Place, Shared};

/// A frontend. Tasks that carry replies hold it only while they send one, so that its address is free
/// as soon as it is no longer served.
struct Server {
    socket: UdpSocket,
    _open: oneshot::Sender<Infallible>,
    balancer: Balancer,
    shared: Arc<Shared>,
    flows: Mutex<Flows>,
}

/// The socket from a flow to its endpoint.
struct Upstream {
    socket: UdpSocket,
    endpoint: SocketAddr,
    last_used: Mutex<Instant>,
    /// The endpoint's host reported a closed port.
    refused: AtomicBool,
}

/// Bind a socket. Datagrams that arrive before it is served are dropped.
pub(crate) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = socket_for(address)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if address.ip().is_unspecified() {
        message::request_addresses(&socket, address.is_ipv6())?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn socket_for(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Discard the datagrams that arrived while the port was only reserved.
pub(crate) fn open(socket: Socket) -> io::Result<UdpSocket> {
    let socket: std::net::UdpSocket = socket.into();
    while socket.recv(&mut [0]).is_ok() {}
    UdpSocket::from_std(socket)
}

/// Serve a frontend; `open` is dropped when its socket is closed.
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
    let mut control = ControlBuffer::new();
    loop {
        let received = server.socket.readable().await.and_then(|()| {
            with_buffer(|mut buffer| {
                let buffer = buffer.initialize_unfilled();
                let (client, length) = message::receive(&server.socket, buffer, &mut control)?;
                server.forward(client, buffer.get(..length).unwrap_or_default());
                Ok(())
            })
        });
        match received {
            Ok(()) => {}
            // Spurious wake-up.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The ICMP error of an earlier reply; the socket still works.
            Err(error) => tracing::debug!(%error, "Cannot receive a datagram"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Forward a datagram to the endpoint of the client's flow, or to another one if that endpoint
    /// was removed or refuses.
    fn forward(self: &Arc<Self>, client: Client, datagram: &[u8]) {
        let known = lock(&self.flows).get(client);
        let mut refused = None;
        if let Some(upstream) = known {
            let endpoint = upstream.endpoint;
            let exists = self.balancer.has(endpoint);
            // The error of an earlier datagram is reported here, and then this datagram was not sent.
            if exists && !upstream.refused.load(Ordering::Acquire) && upstream.send(datagram) {
                *lock(&upstream.last_used) = Instant::now();
                return;
            }
            lock(&self.flows).remove(client, &upstream);
            if exists {
                let client = client.address;
                tracing::debug!(%endpoint, %client, "Endpoint refused; choosing another");
                self.balancer.refused(client.ip(), endpoint);
                refused = Some(endpoint);
            }
        }
        if let Some(upstream) = self.begin(client, refused) {
            upstream.send(datagram);
        }
    }

    /// Start a flow, to the endpoint that refused only if it is the only one.
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
                if self.shared.starved.is_due() {
                    tracing::warn!(%endpoint, %error, "Cannot open a socket; datagram lost");
                }
                return None;
            }
        };
        self.balancer.used(client.address.ip(), endpoint, now);
        let (carried, server) = (Arc::clone(&upstream), Arc::downgrade(self));
        let task = tokio::spawn(carry_replies(carried, client, server));
        let flow = Flow::new(Arc::clone(&upstream), task.abort_handle(), place);
        lock(&self.flows).insert(client, flow);
        Some(upstream)
    }

    /// Take a place for a new flow, if necessary that of an idle flow.
    fn place(&self, now: Instant) -> Option<Place> {
        let places = &self.shared.flows;
        let free = places.take();
        if free.is_some() {
            return free;
        }
        if self.shared.full.is_due() {
            let limit = self.shared.limits.flows;
            tracing::warn!(limit, "Limit of UDP flows reached; replacing idle ones");
        }
        lock(&self.flows).evict(now);
        places.take()
    }

    fn reply(&self, client: Client, datagram: &[u8]) {
        if let Err(error) = message::send(&self.socket, client, datagram) {
            tracing::debug!(client = %client.address, %error, "Cannot send a reply; datagram lost");
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

    /// Send a datagram if the buffer has room. False if the endpoint is known to be unreachable.
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

/// Carry replies until both directions have been idle for the timeout.
async fn carry_replies(upstream: Arc<Upstream>, client: Client, server: Weak<Server>) {
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
                        server.reply(client, buffer.filled());
                    }
                    // The client's next datagram goes to another endpoint.
                    Err(_) => upstream.refused.store(true, Ordering::Release),
                }
                Poll::Ready(true)
            })
        });
        tokio::select! {
            biased;
            open = carried => if !open {
                return;
            },
            () = &mut end => {
                // Cheaper than resetting the timer with every datagram.
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
