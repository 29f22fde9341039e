//! The real addresses of the API servers, stored on the node.
//!
//! A Pod reaches the API server through the Service `kubernetes`, whose cluster IP works only after
//! a proxy has programmed it: not after a reboot. The EndpointSlices of that Service contain the
//! real addresses. They are stored in a small file, which the next start reads. The file contains
//! no secret and grants no trust: TLS verifies the configured name at every address.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Change, EndpointSlice, Event, Protocol};
use serde::{Deserialize, Serialize};

use super::store::Changed;

/// Upper bound on the file, in bytes.
const MAX_BYTES: u64 = 64 << 10;
/// Upper bound on stored addresses.
const MAX_ADDRESSES: usize = 32;

/// The content of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stored {
    api_servers: Vec<SocketAddr>,
}

/// The stored addresses, kept up to date from the EndpointSlices of `default/kubernetes`.
#[derive(Debug)]
pub(super) struct ServerAddresses {
    path: PathBuf,
    stored: Vec<SocketAddr>,
    /// The addresses of each slice, by the slice's name.
    slices: BTreeMap<Arc<str>, Vec<SocketAddr>>,
}

impl ServerAddresses {
    /// Read the file. A missing one is empty; so is an invalid one, after a warning.
    pub(super) fn open(path: PathBuf) -> Self {
        let stored = read(&path).unwrap_or_else(|error| {
            let path = path.display();
            tracing::warn!(%path, %error, "Stored API server addresses ignored");
            Vec::new()
        });
        Self {
            path,
            stored,
            slices: BTreeMap::new(),
        }
    }

    /// Return the stored addresses.
    pub(super) fn get(&self) -> &[SocketAddr] {
        &self.stored
    }

    /// Apply changes of EndpointSlices. Returns the addresses if they have changed; they are stored
    /// then. A Service without endpoints changes nothing: old addresses are better than none.
    pub(super) fn apply(&mut self, changes: &[Changed]) -> Option<&[SocketAddr]> {
        let mut touched = false;
        for Changed { event, .. } in changes {
            match event {
                Event::EndpointSlice(Change::Applied(slice)) if belongs_to_api_server(slice) => {
                    self.slices
                        .insert(slice.name.name.clone(), addresses(slice));
                    touched = true;
                }
                Event::EndpointSlice(Change::Deleted(name)) if &*name.namespace == "default" => {
                    touched |= self.slices.remove(&name.name).is_some();
                }
                _ => {}
            }
        }
        if !touched {
            return None;
        }
        let mut current: Vec<_> = self.slices.values().flatten().copied().collect();
        current.sort_unstable();
        current.dedup();
        current.truncate(MAX_ADDRESSES);
        if current.is_empty() || current == self.stored {
            return None;
        }
        self.stored = current;
        let path = self.path.display();
        let count = self.stored.len();
        match write(&self.path, &self.stored) {
            Ok(()) => tracing::info!(%path, count, "API server addresses stored"),
            Err(error) => tracing::warn!(
                %path,
                %error,
                "API server addresses not stored; after a reboot this node needs --master or \
                 another proxy"
            ),
        }
        Some(&self.stored)
    }
}

fn belongs_to_api_server(slice: &EndpointSlice) -> bool {
    let service = slice.service.as_ref();
    service.is_some_and(|s| &*s.namespace == "default" && &*s.name == "kubernetes")
}

fn addresses(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let tcp = slice.ports.iter().filter(|p| p.protocol == Protocol::Tcp);
    let ports: Vec<_> = tcp.filter_map(|port| port.port).collect();
    let serving = slice.endpoints.iter().filter(|e| e.conditions.serving);
    let pairs = serving.flat_map(|endpoint| {
        let at = |port: &std::num::NonZeroU16| SocketAddr::new(endpoint.address, port.get());
        ports.iter().map(at)
    });
    pairs.filter(is_usable).collect()
}

fn is_usable(address: &SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
}

fn read(path: &Path) -> io::Result<Vec<SocketAddr>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_BYTES} bytes")));
    }
    let Stored { api_servers } = serde_json::from_slice(&text)?;
    if api_servers.len() > MAX_ADDRESSES {
        let reason = format!("more than {MAX_ADDRESSES} addresses");
        return Err(io::Error::other(reason));
    }
    if let Some(address) = api_servers.iter().find(|address| !is_usable(address)) {
        let reason = format!("{address} is not the address of a server");
        return Err(io::Error::other(reason));
    }
    Ok(api_servers)
}

