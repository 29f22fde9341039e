//! What the configuration means for a node and its objects.

pub(crate) mod families;
pub(crate) mod node_ports;

use std::sync::Arc;

use model::{Change, Event};

/// Clear the external IPs of Services if the feature gate does not allow them.
pub(crate) fn admit(events: &mut [Event], allow_external_ips: bool) {
    if allow_external_ips {
        return;
    }
    for event in events {
        if let Event::Service(Change::Applied(service)) = event
            && !service.external_ips.is_empty()
        {
            Arc::make_mut(service).external_ips.clear();
        }
    }
}
