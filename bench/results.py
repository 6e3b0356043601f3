"""Result files: schema 1, written once per run, read and checked by everybody else.

    {"schema": 1,
     "machine": {"date", "cpu", "cpus", "kernel", "python", ...},       see bench/machine.py
     "setting": "sgro",
     "plan": {"setting", "contenders", "workloads", "rounds", "seconds", "only"},
     "contenders": {"udp": {"command_lines": [...], "mtu": 1472}, ...},
     "skipped": {"fastd": "not installed: apt-get install fastd"},
     "failures": [{"round", "contender", "workload", "error"}],
     "runs": [{"round": 1, "contender": "udp", "workload": "tcp1",
               "metrics": {"gbps": 5.6, ...},                           numbers only
               "quiet": true,
               "histograms": {"rtt_us": [[upper bound, count], ...]},   pingpong only
               "sources": {"syscalls_per_packet": "counters of tunneld"},
               "traced": {"source", "syscalls_per_packet", ...},        round 1: the cross-check
               "began": 1763712000.0,                                   seconds since 1970
               "noise": {"before", "foreign", "stolen", "waited_s"},    see bench/noise.py
               "said": "5.60 Gb/s, 2.50 s/GB"}],
     "continued_by": [{"date", "tunneld", "commit"}]}                   versions that went on later

`schema`, `machine`, `setting` and `runs` with their five keys are the contract; all else may be
absent. A file belongs to one setting and grows only by whole runs: what is in it stays.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunneld.errors import ConfigError

SCHEMA = 1
SETTINGS = ("sgro", "on", "plain")

Document = dict[str, Any]
Run = dict[str, Any]

_RUN_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "round": int,
    "contender": str,
    "workload": str,
    "metrics": dict,
    "quiet": bool,
}
_KEYS: Mapping[str, type] = {"machine": dict, "setting": str, "runs": list}
_MAY: Mapping[str, type] = {
    "plan": dict,
    "contenders": dict,
    "skipped": dict,
    "failures": list,
    "continued_by": list,
}
_RUN_MAY: Mapping[str, type | tuple[type, ...]] = {
    "histograms": dict,
    "sources": dict,
    "noise": dict,
    "traced": dict,
    "began": (int, float),
}


def load(path: str | Path) -> Document:
    """Return the document in a file.

    Raises:
        ConfigError: no such file, no JSON, or not a result file; says what is wrong where.
    """
    source = str(path)
    try:
        document = json.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", source=source) from error
    except ValueError as error:
        raise ConfigError(f"is no JSON: {error}", source=source) from error
    validate(document, source)
    checked: Document = document
    return checked


def validate(document: object, source: str) -> None:
    """Check a document against the schema.

    Args:
        document: what the JSON held.
        source: the file, for the message.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    if not isinstance(document, dict) or "schema" not in document:
        raise ConfigError(
            "is not a result of this benchmark",
            source=source,
            field="schema",
            remedy="`python -m bench run --json FILE` writes one",
        )
    if document["schema"] != SCHEMA:
        raise ConfigError(
            f"is {document['schema']!r}, this version reads {SCHEMA}", source=source, field="schema"
        )
    _check_keys(document, _KEYS, source, "")
    _check_rest(document, source)
    if document["setting"] not in SETTINGS:
        known = ", ".join(SETTINGS)
        raise ConfigError(
            f"is {document['setting']!r}, not one of {known}", source=source, field="setting"
        )
    seen: set[tuple[int, str, str]] = set()
    for number, run in enumerate(document["runs"]):
        where = f"runs[{number}]"
        if not isinstance(run, dict):
            raise ConfigError("is no object", source=source, field=where)
        _check_keys(run, _RUN_KEYS, source, f"{where}.")
        _check_keys(run, _there(run, _RUN_MAY), source, f"{where}.")
        _check_metrics(run["metrics"], source, f"{where}.metrics")
        _check_metrics(run.get("noise", {}), source, f"{where}.noise")
        for name, points in run.get("histograms", {}).items():
            if not isinstance(points, list) or not all(map(_is_point, points)):
                place = f"{where}.histograms.{name}"
                raise ConfigError("is no list of [bound, count]", source=source, field=place)
        if (key := key_of(run)) in seen:
            raise ConfigError(f"is there twice: {key}", source=source, field=where)
        seen.add(key)


def _check_keys(
    document: Mapping[str, Any],
    wanted: Mapping[str, type | tuple[type, ...]],
    source: str,
    prefix: str,
) -> None:
    for key, kind in wanted.items():
        if key not in document:
            raise ConfigError("is missing", source=source, field=f"{prefix}{key}")
        value = document[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(
                f"has the wrong type: {type(value).__name__}", source=source, field=prefix + key
            )


def _there(
    document: Mapping[str, Any], keys: Mapping[str, type | tuple[type, ...]]
) -> dict[str, type | tuple[type, ...]]:
    return {key: kind for key, kind in keys.items() if key in document}


def _check_rest(document: Document, source: str) -> None:
    """Check what may be absent, as far as a reader would stumble over it."""
    _check_keys(document, _there(document, _MAY), source, "")
    for name, told in document.get("contenders", {}).items():
        where = f"contenders.{name}"
        if not isinstance(told, dict):
            raise ConfigError("is no object", source=source, field=where)
        _check_keys(told, _there(told, {"command_lines": list}), source, f"{where}.")
    for number, entry in enumerate(document.get("failures", [])):
        if not isinstance(entry, dict):
            raise ConfigError("is no object", source=source, field=f"failures[{number}]")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_point(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _check_metrics(metrics: Mapping[str, object], source: str, where: str) -> None:
    for name, value in metrics.items():
        if not _is_number(value):
            raise ConfigError(f"is no number: {value!r}", source=source, field=f"{where}.{name}")


def key_of(run: Run) -> tuple[int, str, str]:
    """Return what tells one run of a file from another."""
    return run["round"], run["contender"], run["workload"]


def figures(runs: Sequence[Run], contender: str, workload: str, metric: str) -> dict[int, float]:
    """Return round -> one figure of one contender; rounds without it are absent."""
    return {
        run["round"]: float(run["metrics"][metric])
        for run in runs
        if run["contender"] == contender
        and run["workload"] == workload
        and metric in run["metrics"]
    }


def save(path: str | Path, document: Document) -> None:
    """Write the whole file so that a reader, or a power cut, meets the old one or the new one.

    Raises:
        ConfigError: it cannot be written.
    """
    path = Path(path)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with half.open("w") as out:
            json.dump(document, out, indent=1)
            out.write("\n")
            out.flush()
            os.fsync(out.fileno())
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise ConfigError(
            f"cannot be written: {error.strerror}", source="flag --json", field=str(path)
        ) from error
