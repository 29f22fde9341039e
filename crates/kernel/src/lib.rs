//! Everything that touches the system: netlink, iptables-restore, sysctls, namespaces.
