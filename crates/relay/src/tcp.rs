//! TCP: one task per connection.

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
use crate::limits::{Limits, Places, Shared};

/// Pause after `accept` failed for lack of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Length of the accept queue; the kernel limits it further (`somaxconn`).
const BACKLOG: i32 = 4096;

/// Number of consecutive full buffers that make a bulk transfer.
const BULK: u32 = 8;

/// Detects a vanished peer after two minutes.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// Bind a socket without listening, so that connections are refused.
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
    // Accepted sockets inherit these options.
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
            // The client closed the connection before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                if shared.starved.is_due() {
                    tracing::warn!(%error, "Cannot accept a connection; retrying");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = shared.connections.take() else {
            if shared.full.is_due() {
                let limit = shared.limits.connections;
                tracing::warn!(
                    limit,
                    "Limit of open connections reached; resetting further ones"
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
                // Errors of a connection concern only its two ends.
                Ok(Some(endpoint)) => drop(carry(client, endpoint, &shared.pipes).await),
                Ok(None) | Err(_) => refuse(&client),
            }
        });
    }
}

/// Close with a reset: the closest match to a closed port after the kernel has accepted.
fn refuse(client: &TcpStream) {
    // Without this option the client sees an orderly close.
    let _ = client.set_zero_linger();
}

/// Connect to the first endpoint that accepts, in the balancer's order.
async fn dial(balancer: &Balancer, peer: SocketAddr, limits: &Limits) -> Option<TcpStream> {
    for endpoint in balancer.candidates(peer.ip(), Instant::now()) {
        match tokio::time::timeout(limits.dial, connect(endpoint, limits.mark)).await {
            Ok(Ok(stream)) => {
                balancer.used(peer.ip(), endpoint, Instant::now());
                return Some(stream);
            }
            Ok(Err(error)) => {
                tracing::debug!(%endpoint, %error, "Endpoint refused; trying the next");
            }
            Err(_) => tracing::debug!(%endpoint, "Endpoint does not answer; trying the next"),
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

/// Carry both directions until both have ended. The end of one direction is forwarded (half-close).
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
        // A reset of one end resets the other.
        let _ = client.set_zero_linger();
        let _ = endpoint.set_zero_linger();
    }
    result.map(drop)
}

/// Read and write alternately, so that a slow receiver slows the sender down (back-pressure).
async fn copy(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    pipes: &Arc<Places>,
) -> io::Result<()> {
    let mut full = 0;
    loop {
        match poll_fn(|context| forward(&mut from, &to, context)).await? {
            Forwarded::All(SIZE) => full += 1,
            Forwarded::All(_) => full = 0,
            Forwarded::Part(rest) => to.write_all(&rest).await?,
            Forwarded::End => return to.shutdown().await,
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

enum Forwarded {
    /// All bytes that were read have been written: their number.
    All(usize),
    /// These bytes remain to be written: the receiver's window is full.
    Part(Vec<u8>),
    /// End of the stream.
    End,
}

/// Read once, when data is available, and write once, without waiting.
fn forward(
    from: &mut ReadHalf<'_>,
    to: &WriteHalf<'_>,
    context: &mut Context<'_>,
) -> Poll<io::Result<Forwarded>> {
    with_buffer(|mut buffer| {
        ready!(Pin::new(from).poll_read(context, &mut buffer))?;
        let read = buffer.filled();
        if read.is_empty() {
            return Poll::Ready(Ok(Forwarded::End));
        }
        let written = match to.try_write(read) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Poll::Ready(Err(error)),
        };
        Poll::Ready(Ok(match read.get(written..) {
            None | Some([]) => Forwarded::All(written),
            Some(rest) => Forwarded::Part(rest.to_vec()),
        }))
    })
}
