"""Benchmarks: scripts that measure the tunnel on a cluster of namespaces (they need root)."""
