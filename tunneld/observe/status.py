"""The status document: fetched from the control socket, rendered as text.

The schema is a contract of ours with scripts; `tunneld.control` serves it. This module imports
nothing heavy: `tunneld status` must be quick.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunneld.errors import StartError
from tunneld.observe import batches

SOCKET_NAME = "tunneld.sock"
_TIMEOUT_S = 5.0


def fetch(run_dir: Path) -> dict[str, Any]:
    """Return the status document of the daemon that owns `run_dir`.

    Raises:
        StartError: nobody answers, we may not ask, or the answer is not complete.
    """
    path = run_dir / SOCKET_NAME
    chunks: list[bytes] = []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_TIMEOUT_S)
            sock.connect(str(path))
            while chunk := sock.recv(65536):
                chunks.append(chunk)
        document: dict[str, Any] = json.loads(b"".join(chunks))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise StartError(
            f"no tunneld answers at {path}",
            remedy="start it with `tunneld run`, or name its directory with --run-dir",
        ) from error
    except PermissionError as error:
        raise StartError(
            f"no permission for {path}", remedy="ask as the user that the daemon runs as"
        ) from error
    except (OSError, ValueError) as error:
        raise StartError(f"no whole answer from {path}: {error}") from error
    return document


def render(document: Mapping[str, Any]) -> str:
    """Return the document as a text for people: state, peers, and every counter that moved."""
    lines = [*_head(document), "", *_peers(document), *_skipped(document["store"])]
    for direction, counters in document["counters"].items():
        moved = {name: value for name, value in counters.items() if value}
        lines += ["", f"{direction}:"]
        lines += [f"  {name:<36} {value:>16,}" for name, value in moved.items()] or ["  (nothing)"]
        lines += [f"  {name:<36} {value:>16.1f}" for name, value in ratios(counters).items()]
        shares = batches.words(document.get("batches", {}).get(direction, {}))
        lines += [f"  {name:<36} {text}" for name, text in shares.items()]
    return "\n".join(lines)


def ratios(counters: Mapping[str, int]) -> dict[str, float]:
    """Return what one direction's counters say about batching: packets per system call.

    Args:
        counters: of one direction; a superpacket counts as its packets.
    """
    return {
        f"packets per {name} call": counters[f"packets_{verb}"] / counters[f"syscalls_{verb}"]
        for name, verb in (("reading", "read"), ("writing", "written"))
        if counters.get(f"packets_{verb}") and counters.get(f"syscalls_{verb}")
    }


def _head(document: Mapping[str, Any]) -> list[str]:
    backend, lease, store = document["backend"], document["lease"], document["store"]
    expires = lease["expires_in_s"]
    when = "does not expire" if expires is None else f"expires in {_duration(expires)}"
    synced = store["last_sync_s"]
    sync = "never synced" if synced is None else f"synced {_duration(synced)} ago"
    held = f"{lease['subnet']} as {lease['public_ip']}, {when}" if lease["subnet"] else "none yet"
    features = ", ".join(f"{name} {_word(value)}" for name, value in backend["offload"].items())
    summary = document.get("summary", "")
    lines = [
        f"tunneld {document['version']}: {document['state']}, up {_duration(document['uptime_s'])}",
        *([f"now      {summary}"] if summary else []),
        *(f"because  {reason}" for reason in document.get("reasons", [])),
        (
            f"backend  {backend['type'] or '-'} on {backend['device'] or '-'}, "
            f"mtu {backend['mtu']}, dataplane {backend['dataplane'] or '-'}, "
            f"threads {backend['threads']}"
        ),
        *([f"offload  {features}"] if features else []),
        f"lease    {held}",
        f"store    {store['url']}, {store['state']}, {sync}",
    ]
    if len(queues := backend.get("queues", [])) > 1:
        lines += [f"queues   {_queue_load(queues, way)}" for way in ("outbound", "inbound")]
    lines += _rules(document.get("rules", {}))
    repairs = ", ".join(f"{kind} {count}" for kind, count in backend.get("repairs", {}).items())
    if repairs:
        lines.append(f"repairs  {repairs}")
    skipped = backend.get("skipped", {})
    return [*lines, *(f"skipped  {subnet}: {reason}" for subnet, reason in skipped.items())]


def _rules(rules: Mapping[str, Any]) -> list[str]:
    if not rules.get("tools"):
        return []
    if rules["error"]:
        return [f"rules    missing: {rules['error']}"]
    words = [rules["masquerade"] or "no masquerade"]
    words += ["forward accepted"] if rules["forward"] else []
    if forged := rules["drop_forged_outer"]:
        words.append(f"{forged:,} forged datagrams of containers dropped")
    return [f"rules    {', '.join(words)} (by {' and '.join(rules['tools'])})"]


def _queue_load(queues: Sequence[Mapping[str, int]], way: str) -> str:
    total = sum(queue[way] for queue in queues)
    shares = ", ".join(f"{queue[way] / max(total, 1):.0%}" for queue in queues)
    return f"{len(queues)} {way}: {total:,} packets, by queue {shares}"


def _word(value: bool | float | str) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _peers(document: Mapping[str, Any]) -> list[str]:
    row = "{:<20} {:<16} {:>12} {:>16} {:>12} {:>16}"
    names = ("subnet", "public_ip", "tx_packets", "tx_bytes", "rx_packets", "rx_bytes")
    peers = document["peers"]
    lines = [f"peers    {len(peers)}"]
    if peers:
        lines.append(row.format(*names))
    lines += [row.format(*(str(peer[name]) for name in names)) for peer in peers]
    return lines


def _skipped(store: Mapping[str, Any]) -> list[str]:
    """Return a block of its own: what the store holds for nodes that are not among the peers."""
    shown = store.get("skipped", {})
    lines = [f"skipped  {key}: {reason}" for key, reason in shown.items()]
    if more := store.get("skipped_count", 0) - len(shown):
        lines.append(f"skipped  and {more:,} more; the log has named each")
    return ["", *lines] if lines else []


def _duration(seconds: float) -> str:
    whole = int(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (secs, "s")]
    shown = [f"{amount}{unit}" for amount, unit in parts if amount][:2]
    return " ".join(shown) or "0s"