/// Replace the file atomically. It survives a power failure in its old or its new version.
fn write(path: &Path, addresses: &[SocketAddr]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let stored = Stored {
        api_servers: addresses.to_vec(),
    };
    let mut text = serde_json::to_vec(&stored)?;
    text.push(b'\n');
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).open(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use model::{Interner, Kind, object::Object};
    use serde_json::json;

    use super::*;

    fn slice(name: &str, service: &str, addresses: &[&str]) -> Vec<Changed> {
        let address_type = if addresses.iter().any(|a| a.contains(':')) {
            "IPv6"
        } else {
            "IPv4"
        };
        let endpoints: Vec<_> = addresses
            .iter()
            .map(|address| json!({"addresses": [address]}))
            .collect();
        let object = json!({
            "metadata": {
                "name": name,
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": address_type,
            "ports": [{"name": "https", "protocol": "TCP", "port": 6443}],
            "endpoints": endpoints,
        });
        let object = Object::deserialize(Kind::EndpointSlice, object).expect("an object");
        let checked = object.check(&mut Interner::new()).expect("valid");
        vec![Changed {
            before: None,
            event: checked.value,
        }]
    }

    fn deleted(name: &str) -> Vec<Changed> {
        let key = slice(name, "kubernetes", &[]).remove(0).event.key();
        vec![Changed {
            before: None,
            event: key.deleted(),
        }]
    }

    fn strings(addresses: &[SocketAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_of_all_slices_are_stored_and_refreshed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sluice/addresses.json");
        let mut addresses = ServerAddresses::open(path.clone());
        assert!(addresses.get().is_empty());
        assert_eq!(addresses.apply(&slice("web", "web", &["192.0.2.9"])), None);
        assert!(!path.exists());
        let both = slice("kubernetes", "kubernetes", &["192.0.2.2", "192.0.2.1"]);
        let stored = strings(addresses.apply(&both).expect("a change"));
        assert_eq!(stored, ["192.0.2.1:6443", "192.0.2.2:6443"]);
        assert_eq!(addresses.apply(&both), None, "unchanged");
        let six = slice("kubernetes-v6", "kubernetes", &["2001:db8::1"]);
        assert_eq!(addresses.apply(&six).map(<[_]>::len), Some(3));
        addresses.apply(&slice("kubernetes", "kubernetes", &["192.0.2.3"]));
        let read = ServerAddresses::open(path.clone());
        assert_eq!(
            strings(read.get()),
            ["192.0.2.3:6443", "[2001:db8::1]:6443"]
        );
        assert!(!path.with_extension("new").exists());
        // Without endpoints, the last addresses are kept.
        addresses.apply(&deleted("kubernetes-v6"));
        assert_eq!(strings(addresses.get()), ["192.0.2.3:6443"]);
        assert_eq!(addresses.apply(&deleted("kubernetes")), None);
        assert_eq!(strings(addresses.get()), ["192.0.2.3:6443"]);
    }

    #[test]
    fn invalid_files_are_ignored() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("addresses.json");
        let many = vec!["192.0.2.1:6443"; MAX_ADDRESSES + 1];
        let long = format!("{{\"apiServers\": []}}{}", " ".repeat(64 << 10));
        for (text, reason) in [
            ("", "EOF"),
            ("{\"apiServers\": [\"192.0.2.1:64", "EOF"),
            (
                "{\"apiServers\": [\"192.0.2.1\"]}",
                "invalid socket address",
            ),
            ("{\"apiServers\": [\"192.0.2.1:0\"]}", "not the address"),
            ("{\"apiServers\": [\"0.0.0.0:6443\"]}", "not the address"),
            ("{\"apiServers\": [], \"more\": 1}", "unknown field"),
            (&json!({ "apiServers": many }).to_string(), "more than"),
            (&long, "larger than"),
        ] {
            std::fs::write(&path, text).expect("written");
            let error = read(&path).expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(ServerAddresses::open(path.clone()).get().is_empty());
        }
    }

    #[test]
    fn an_unwritable_path_still_gives_addresses_to_this_process() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("file"), "").expect("written");
        let path = folder.path().join("file/addresses.json");
        let mut addresses = ServerAddresses::open(path);
        let change = slice("kubernetes", "kubernetes", &["192.0.2.1"]);
        let changed = addresses.apply(&change).expect("a change");
        assert_eq!(strings(changed), ["192.0.2.1:6443"]);
    }
}
