"""The names, labels and helps of all metrics: docs/metrics.md is made from this table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: without the `_total` of a counter.
        kind: "counter", "gauge" or "histogram".
        help: one line.
        labels: their names.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()

    @property
    def exported(self) -> str:
        """The name that a query uses."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


_WAYS = ("direction", "operation")

METRICS: tuple[Metric, ...] = (
    Metric("tunneld_build_info", "gauge", "Always 1; the version is a label.", ("version",)),
    Metric("tunneld_state", "gauge", "1 for the state that the daemon is in.", ("state",)),
    Metric("tunneld_ready", "gauge", "1 while packets are forwarded, as /readyz says."),
    Metric(
        "tunneld_backend_info",
        "gauge",
        "Always 1; what carries the packets is in the labels.",
        ("backend", "device", "dataplane"),
    ),
    Metric("tunneld_mtu_bytes", "gauge", "MTU of the overlay device, and FLANNEL_MTU."),
    Metric("tunneld_packet_threads", "gauge", "Threads of this process that move packets."),
    Metric("tunneld_lease_info", "gauge", "Always 1; the lease we hold.", ("subnet", "public_ip")),
    Metric(
        "tunneld_lease_expiry_timestamp_seconds",
        "gauge",
        "Unix time at which our lease ends; +Inf for a permanent reservation.",
    ),
    Metric(
        "tunneld_lease_restored", "counter", "Times our key was gone from the store and put again."
    ),
    Metric("tunneld_public_ip_conflicts", "gauge", "Other live hosts that announce our public IP."),
    Metric("tunneld_store_state", "gauge", "1 for the state of the store.", ("state",)),
    Metric(
        "tunneld_store_last_sync_timestamp_seconds",
        "gauge",
        "Unix time at which the store last told us something; none before the first time.",
    ),
    Metric("tunneld_peers", "gauge", "Admitted peers."),
    Metric("tunneld_peers_skipped", "gauge", "Admitted peers that this backend cannot reach."),
    Metric("tunneld_leases_quarantined", "gauge", "Keys of the store that admission skips."),
    Metric(
        "tunneld_peer_packets",
        "counter",
        "Inner packets exchanged with a peer.",
        ("subnet", "public_ip", "direction"),
    ),
    Metric(
        "tunneld_peer_bytes",
        "counter",
        "Bytes of the inner packets exchanged with a peer.",
        ("subnet", "public_ip", "direction"),
    ),
    Metric(
        "tunneld_packets",
        "counter",
        "Inner packets read and forwarded; a superpacket counts as its packets.",
        _WAYS,
    ),
    Metric("tunneld_bytes", "counter", "Bytes of those packets.", _WAYS),
    Metric("tunneld_superpackets", "counter", "Superpackets that crossed the TUN whole.", _WAYS),
    Metric(
        "tunneld_syscalls",
        "counter",
        "System calls of the packet path; packets / syscalls is the batch size.",
        _WAYS,
    ),
    Metric(
        "tunneld_batch_packets",
        "histogram",
        "Packets moved by a system call that reads or writes; le=0 are the calls that failed.",
        _WAYS,
    ),
    Metric(
        "tunneld_dropped_packets",
        "counter",
        "Packets dropped by the packet path, by reason.",
        ("direction", "reason"),
    ),
    Metric(
        "tunneld_icmp_sent",
        "counter",
        "ICMP errors made by us.",
        ("direction", "kind"),
    ),
    Metric(
        "tunneld_icmp_suppressed",
        "counter",
        "ICMP errors not sent, because of the rate limit or RFC 1122.",
        ("direction",),
    ),
    Metric(
        "tunneld_kernel_dropped_packets",
        "counter",
        "Packets that the kernel dropped before we read them.",
        ("queue",),
    ),
    Metric(
        "tunneld_forged_dropped_packets",
        "counter",
        "Datagrams that our firewall rules dropped: from here, but not from the tunnel's socket.",
    ),
    Metric("tunneld_rules_failed", "gauge", "1 while the firewall rules cannot be written."),
    Metric(
        "tunneld_queue_packets",
        "counter",
        "Packets that each TUN queue or its socket has given since the packet path began.",
        ("queue", "direction"),
    ),
    Metric(
        "tunneld_repairs", "counter", "Repairs of device, routes, rules and the like.", ("kind",)
    ),
    Metric(
        "tunneld_offload",
        "gauge",
        "What is effective now: 1 or 0 of a feature, else a limit.",
        ("feature",),
    ),
    Metric(
        "tunneld_offload_downgrades",
        "counter",
        "Sends or writes repeated packet by packet, as the kernel refused the offload.",
        ("side",),
    ),
)
