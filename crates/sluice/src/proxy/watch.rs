//! Watches nf_tables for other programs' changes.

use std::mem;
use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::Context as _;
use kernel::nfnetlink::{GenerationInfo, Monitor, Notice};
use model::IpFamily;
use netfilter::netlink::Message;

use super::input::Input;

/// How often the watching thread checks whether it is still needed.
const LISTENING: Duration = Duration::from_secs(1);

/// Start a thread that reports relevant changes by other sockets than `own`.
///
/// # Errors
/// The kernel's notifications cannot be received, or the thread cannot be started.
pub(super) fn start(
    family: IpFamily,
    own: u32,
    inputs: Sender<Input>,
    relevant: impl Fn(&Message<'_>) -> bool + Send + 'static,
) -> anyhow::Result<()> {
    let mut monitor = Monitor::open().context("cannot watch nf_tables")?;
    std::thread::Builder::new()
        .name(format!("watch-{family}"))
        .spawn(move || {
            // Whether the commit that is being reported is foreign.
            let mut foreign = false;
            loop {
                let ready = monitor.wait(LISTENING);
                let mut disturbed = false;
                while let Ok(Some(notice)) = monitor.receive() {
                    let Notice::Changes(messages) = notice else {
                        disturbed = true;
                        continue;
                    };
                    for message in messages.flatten() {
                        if let Ok(Some(_)) = GenerationInfo::read(&message) {
                            disturbed |= mem::take(&mut foreign);
                        }
                        foreign |= message.port != own && relevant(&message);
                    }
                }
                if let Err(error) = ready {
                    tracing::error!(%family, %error, "Cannot watch nf_tables any more");
                    return;
                }
                if disturbed && inputs.send(Input::Disturbed(family)).is_err() {
                    return;
                }
            }
        })
        .context("cannot start the thread that watches nf_tables")?;
    Ok(())
}
