//! What keeps a Service port from being programmed.

use plan::PortKey;

/// Why a Service port has no valid rules. It is left as it was in the kernel; all others are
/// served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The names make a comment that the kernel does not take (`XT_MAX_COMMENT_LEN`).
    #[error(
        "Service port {} ({}): the comment {comment:?} has {} bytes, the kernel takes 255; \
         give the Service, its namespace or the port a shorter name",
        .port.0, .port.1, .comment.len()
    )]
    LongComment {
        /// The Service port.
        port: PortKey,
        /// The first comment that is too long.
        comment: String,
    },
    /// The names have a control character, which iptables does not read back.
    #[error("Service port {:?} ({}): control characters in a name", .port.0.to_string(), .port.1)]
    ControlCharacter {
        /// The Service port.
        port: PortKey,
    },
}

impl Problem {
    /// The Service port that is at fault.
    pub fn port(&self) -> &PortKey {
        match self {
            Problem::LongComment { port, .. } | Problem::ControlCharacter { port } => port,
        }
    }
}
