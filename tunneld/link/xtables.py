"""Chains of iptables: written in one transaction for each table, compared before.

A chain of ours belongs to us alone, and one rule in a built-in chain leads to it. Rules are given
as `iptables -S` prints them, so that comparing is comparing texts; that holds for both binaries,
iptables-nft and iptables-legacy. The jump is appended, as flannel's is: what an administrator (or
docker, in DOCKER-USER) wants to drop first, stays dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tunneld.errors import StartError
from tunneld.link import command

# Others hold the lock of iptables-legacy while they write.
_WAIT = ("-w", "5")


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of ours and the rule that leads to it.

    Attributes:
        table: filter, nat or mangle.
        name: of the chain.
        hook: the built-in chain that the jump stands in.
        rules: in order, each as `iptables -S` prints it, without `-A NAME`.
        match: what the jump is limited to, in the same form.
    """

    table: str
    name: str
    hook: str
    rules: tuple[str, ...] = ()
    match: str = ""

    @property
    def jump(self) -> str:
        """The rule that leads here."""
        return " ".join(filter(None, ("-A", self.hook, self.match, "-j", self.name)))


async def legacy() -> bool:
    """Whether iptables keeps its rules outside nf_tables (`iptables --version`).

    Raises:
        StartError: iptables is not installed.
    """
    return "nf_tables" not in await _run("iptables", "--version")


async def ensure(chains: Sequence[Chain]) -> bool:
    """Have these chains, with exactly these rules, and one jump to each.

    Returns:
        True when something had to be written.

    Raises:
        StartError: iptables is not installed, or refuses.
    """
    changed = False
    for table, group in groupby(sorted(chains, key=lambda chain: chain.table), _table):
        found = await listing(table)
        if lines := [line for chain in group for line in _changes(chain, found)]:
            await _restore(table, lines)
            changed = True
    return changed


async def remove(chains: Iterable[Chain]) -> list[str]:
    """Remove these chains, whatever is in them, and every jump to them.

    Returns:
        Those that were there, one `TABLE NAME` each.

    Raises:
        StartError: iptables is not installed, or refuses.
    """
    removed = []
    loaded = _loaded() if await legacy() else None
    for chain in chains:
        if loaded is not None and chain.table not in loaded:
            # Only to look would load it, and the nat table brings connection tracking.
            continue
        found = await listing(chain.table)
        lines = [f"-D{line[2:]}" for line in found if line.endswith(f" -j {chain.name}")]
        if f"-N {chain.name}" in found:
            lines += [f"-F {chain.name}", f"-X {chain.name}"]
            removed.append(f"{chain.table} {chain.name}")
        if lines:
            await _restore(chain.table, lines)
    return removed


async def listing(table: str) -> list[str]:
    """Return what `iptables -S` prints of a table.

    Raises:
        StartError: iptables is not installed, or refuses.
    """
    return (await _run("iptables", *_WAIT, "-t", table, "-S")).splitlines()


def _loaded() -> frozenset[str]:
    """Return the tables of iptables-legacy that are in use in this network namespace."""
    try:
        return frozenset(Path("/proc/thread-self/net/ip_tables_names").read_text().split())
    except OSError:
        return frozenset()


def _table(chain: Chain) -> str:
    return chain.table


def _changes(chain: Chain, found: Sequence[str]) -> list[str]:
    """Return lines for iptables-restore that make this chain right; none when it is."""
    lines = []
    prefix = f"-A {chain.name} "
    rules = tuple(line.removeprefix(prefix) for line in found if line.startswith(prefix))
    if f"-N {chain.name}" not in found or rules != chain.rules:
        # Declaring a chain empties it.
        lines += [f":{chain.name} - [0:0]", *(prefix + rule for rule in chain.rules)]
    jumps = found.count(chain.jump)
    lines += [f"-D{chain.jump[2:]}"] * (jumps - 1)
    return lines if jumps else [*lines, chain.jump]


async def _restore(table: str, lines: Sequence[str]) -> None:
    # Declarations come first in this format.
    ordered = sorted(lines, key=lambda line: not line.startswith(":"))
    text = "\n".join([f"*{table}", *ordered, "COMMIT", ""])
    await _run("iptables-restore", *_WAIT, "--noflush", stdin=text)


async def _run(*argv: str, stdin: str = "") -> str:
    done = await command.run(argv, stdin, package="iptables")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("#")]
        said = " ".join(" ".join(lines).split()) or "no reason given"
        remedy = "run as root, on a kernel with iptables"
        raise StartError(f"{argv[0]} refuses: {said}", remedy=remedy)
    return done.stdout
