//! The health-check port of each Service that has one (`healthCheckNodePort`): tells a load
//! balancer whether this node has an endpoint of the Service.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::{IpFamily, NamespacedName};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::shared::Shared;

/// The open ports. Lives on the server's thread.
#[derive(Default)]
pub(crate) struct Ports {
    open: BTreeMap<NamespacedName, (u16, BTreeMap<IpAddr, Listening>)>,
    /// Ports that could not be opened and have been reported.
    failed: BTreeMap<NamespacedName, u16>,
}

struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Ports {
    /// Opens and closes ports until they are the wanted ones, on the wanted addresses. A port that
    /// cannot be opened on all of them is open on none, is reported once and tried again at each
    /// call; the others are not affected.
    pub(crate) async fn sync(&mut self, shared: &Arc<Shared>) {
        let (wanted, addresses) = shared.service_ports();
        self.open
            .retain(|name, (port, _)| wanted.get(name) == Some(port));
        self.failed
            .retain(|name, port| wanted.get(name) == Some(port));
        for (name, port) in wanted {
            let (_, mut listening) = self.open.remove(&name).unwrap_or_default();
            listening.retain(|ip, _| addresses.contains(ip));
            match listen_all(shared, &name, port, &addresses, &mut listening).await {
                Ok(()) => {
                    if self.failed.remove(&name).is_some() {
                        tracing::info!(service = %name, port, "health-check node port is open now");
                    }
                    self.open.insert(name, (port, listening));
                }
                Err((address, error)) => {
                    if self.failed.insert(name.clone(), port).is_none() {
                        shared.listen_failed(&name, port, address, &error);
                    }
                }
            }
        }
    }
}

/// Listens on the addresses where it does not yet.
async fn listen_all(
    shared: &Arc<Shared>,
    name: &NamespacedName,
    port: u16,
    addresses: &[IpAddr],
    listening: &mut BTreeMap<IpAddr, Listening>,
) -> Result<(), (SocketAddr, std::io::Error)> {
    for ip in addresses {
        if listening.contains_key(ip) {
            continue;
        }
        let address = SocketAddr::new(*ip, port);
        let listener = bind(address).await.map_err(|e| (address, e))?;
        let router = Router::new().fallback(answer).with_state((
            Arc::clone(shared),
            name.clone(),
            IpFamily::of(*ip),
        ));
        let serving = tokio::spawn(async move {
            // Ends only by being aborted.
            let _ = axum::serve(listener, router).await;
        });
        listening.insert(*ip, Listening(serving));
    }
    Ok(())
}

/// Binds an IPv6 address for IPv6 alone, so that `::` and `0.0.0.0` can be open side by side.
async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        None,
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

async fn answer(
    State((shared, name, family)): State<(Arc<Shared>, NamespacedName, IpFamily)>,
) -> Response {
    let count = shared.local_endpoints(&name, family);
    let healthy = shared.is_healthy();
    let status = if count != 0 && healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    // Laid out as kube-proxy lays it out.
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {:?},\n\t\t\"name\": {:?}\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {healthy}\n}}",
        &*name.namespace, &*name.name,
    );
    (
        status,
        [
            (header::CONTENT_TYPE, "application/json".to_owned()),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            (
                header::HeaderName::from_static("x-load-balancing-endpoint-weight"),
                count.to_string(),
            ),
        ],
        body,
    )
        .into_response()
}
