//! What Services mean, topic by topic, and what must hold for any cluster.

mod oracle;
mod properties;
