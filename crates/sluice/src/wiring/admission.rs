//! What of the objects is taken in at all, as the configuration says.

use std::sync::Arc;

use model::{Change, Event};

/// Without the gate, a Service's external IPs are as if it had none.
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
