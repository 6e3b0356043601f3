"""Writes what is made from the code: contrib/tunneld.toml, docs/metrics.md, and the man pages.

contrib/build.py              write the two files that are kept in the repository
contrib/build.py --check      tell which of them is out of date; exit code 1 if one is
contrib/build.py --man DIR    write the man page tunneld.8 to DIR
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tunneld import __version__, cli  # noqa: E402 - the script runs from anywhere
from tunneld.observe.metric_names import METRICS  # noqa: E402
from tunneld.options import OPTIONS, Option  # noqa: E402

DATE = "2026-11-21"

TOML_HEAD = """\
# Options of `tunneld run`, for /etc/tunneld/tunneld.toml and --config. Made by contrib/build.py.
#
# Every key that there is stands here, switched off, with its default or with an example where it
# has none. A flag wins over the environment (the variable is named with each key), the environment
# over this file. Unknown keys and wrong values are refused by name. What all nodes share (Network,
# SubnetLen, Backend, ...) is not here but in the store: <etcd-prefix>/config, or DIR/config.
"""

EXAMPLES: dict[str, str] = {
    "etcd-keyfile": '"/etc/tunneld/client.key"',
    "etcd-certfile": '"/etc/tunneld/client.crt"',
    "etcd-cafile": '"/etc/tunneld/ca.crt"',
    "etcd-username": '"tunneld"',
    "etcd-password": '"..."',
    "iface": '["eth0", "10.168.0.2"]',
    "iface-regex": "['^en', '^10\\.168\\.']",
    "iface-can-reach": '"10.168.0.1"',
    "public-ip": '"10.168.0.2"',
    "allow-source": '["192.0.2.0/24"]',
}
"""For options that have no default."""

METRICS_HEAD = f"""\
# Metrics

Served at `/metrics` of the health port, in Prometheus' text format: `--healthz-port 8080`, then
`curl http://127.0.0.1:8080/metrics`. Only loopback clients get them; `--metrics-public` gives them
to all who reach `--healthz-ip`. `/healthz` says 200 as long as the event loop runs. `/readyz` says
200 while packets are forwarded (also when degraded: the body has the reason) and else 503 with the
reason.

This table is made from the code by `contrib/build.py` ({DATE}); a test compares them.

| metric | type | labels | meaning |
|---|---|---|---|
"""

METRICS_TAIL = """\

Those of the process come with the client library: `process_resident_memory_bytes`,
`process_virtual_memory_bytes`, `process_cpu_seconds_total` (all threads, the packet threads too),
`process_start_time_seconds`, `process_open_fds`, `process_max_fds`.

## Reading them

* **Labels.** `direction` is `outbound` (TUN to underlay) or `inbound`; `operation` is `read`,
  `write` or `poll`. `reason` and `kind` are the words of `tunneld status`; csrc/counters.h has all.
* **Conservation.** At rest, in each direction, packets read = packets written + all drops. What the
  kernel dropped before we could read it is `tunneld_kernel_dropped_packets_total`.
* **Batch size.** `tunneld_batch_packets` counts each system call by the packets that it moved, at
  most 1, 2, 4 ... 4096. Calls that moved none (most batches end with a read that finds the queue
  empty) are the bucket `le="0"`: leave it out for the size of the batches that there were. At rest
  the count of all calls is `tunneld_syscalls_total` of the operation, and what they moved in all
  (`_sum`) is `tunneld_packets_total`.
* **Counters** go on when device or socket are made anew, and begin at zero with the process. Those
  of a peer go with the peer; `tunneld_queue_packets_total` begins anew with the packet path.
* **Kernel backends** (vxlan, host-gw, `--dataplane kernel`) have no packet counters here: the
  kernel counts, see `ip -s link`.
* **Cost.** With thousands of peers a scrape takes a while. It is made in a thread of its own, and
  at most a fifth of the time, so what comes back can be a little old.

