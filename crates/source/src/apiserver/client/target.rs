//! Addresses of servers: parsing, TCP connections, tunnels through proxies.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{ConfigError, ServerConfig};

/// The parsed address of the server.
pub(super) struct Target {
    pub(super) tls: bool,
    host: String,
    port: u16,
    /// Path of the server's URL without a trailing slash.
    pub(super) prefix: String,
    pub(super) name: ServerName<'static>,
    proxy: Option<(String, u16, Option<HeaderValue>)>,
}

impl Target {
    pub(super) fn parse(config: &ServerConfig) -> Result<Self, ConfigError> {
        let fail = |reason: &str| ConfigError::Server {
            url: config.server.clone(),
            reason: reason.into(),
        };
        // Without a scheme, client-go uses https if TLS is configured.
        let tls_configured = config.ca.is_some() || config.identity.is_some() || config.insecure;
        let url = match (config.server.contains("://"), tls_configured) {
            (true, _) => config.server.clone(),
            (false, true) => format!("https://{}", config.server),
            (false, false) => format!("http://{}", config.server),
        };
        let uri: Uri = url.parse().map_err(|_| fail("not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(fail("the scheme is neither http nor https")),
        };
        let host = uri.host().ok_or_else(|| fail("the host is missing"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = config.tls_server_name.clone().unwrap_or(host.clone());
        let proxy = config.proxy_url.as_deref().map(parse_proxy).transpose()?;
        Ok(Self {
            tls,
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            name: ServerName::try_from(name)
                .map_err(|_| fail("the host is neither a DNS name nor an address"))?,
            host,
            proxy,
        })
    }

    /// `host:port`, with IPv6 addresses in brackets.
    pub(super) fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// Connect to the server or its proxy, or to `address` instead of the server.
    pub(super) async fn tcp(&self, address: Option<SocketAddr>) -> io::Result<TcpStream> {
        let stream = match (address, &self.proxy) {
            (Some(address), _) => TcpStream::connect(address).await,
            (None, Some((host, port, _))) => TcpStream::connect((host.as_str(), *port)).await,
            (None, None) => TcpStream::connect((self.host.as_str(), self.port)).await,
        };
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        // Detects a server that vanished (power loss) within about 30 seconds, whether the
        // connection is idle or a request is in flight.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(15))
            .with_interval(Duration::from_secs(5))
            .with_retries(3);
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(Duration::from_secs(30)))?;
        if let (Some((_, _, authorization)), None) = (&self.proxy, address) {
            self.tunnel(&mut stream, authorization.as_ref()).await?;
        }
        Ok(stream)
    }

    /// Ask a proxy for a tunnel to the server (RFC 9110, CONNECT).
    async fn tunnel(
        &self,
        stream: &mut TcpStream,
        authorization: Option<&HeaderValue>,
    ) -> io::Result<()> {
        let authority = self.authority();
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(value) = authorization.and_then(|v| v.to_str().ok()) {
            request.push_str(&format!("Proxy-Authorization: {value}\r\n"));
        }
        request.push_str("\r\n");
        let fail = |e: io::Error| io::Error::other(format!("proxy: {e}"));
        stream.write_all(request.as_bytes()).await.map_err(fail)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > 8192 {
                return Err(io::Error::other("the proxy's answer is too long"));
            }
            head.push(stream.read_u8().await.map_err(fail)?);
        }
        let head = String::from_utf8_lossy(&head);
        let first = head.lines().next().unwrap_or_default();
        if first
            .split(' ')
            .nth(1)
            .is_some_and(|code| code.starts_with('2'))
        {
            return Ok(());
        }
        Err(io::Error::other(format!("the proxy answered {first:?}")))
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Parse a proxy's URL into host, port and `Proxy-Authorization`.
fn parse_proxy(url: &str) -> Result<(String, u16, Option<HeaderValue>), ConfigError> {
    let fail = |reason: &str| ConfigError::Server {
        url: url.into(),
        reason: reason.into(),
    };
    let uri: Uri = url.parse().map_err(|_| fail("not a URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(fail("only http:// proxies are supported as proxy-url"));
    }
    let authority = uri.authority().ok_or_else(|| fail("the host is missing"))?;
    let authorization = authority.as_str().rsplit_once('@').map(|(user, _)| {
        let pair = data_encoding::BASE64.encode(user.as_bytes());
        HeaderValue::from_str(&format!("Basic {pair}"))
            .map_err(|_| fail("the user or password contains invalid characters"))
    });
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority.port_u16().unwrap_or(80);
    Ok((host, port, authorization.transpose()?))
}
