//! TCP: one task a connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::balance::Balancer;
use crate::{Limits, Shared};

/// What is read at a time. On the stack of the task that copies, and only while it copies: an idle
/// connection holds no buffer.
const CHUNK: usize = 32 * 1024;

/// How long to wait after an `accept` that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

pub(crate) async fn serve(listener: TcpListener, balancer: Balancer, shared: Arc<Shared>) {
    let balancer = Arc::new(balancer);
    loop {
        let (client, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(slot) = shared.slot() else {
            refuse(&client);
            continue;
        };
        let (balancer, shared) = (Arc::clone(&balancer), Arc::clone(&shared));
        tokio::spawn(async move {
            let _slot = slot;
            match dial(&balancer, peer, &shared.limits).await {
                // How a connection ends is its two ends' business.
                Some(endpoint) => drop(carry(client, endpoint).await),
                None => refuse(&client),
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
    if mark != 0 {
        SockRef::from(&socket).set_mark(mark)?;
    }
    socket.connect(endpoint).await
}

/// Carries both directions until both have ended; the end of one is passed on (half-close).
async fn carry(mut client: TcpStream, mut endpoint: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    endpoint.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_endpoint, to_endpoint) = endpoint.split();
    let result = tokio::try_join!(
        copy(from_client, to_endpoint),
        copy(from_endpoint, to_client)
    );
    if result.is_err() {
        // One end was reset: so is the other.
        let _ = client.set_zero_linger();
        let _ = endpoint.set_zero_linger();
    }
    result.map(drop)
}

/// Reads and writes in turn, so that a slow receiver slows the sender down (back-pressure).
async fn copy(from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    loop {
        from.ready(Interest::READABLE).await?;
        let rest = match pass_on(&from, &to) {
            Ok(Passed::All) => continue,
            Ok(Passed::Part(rest)) => rest,
            Ok(Passed::End) => return to.shutdown().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&rest).await?;
    }
}

enum Passed {
    /// What was read has been written.
    All,
    /// This is left to write: the receiver's window is full.
    Part(Vec<u8>),
    /// There is no more to read.
    End,
}

/// One read and one write, neither of which waits.
fn pass_on(from: &ReadHalf<'_>, to: &WriteHalf<'_>) -> io::Result<Passed> {
    let mut buffer = [0; CHUNK];
    let read = from.try_read(&mut buffer)?;
    if read == 0 {
        return Ok(Passed::End);
    }
    let written = match to.try_write(&buffer[..read]) {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    if written == read {
        return Ok(Passed::All);
    }
    Ok(Passed::Part(buffer[written..read].to_vec()))
}
