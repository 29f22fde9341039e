//! TCP: one task a connection.

mod splice;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use self::splice::{Pipe, Stopped};
use crate::balance::Balancer;
use crate::buffer::{SIZE, with_buffer};
use crate::limits::Places;
use crate::{Limits, Shared};

/// How long to wait after an `accept` that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that wait to be accepted; the kernel has a limit of its own (`somaxconn`).
const BACKLOG: i32 = 4096;

/// So many full buffers in a row are a bulk transfer.
const BULK: u32 = 8;

/// An end that vanished without a word is noticed after two minutes; its connection would
/// otherwise stay for ever.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// A socket that has the address and refuses connections.
pub(crate) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

pub(crate) fn listen(socket: Socket) -> io::Result<TcpListener> {
    // What is accepted inherits it.
    prepare(&SockRef::from(&socket))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn prepare(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)
}

pub(crate) async fn serve(listener: TcpListener, balancer: Balancer, shared: Arc<Shared>) {
    let balancer = Arc::new(balancer);
    loop {
        let (client, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The client has gone again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                if shared.starved.now() {
                    tracing::warn!("cannot accept a connection, trying again: {error}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = shared.connections.take() else {
            if shared.full.now() {
                let limit = shared.limits.connections;
                tracing::warn!(
                    "{limit} connections are open, the most there may be: resetting more"
                );
            }
            refuse(&client);
            continue;
        };
        let (balancer, shared) = (Arc::clone(&balancer), Arc::clone(&shared));
        tokio::spawn(async move {
            let _place = place;
            let dialled = dial(&balancer, peer, &shared.limits);
            match tokio::time::timeout(shared.limits.dial_all, dialled).await {
                // How a connection ends is its two ends' business.
                Ok(Some(endpoint)) => drop(carry(client, endpoint, &shared.pipes).await),
                Ok(None) | Err(_) => refuse(&client),
            }
        });
    }
}

/// Closes with a reset: what a client sees of a port where nobody listens, as nearly as it can be
/// had once the kernel has accepted.
fn refuse(client: &TcpStream) {
    // Without it the client gets an orderly end, which says less.
    let _ = client.set_zero_linger();
}

/// The first endpoint that accepts, in the balancer's order.
async fn dial(balancer: &Balancer, peer: SocketAddr, limits: &Limits) -> Option<TcpStream> {
    for endpoint in balancer.candidates(peer.ip(), Instant::now()) {
        match tokio::time::timeout(limits.dial, connect(endpoint, limits.mark)).await {
            Ok(Ok(stream)) => {
                balancer.used(peer.ip(), endpoint, Instant::now());
                return Some(stream);
            }
            Ok(Err(error)) => tracing::debug!("{endpoint} refuses, trying the next: {error}"),
            Err(_) => tracing::debug!("{endpoint} does not answer, trying the next"),
        }
    }
    None
}

async fn connect(endpoint: SocketAddr, mark: u32) -> io::Result<TcpStream> {
    let socket = if endpoint.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    prepare(&SockRef::from(&socket))?;
    if mark != 0 {
        SockRef::from(&socket).set_mark(mark)?;
    }
    socket.connect(endpoint).await
}

/// Carries both directions until both have ended; the end of one is passed on (half-close).
async fn carry(
    mut client: TcpStream,
    mut endpoint: TcpStream,
    pipes: &Arc<Places>,
) -> io::Result<()> {
    let (from_client, to_client) = client.split();
    let (from_endpoint, to_endpoint) = endpoint.split();
    let result = tokio::try_join!(
        copy(from_client, to_endpoint, pipes),
        copy(from_endpoint, to_client, pipes)
    );
    if result.is_err() {
        // One end was reset: so is the other.
        let _ = client.set_zero_linger();
        let _ = endpoint.set_zero_linger();
    }
    result.map(drop)
}

/// Reads and writes in turn, so that a slow receiver slows the sender down (back-pressure).
async fn copy(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    pipes: &Arc<Places>,
) -> io::Result<()> {
    let mut full = 0;
    loop {
        match poll_fn(|context| pass_on(&mut from, &to, context)).await? {
            Passed::All(SIZE) => full += 1,
            Passed::All(_) => full = 0,
            Passed::Part(rest) => to.write_all(&rest).await?,
            Passed::End => return to.shutdown().await,
        }
        if full < BULK {
            continue;
        }
        full = 0;
        if let Some(_place) = pipes.take()
            && let Ok(pipe) = Pipe::new()
            && pipe.carry(from.as_ref(), to.as_ref()).await? == Stopped::End
        {
            return to.shutdown().await;
        }
    }
}

enum Passed {
    /// What was read, so many bytes, has been written.
    All(usize),
    /// This is left to write: the receiver's window is full.
    Part(Vec<u8>),
    /// There is no more to read.
    End,
}

/// One read, once there is something, and one write, which does not wait.
fn pass_on(
    from: &mut ReadHalf<'_>,
    to: &WriteHalf<'_>,
    context: &mut Context<'_>,
) -> Poll<io::Result<Passed>> {
    with_buffer(|mut buffer| {
        ready!(Pin::new(from).poll_read(context, &mut buffer))?;
        let read = buffer.filled();
        if read.is_empty() {
            return Poll::Ready(Ok(Passed::End));
        }
        let written = match to.try_write(read) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Poll::Ready(Err(error)),
        };
        Poll::Ready(Ok(match read.get(written..) {
            None | Some([]) => Passed::All(written),
            Some(rest) => Passed::Part(rest.to_vec()),
        }))
    })
}