## Alerts that make sense

    - alert: TunnelNotForwarding
      expr: tunneld_ready == 0
      for: 1m
    - alert: TunnelLeaseNotRenewed      # renewed an hour before its end
      expr: tunneld_lease_expiry_timestamp_seconds - time() < 1800
    - alert: TunnelStoreAway            # traffic goes on; new peers are not seen
      expr: tunneld_store_state{state="connected"} == 0
      for: 10m
    - alert: TunnelSamePublicIP         # two hosts take each other's packets
      expr: tunneld_public_ip_conflicts > 0
    - alert: TunnelForeignPackets       # somebody sends what admission refuses
      expr: rate(tunneld_dropped_packets_total{reason=~"outer_source|spoofed_source"}[5m]) > 1
    - alert: TunnelOverload
      expr: rate(tunneld_kernel_dropped_packets_total[5m]) > 0
"""


def toml() -> str:
    """Return the example configuration."""
    parts = [TOML_HEAD]
    parts += ["\n".join(_toml_option(option)) + "\n" for option in OPTIONS if not option.refusal]
    refused = [option for option in OPTIONS if option.refusal]
    parts.append("# Refused, because tunneld cannot do what flannel does there:\n")
    parts[-1] += "".join(f"#   {option.name}: {option.refusal}\n" for option in refused)
    return "\n".join(parts)


def _toml_option(option: Option) -> Iterator[str]:
    yield f"# {option.help[0].upper()}{option.help[1:]}."
    default = "" if option.default else "; no default"
    yield f"# ({option.variable}{default})"
    yield f"#{option.name} = {_toml_value(option)}"


def _toml_value(option: Option) -> str:
    if not option.default:
        return EXAMPLES[option.name]
    if option.switch or option.default.isdigit():
        return option.default
    return f'"{option.default}"'


def metrics() -> str:
    """Return the page about the metrics."""
    rows = (
        f"| `{metric.exported}` | {metric.kind} |"
        f" {', '.join(f'`{label}`' for label in metric.labels) or '-'} | {metric.help} |\n"
        for metric in METRICS
    )
    return METRICS_HEAD + "".join(rows) + METRICS_TAIL


MAN_TAIL = r"""
.SH ENVIRONMENT
Each flag of \fBtunneld run\fR has a variable: FLANNELD_ and its name in upper case, with
underscores. A flag wins over the environment, the environment over the file of \fB\-\-config\fR.
Each flag may be given with one dash or two, and \fBtunneld\fR followed by a flag means
\fBtunneld run\fR. NOTIFY_SOCKET and WATCHDOG_USEC are those of \fBsd_notify\fR(3).
.SH FILES
.TP
.I /run/flannel/subnet.env
What docker and CNI plugins read: network, subnet, MTU.
.TP
.I /run/tunneld
The control socket, mode 0600, and the lock.
.TP
.I /var/lib/tunneld
Lease and peers of the last run.
.SH EXIT STATUS
0 stopped by a signal, 1 failed, 2 bad usage or configuration, 3 lease lost.
.SH SEE ALSO
\fBip\fR(8), \fBnft\fR(8), \fBsystemd.service\fR(5)
"""

FILES = {"contrib/tunneld.toml": toml, "docs/metrics.md": metrics}


def man(directory: Path) -> None:
    """Write the man page."""
    from argparse_manpage.manpage import Manpage  # noqa: PLC0415 - needed for --man alone

    # argparse breaks its lines by it.
    os.environ["COLUMNS"] = "78"
    parser = cli.full_parser()
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to walk them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            # The list of all flags follows; the second one would only be hard to read.
            action.choices["run"].usage = "tunneld run [FLAG ...]"
    # argparse-manpage reads these.
    parser.man_short_description = "a UDP tunnel between container hosts"  # type: ignore[attr-defined]
    data = {
        "project_name": "tunneld",
        "version": __version__,
        "date": DATE,
        "manual_section": "8",
        "manual_title": "System Administration",
    }
    directory.mkdir(parents=True, exist_ok=True)
    text = str(Manpage(parser, _data=data, format="single-commands-section"))
    (directory / "tunneld.8").write_text(text.rstrip() + MAN_TAIL, encoding="utf-8")


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--man", type=Path, metavar="DIR", help="write the man page")
    arguments = parser.parse_args()
    if arguments.man:
        man(arguments.man)
        return 0
    old = 0
    for name, make in FILES.items():
        path = ROOT / name
        text = make()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        old += 1
        if arguments.check:
            print(f"{name} is out of date: run contrib/build.py")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return int(arguments.check and old > 0)


if __name__ == "__main__":
    sys.exit(main())
