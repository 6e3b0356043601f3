"""What befalls etcd: how each fault begins, what the daemons say of it, and how it ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.etcd_bed import PREFIX, crowd, lease, subnet
from bench.fault_bed import PASSWORD, USER, FaultBed, Setup, wait_for
from tunneld.lab.etcd_http import EtcdGateway
from tunneld.store.etcd_mirror import GRACE_S, LINGER_S

FROZEN_S = 30.0
DAY_S = 86_400
MANY = 10_000
OTHER_PASSWORD = "another-one"  # noqa: S105 - of a user that lives for seconds

BAD_KEYS = (
    "100.96.300.0-24",
    "100.96.8.0-33",
    "100.96.8.0",
    "100.96.08.0-24",
    "x100.96.8.0-24",
    "100.96.8.0-24/",
    "100.96.8.0-24/x",
    " 100.96.8.0-24",
    "10.9.8.0-24",
    "",
)
"""Almost right; behind the prefix of the leases."""

BAD_VALUES = (
    "",
    "{nonsense",
    "[]",
    "null",
    '{"PublicIP":7}',
    '{"PublicIP":"1.2.3"}',
    '{"PublicIP":"127.0.0.1"}',
    '{"PublicIP":"10.168.1.1","BackendType":[]}',
    "\udcff\udcfe",
    "x" * 1_000_000,
)
"""Of keys that are right: broken JSON, JSON of another shape, no UTF-8, a megabyte."""

_GOOD = '{"PublicIP":"10.168.1.60","PublicIPv6":null}'
_SUBNETS = f"{PREFIX}/subnets/"
_ARGUMENT = 100_000  # bytes; what is longer goes by standard input


def nothing(_bed: FaultBed) -> None:
    """Do nothing: the fault began or ends by itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        begin: makes it.
        end: takes it away; what must be well again is measured from its return.
        says: what every daemon must write to its log; empty: this fault cuts nobody off.
        setup: what it needs.
        lasts: seconds from its begin to its end, at least.
        turns: how often it comes.
        bar: seconds until all must be well again.
        echoes: seconds that the stream goes on afterwards, because what was kept goes only then.
        peers_change: the peers are others meanwhile, so that nothing is promised of the stream.
    """

    begin: Callable[[FaultBed], None]
    end: Callable[[FaultBed], None] = nothing
    says: str = ""
    setup: Setup = field(default_factory=Setup)
    lasts: float = 0.0
    turns: int = 1
    bar: float = 5.0
    echoes: float = 0.0
    peers_change: bool = False


def _kill(bed: FaultBed) -> None:
    bed.etcd.kill()


def _start(bed: FaultBed) -> None:
    bed.etcd.start()


def _freeze(bed: FaultBed) -> None:
    bed.etcd.freeze()


def _thaw(bed: FaultBed) -> None:
    bed.etcd.thaw()


def _kill_the_next_member(bed: FaultBed) -> None:
    bed.members.append(bed.members.pop(0))
    bed.members[-1].kill()


def _revive(bed: FaultBed) -> None:
    # There is a leader again: from here on it is for the daemons to recover.
    bed.configure()
    dead = bed.members[-1]
    dead.start(wait=False)


def _change_unseen(bed: FaultBed) -> None:
    gateway, keys = bed.gateway, [lease(number, "172.18.0.1") for number in range(100, 200)]
    bed.ctl("put", *keys[0])
    wait_for(lambda: all(str(subnet(100)) in bed.peers(host) for host in bed.nodes), "a peer")
    gateway.close()
    bed.etcd.kill()
    with bed.unseen() as unseen:
        gateway = EtcdGateway(unseen.url, bed.wire)
        with contextlib.closing(gateway):
            gateway.put_all(keys[1:])
            gateway.delete(keys[0][0])
            gateway.compact()


def _wipe(bed: FaultBed) -> None:
    bed.etcd.wipe()


def _start_empty(bed: FaultBed) -> None:
    bed.etcd.start()
    bed.configure()


def _delete_own_keys(bed: FaultBed) -> None:
    for key in bed.own_keys():
        bed.ctl("del", key)


def _forbid(bed: FaultBed) -> None:
    bed.ctl("role", "revoke-permission", USER, "--prefix=true", PREFIX)
    # A watch that was allowed goes on; now it has to ask again.
    bed.etcd.kill()
    bed.etcd.start()


def _permit(bed: FaultBed) -> None:
    bed.ctl("role", "grant-permission", USER, "--prefix=true", "readwrite", PREFIX)


def _change_password(bed: FaultBed) -> None:
    _set_password(bed, OTHER_PASSWORD)
    bed.etcd.kill()
    bed.etcd.start()


def _restore_password(bed: FaultBed) -> None:
    _set_password(bed, PASSWORD)


def _set_password(bed: FaultBed, password: str) -> None:
    bed.ctl("user", "passwd", USER, "--interactive=false", stdin=password)


def _let_tokens_expire(bed: FaultBed) -> None:
    def expired() -> bool:
        lines = bed.etcd.log.read_text().splitlines()[seen:]
        return sum("deleted a simple token" in line and f'"{USER}"' in line for line in lines) >= 2

    seen = len(bed.etcd.log.read_text().splitlines())
    wait_for(expired, "both tokens to expire")


def _show_expired(bed: FaultBed) -> None:
    bed.show_bad("expired", days=-1)


def _show_strange(bed: FaultBed) -> None:
    bed.show_bad("strange", strange=True)


def _show_good(bed: FaultBed) -> None:
    bed.show(bed.good)
    bed.etcd.wait_ready()


def _be_slow(bed: FaultBed) -> None:
    bed.slow(2.0)
    new = bed.fresh()
    wait_for(lambda: all(new in bed.peers(host) for host in bed.nodes), "a lease, slowly")


def _be_quick(bed: FaultBed) -> None:
    bed.slow(0)


def _put_nonsense(bed: FaultBed) -> None:
    for key in BAD_KEYS:
        bed.ctl("put", _SUBNETS + key, _GOOD)
    for number, value in enumerate(BAD_VALUES, start=10_900):
        key = lease(number, "")[0]
        if len(value) < _ARGUMENT:
            bed.ctl("put", key, value)
        else:
            bed.ctl("put", key, stdin=value)
    new = bed.fresh()
    wait_for(lambda: all(new in bed.peers(host) for host in bed.nodes), "a lease behind them")


def _put_many(bed: FaultBed) -> None:
    own = bed.own_keys()
    bed.gateway.put_all({key: value for key, value in crowd(MANY).items() if key not in own})


def _jump(bed: FaultBed) -> None:
    bed.jump(DAY_S)
    new = bed.fresh()
    wait_for(lambda: all(new in bed.peers(host) for host in bed.nodes), "a lease, a day later")
    bed.jump(-DAY_S)


FAULTS: dict[str, Fault] = {
    "absent at start": Fault(nothing, _start, "the store is away", Setup(away=True)),
    "killed and started": Fault(_kill, _start, "refused"),
    "frozen for 30 s": Fault(_freeze, _thaw, "no answer", lasts=FROZEN_S, bar=20.0),
    "one of three killed, in turn": Fault(
        _kill_the_next_member, _revive, setup=Setup(members=3), turns=3
    ),
    "compacted, 100 changes unseen": Fault(_change_unseen, _start, "refused", peers_change=True),
    "data directory wiped": Fault(_wipe, _start_empty, "refused", echoes=GRACE_S + 1),
    "permission denied": Fault(_forbid, _permit, "permission denied", Setup(user=True)),
    "tokens expired": Fault(_let_tokens_expire, _delete_own_keys, setup=Setup(user=True)),
    "another password": Fault(
        _change_password, _restore_password, "check --etcd-username", Setup(user=True)
    ),
    "certificate of another authority": Fault(
        _show_strange, _show_good, "--etcd-cafile", Setup(tls=True)
    ),
    "certificate expired": Fault(_show_expired, _show_good, "renew the cert", Setup(tls=True)),
    "answers after 2 s": Fault(_be_slow, _be_quick, setup=Setup(relay=True)),
    "nonsense among 500": Fault(_put_nonsense, setup=Setup(peers=499)),
    "10,000 leases at once": Fault(_put_many, peers_change=True),
    "own keys deleted": Fault(_delete_own_keys, echoes=LINGER_S + 1),
    "clock a day on, then back": Fault(_jump, lambda bed: bed.jump(0), setup=Setup(clock=True)),
}
"""Name -> fault."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has come of a fault.

    Attributes:
        sent: datagrams meanwhile.
        lost: of them.
        told_s: from the begin until both daemons said that they are cut off; None: they are not.
        recovered_s: seconds from the end of each turn until all was well.
        bar: of the latter.
    """

    sent: int
    lost: int
    told_s: float | None
    recovered_s: list[float]
    bar: float

    @property
    def in_time(self) -> bool:
        """Whether all was well again soon enough."""
        return max(self.recovered_s) <= self.bar


def befall(
    fault: Fault,
    meanwhile: Callable[[FaultBed], None] = nothing,
    after: Callable[[FaultBed], None] = nothing,
) -> Outcome:
    """Have a fault befall two daemons, beside a stream of datagrams.

    Args:
        fault: one of `FAULTS`.
        meanwhile: called once the daemons have told, before the fault ends.
        after: called when all is well and the stream has ended.

    Raises:
        TunneldError: the daemons did not notice, or did not recover within a minute.
    """
    told, recovered = None, []
    with FaultBed(fault.setup) as bed:
        with bed.stream() as stream:
            for _ in range(fault.turns):
                began = time.monotonic()
                fault.begin(bed)
                if fault.says:
                    bed.wait_told(fault.says)
                    told = time.monotonic() - began
                meanwhile(bed)
                time.sleep(max(0.0, began + fault.lasts - time.monotonic()))
                fault.end(bed)
                recovered.append(bed.recovered(time.monotonic()))
            time.sleep(fault.echoes)
        result = stream.result
        after(bed)
    return Outcome(result.sent, result.sent - result.received, told, recovered, fault.bar)
