"""Tables of nftables, by `nft -f -`: replaced as a whole, compared before, read back with counters.

A table of ours is given as a text and belongs to us alone. `ensure` writes it in one transaction,
so there is no moment with half of the rules (nft(8), "transactions"), and not at all when it is
right: after writing, the kernel's own listing is hashed into the name of an empty chain of the
table. As long as text and listing still have those hashes nobody has changed either, whichever
process wrote it. Elements of named sets and counters are not part of that: they change by design.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tunneld.errors import StartError
from tunneld.link import command

_MARK = "written_by_tunneld_"
_MISSING = "No such file or directory"


@dataclass(frozen=True, slots=True)
class Tally:
    """What a named counter has seen."""

    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it is in the kernel.

    Attributes:
        counters: named counters.
        sets: elements of named sets, as nft prints them.
        digest: of everything else.
        mark: what `ensure` left there; empty in tables of others.
    """

    counters: Mapping[str, Tally]
    sets: Mapping[str, frozenset[str]]
    digest: str
    mark: str


async def ensure(name: str, body: str, family: str = "ip") -> bool:
    """Have this table, and nothing else in it.

    Args:
        name: of the table.
        body: what stands between its braces: counters, sets, chains with their rules.
        family: ip, inet, ...

    Returns:
        True when it had to be written; its counters begin anew then, and its named sets hold what
        `body` gives them.

    Raises:
        StartError: nft is not installed, or refuses.
    """
    wrote = hashlib.sha256(body.encode()).hexdigest()[:16]
    found = await read(name, family)
    if found is not None and found.mark == _mark(wrote, found):
        return False
    await run(_replacement(name, body, family))
    found = await read(name, family)
    if found is None:
        raise StartError(f"the nft table {family} {name} went as soon as it was written")
    await run(f"add chain {family} {name} {_mark(wrote, found)}\n")
    return True


async def check(name: str, body: str, family: str = "ip") -> None:
    """Have the kernel judge a table without taking it.

    Raises:
        StartError: nft is not installed, or refuses.
    """
    await run(_replacement(name, body, family), "-c")


async def read(name: str, family: str = "ip") -> Table | None:
    """Return a table, or None when there is none.

    Raises:
        StartError: nft is not installed, or refuses.
    """
    done = await _nft(["-j", "list", "table", family, name], "")
    if done.returncode:
        if _MISSING in done.stderr:
            return None
        raise _refused(done.stderr)
    return parse(done.stdout)


async def set_elements(table: str, name: str, elements: Iterable[str], family: str = "ip") -> None:
    """Make exactly these the elements of a named set, in one transaction.

    Raises:
        StartError: nft is not installed, or refuses.
    """
    await set_all(table, {name: elements}, family)


async def set_all(table: str, sets: Mapping[str, Iterable[str]], family: str = "ip") -> None:
    """Make these the elements of several named sets, in one transaction for all.

    Raises:
        StartError: nft is not installed, or refuses.
    """
    lines = []
    for name, elements in sets.items():
        lines.append(f"flush set {family} {table} {name}")
        if joined := ", ".join(elements):
            lines.append(f"add element {family} {table} {name} {{ {joined} }}")
    await run("\n".join(lines) + "\n")


async def delete(name: str, family: str = "ip") -> bool:
    """Remove a table; False when there is none.

    Raises:
        StartError: nft is not installed, or refuses.
    """
    done = await _nft(["delete", "table", family, name], "")
    if done.returncode and _MISSING not in done.stderr:
        raise _refused(done.stderr)
    return not done.returncode


async def run(text: str, *options: str) -> None:
    """Give nft a text: all of it is done, or nothing.

    Raises:
        StartError: nft is not installed, or refuses.
    """
    done = await _nft([*options, "-f", "-"], text)
    if done.returncode:
        raise _refused(done.stderr)


def parse(text: str) -> Table:
    """Read what `nft -j list table` prints (libnftables-json(5))."""
    counters: dict[str, Tally] = {}
    sets: dict[str, frozenset[str]] = {}
    rest: list[Any] = []
    mark = ""
    for item in json.loads(text)["nftables"]:
        ((kind, fields),) = item.items()
        if kind == "counter":
            counters[fields["name"]] = Tally(fields["packets"], fields["bytes"])
        if kind in {"set", "map"}:
            sets[fields["name"]] = frozenset(map(_element, fields.pop("elem", ())))
        if kind == "chain" and fields["name"].startswith(_MARK):
            mark = fields["name"]
        elif kind != "metainfo":
            rest.append({kind: _lasting(fields)})
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]
    return Table(counters, sets, digest, mark)


def _element(value: Any) -> str:
    match value:
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"elem": {"val": inner}}:
            return _element(inner)
        case _:
            return str(value)


def _lasting(value: Any) -> Any:
    """Leave out what changes by itself."""
    if isinstance(value, dict):
        passing = {"handle", "packets", "bytes"}
        return {key: _lasting(inner) for key, inner in value.items() if key not in passing}
    if isinstance(value, list):
        return [_lasting(inner) for inner in value]
    return value


def _mark(wrote: str, found: Table) -> str:
    return f"{_MARK}{wrote}_{found.digest}"


def _replacement(name: str, body: str, family: str) -> str:
    # The empty one first: there may be none to delete.
    empty = f"table {family} {name} {{\n}}\n"
    return f"{empty}delete table {family} {name}\ntable {family} {name} {{\n{body}\n}}\n"


async def _nft(arguments: list[str], stdin: str) -> subprocess.CompletedProcess[str]:
    return await command.run(["nft", *arguments], stdin, package="nftables")


def _refused(stderr: str) -> StartError:
    lines = stderr.strip().splitlines() or ["no reason given"]
    reason = lines[0].removeprefix("/dev/stdin:").strip()
    remedy = "run as root, on a kernel with nf_tables"
    return StartError(f"nft refuses: {reason}", remedy=remedy)
