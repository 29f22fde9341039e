//! Flags and KubeProxyConfiguration, resolved once into one struct.
