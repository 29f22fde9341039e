//! Service ports that cannot be programmed.

use plan::PortKey;

/// Why a Service port has no valid rules. It keeps its last state in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The names make a comment that is longer than `XT_MAX_COMMENT_LEN`.
    #[error(
        "Service port {} ({}): the comment {comment:?} has {} bytes, but the kernel accepts 255; \
         shorten the name of the Service, its namespace or its port",
        .port.0, .port.1, .comment.len()
    )]
    LongComment {
        /// The Service port.
        port: PortKey,
        /// The first comment that is too long.
        comment: String,
    },
    /// A name contains a control character, which iptables-save does not print.
    #[error("Service port {:?} ({}): a name contains control characters", .port.0.to_string(), .port.1)]
    ControlCharacter {
        /// The Service port.
        port: PortKey,
    },
}

impl Problem {
    /// The Service port.
    pub fn port(&self) -> &PortKey {
        match self {
            Problem::LongComment { port, .. } | Problem::ControlCharacter { port } => port,
        }
    }
}
