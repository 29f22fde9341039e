//! Errors of a configuration.

use std::fmt;
use std::path::PathBuf;

/// An error that prevents a start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        error: std::io::Error,
    },
    /// The file is not a KubeProxyConfiguration.
    #[error("{}{}", path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default(), join(errors))]
    Decode {
        /// The file, if any.
        path: Option<PathBuf>,
        /// The fields and the reasons; a field is empty if none can be named.
        errors: Vec<FieldError>,
    },
    /// Values are invalid.
    #[error("{}", join(.0))]
    Invalid(Vec<FieldError>),
    /// The value of a flag is invalid.
    #[error("--{flag}: {reason}")]
    Flag {
        /// The flag's name.
        flag: &'static str,
        /// The reason.
        reason: String,
    },
}

/// An invalid or ignored field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path in a KubeProxyConfiguration: `iptables.masqueradeBit`.
    pub field: String,
    /// The reason.
    pub reason: String,
}

/// `iptables.masqueradeBit: 32 is out of range (0 to 31)`.
impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.field, self.reason)
        }
    }
}

fn join(errors: &[FieldError]) -> String {
    let lines: Vec<_> = errors.iter().map(FieldError::to_string).collect();
    lines.join("; ")
}
