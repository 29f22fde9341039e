//! Generic netlink: families are identified by name, and get a number when they are registered
//! (`linux/genetlink.h`).

use netfilter::netlink::{Builder, NLM_F_ACK, NLM_F_REQUEST};
use nix::errno::Errno;

use crate::netlink::{Error, Socket};

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_VERSION: u8 = 1;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// The size of `struct genlmsghdr`.
const HEADER: usize = 4;

/// Return the number of a family; `None` if the kernel lacks it, even after an attempt to load its
/// module.
///
/// # Errors
/// See [`Error`].
pub fn family(socket: &mut Socket, name: &str) -> Result<Option<u16>, Error> {
    let what = "looking up a generic netlink family";
    let request = Builder::new(GENL_ID_CTRL, NLM_F_REQUEST | NLM_F_ACK)
        .fixed(&[CTRL_CMD_GETFAMILY, CTRL_VERSION, 0, 0])
        .string(CTRL_ATTR_FAMILY_NAME, name)
        .finish();
    let mut found = None;
    let result = socket.exchange(what, request, |message| {
        for attribute in message.attributes(HEADER, "CTRL_ATTR") {
            let attribute = attribute?;
            if attribute.kind == CTRL_ATTR_FAMILY_ID {
                found = Some(attribute.ne16()?);
            }
        }
        Ok(())
    });
    match result {
        Ok(()) => Ok(found),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
