//! Clusters made of network namespaces on one machine.
