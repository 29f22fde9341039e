//! Health-check node ports (`healthCheckNodePort`), on which load balancers ask whether this node
//! has an endpoint of the Service.

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

/// The open ports. Used on the server's thread.
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
    /// Open and close ports to match the desired ports and addresses. A port that cannot be opened
    /// on all addresses is open on none; it is reported once and retried at each call. Other ports
    /// are not affected.
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
                        tracing::info!(service = %name, port, "Health-check node port open");
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

/// Listen on the remaining addresses.
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
            // Runs until aborted.
            let _ = axum::serve(listener, router).await;
        });
        listening.insert(*ip, Listening(serving));
    }
    Ok(())
}

/// Bind an address; IPv6 addresses for IPv6 only, so that `::` and `0.0.0.0` can be open together.
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
    // The layout of kube-proxy.
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
