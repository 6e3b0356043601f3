"""The pure parts of the vxlan backends: options, leases, comparison of tables, answers."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.backend import vxlan_config
from tunneld.backend.vxlan_config import VxlanConfig, derive_mac
from tunneld.backend.vxlan_miss import Answers
from tunneld.backend.vxlan_peers import Vtep, read_peers
from tunneld.backend.vxlan_tables import Synced, VxlanTables, compare_routes, route, unreachable
from tunneld.errors import ConfigError
from tunneld.lease import (
    Lease,
    LeaseAttrs,
    LeaseFormatError,
    VtepData,
    format_attrs,
    parse_attrs,
    parse_vtep,
)
from tunneld.link import rtnl_neigh, rtnl_routes
from tunneld.link.rtnl_bulk import Answer, BulkSocket, Request
from tunneld.link.rtnl_info import RouteInfo
from tunneld.link.rtnl_neigh import NUD_INCOMPLETE, NUD_PERMANENT, NUD_REACHABLE, Neighbour

MAC, OTHER_MAC, OWN_MAC = "be:51:5e:8d:fd:f9", "be:51:5e:00:00:01", "be:51:5e:00:00:ff"
NETWORK = IPv4Network("100.96.0.0/16")
SUBNET = IPv4Network("100.96.2.0/24")


class TestOptions:
    def test_defaults_are_flannels(self) -> None:
        assert vxlan_config.parse({"Type": "vxlan"}, "config") == VxlanConfig(
            vni=1, port=8472, mtu=None, learning=False, gbp=False, direct_routing=False
        )

    def test_names_match_in_any_case_and_null_leaves_the_default(self) -> None:
        document = {"vni": 7, "PORT": 4789, "mtu": None, "directrouting": True, "More": [1]}
        config = vxlan_config.parse(document, "config")
        assert config == VxlanConfig(vni=7, port=4789, direct_routing=True)
        assert config.device == "flannel.7"

    @pytest.mark.parametrize(
        ("document", "field"),
        [
            ({"VNI": -1}, "VNI"),
            ({"VNI": 10_000_000}, "VNI"),
            ({"VNI": "1"}, "VNI"),
            ({"VNI": True}, "VNI"),
            ({"VNI": 1.5}, "VNI"),
            ({"Port": 0}, "Port"),
            ({"Port": 65536}, "Port"),
            ({"MTU": -1}, "MTU"),
            ({"MTU": 117}, "MTU"),
            ({"MTU": 65536}, "MTU"),
            ({"Learning": 1}, "Learning"),
            ({"GBP": "true"}, "GBP"),
            ({"DirectRouting": []}, "DirectRouting"),
        ],
    )
    def test_a_wrong_one_is_refused_with_field_source_and_remedy(
        self, document: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            vxlan_config.parse(document, "network config of file:/x")
        error = caught.value
        assert (error.field, error.source) == (f"Backend.{field}", "network config of file:/x")
        assert error.remedy

    def test_the_mtu_is_that_of_the_outer_packets_and_the_underlay_limits_it(self) -> None:
        assert VxlanConfig().device_mtu(1500) == 1450
        assert VxlanConfig(mtu=1400).device_mtu(1500) == 1350
        assert VxlanConfig(mtu=9000).device_mtu(1500) == 1450

    @given(st.integers(0, 2**32 - 1), st.integers(0, 2**24 - 1))
    def test_a_derived_mac_is_stable_and_one_that_a_vtep_can_have(
        self, address: int, vni: int
    ) -> None:
        mac = derive_mac(IPv4Address(address), vni)
        assert mac == derive_mac(IPv4Address(address), vni)
        assert parse_vtep({"VtepMAC": mac}) == VtepData(mac, None)
        assert int(mac[:2], 16) & 3 == 2


class TestLease:
    VALUE = (
        b'{"PublicIP":"10.168.0.12","PublicIPv6":null,"BackendType":"vxlan",'
        b'"BackendData":{"VNI":1,"VtepMAC":"be:51:5e:8d:fd:f9"}}'
    )

    def test_what_we_announce_is_flannels_byte_for_byte(self) -> None:
        attrs = LeaseAttrs(
            IPv4Address("10.168.0.12"),
            backend_type="vxlan",
            backend_data=VtepData(MAC, 1).document,
        )
        assert format_attrs(attrs) == self.VALUE
        assert parse_vtep(parse_attrs(self.VALUE).backend_data) == VtepData(MAC, 1)

    @pytest.mark.parametrize("text", ["BE:51:5E:8D:FD:F9", "be-51-5e-8d-fd-f9"])
    def test_other_ways_to_write_a_mac(self, text: str) -> None:
        assert parse_vtep({"vtepmac": text, "vni": 3}) == VtepData(MAC, 3)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (None, "is a null"),
            ([], "is a list"),
            ({}, "no VtepMAC"),
            ({"VtepMAC": 1}, "is a number"),
            ({"VtepMAC": ""}, "no MAC address"),
            ({"VtepMAC": "be:51:5e:8d:fd"}, "no MAC address"),
            ({"VtepMAC": MAC + "\n"}, "no MAC address"),
            ({"VtepMAC": "be:51-5e:8d:fd:f9"}, "no MAC address"),
            ({"VtepMAC": "00:00:00:00:00:00"}, "one station"),
            ({"VtepMAC": "ff:ff:ff:ff:ff:ff"}, "one station"),
            ({"VtepMAC": "01:00:5e:00:00:01"}, "one station"),
            ({"VtepMAC": MAC, "VNI": "1"}, "VNI is a string"),
            ({"VtepMAC": MAC, "VNI": True}, "VNI is a boolean"),
        ],
    )
    def test_what_is_none_is_refused(self, data: object, message: str) -> None:
        with pytest.raises(LeaseFormatError, match=message):
            parse_vtep(data)


def lease(
    subnet: str, public_ip: str, mac: str = MAC, *, vni: int | None = 1, kind: str = "vxlan"
) -> Lease:
    data = VtepData(mac, vni).document
    return Lease(IPv4Network(subnet), LeaseAttrs(IPv4Address(public_ip), None, kind, data))


def peers_of(*leases: Lease) -> tuple[list[str], dict[str, str]]:
    vteps, skipped = read_peers(leases, backend_type="vxlan", vni=1, own_mac=OWN_MAC)
    return [str(vtep.subnet) for vtep in vteps], {str(k): v for k, v in skipped.items()}


class TestPeers:
    def test_the_first_of_two_hosts_with_one_mac_is_taken(self) -> None:
        taken, skipped = peers_of(
            lease("100.96.2.0/24", "10.168.0.3"), lease("100.96.3.0/24", "10.168.0.4")
        )
        assert taken == ["100.96.2.0/24"]
        assert "100.96.2.0/24 too" in skipped["100.96.3.0/24"]

    def test_several_subnets_of_one_host_are_fine(self) -> None:
        taken, skipped = peers_of(
            lease("100.96.2.0/24", "10.168.0.3"), lease("100.96.3.0/24", "10.168.0.3")
        )
        assert (len(taken), skipped) == (2, {})

    def test_one_that_is_skipped_takes_nobodys_mac(self) -> None:
        taken, skipped = peers_of(
            lease("100.96.2.0/24", "10.168.0.3", vni=2),
            lease("100.96.3.0/24", "10.168.0.4", kind="vxlan-miss"),
            lease("100.96.4.0/24", "10.168.0.5"),
        )
        assert taken == ["100.96.4.0/24"]
        assert sorted(skipped) == ["100.96.2.0/24", "100.96.3.0/24"]

    def test_our_own_mac_and_an_unknown_vni(self) -> None:
        taken, skipped = peers_of(
            lease("100.96.2.0/24", "10.168.0.3", OWN_MAC),
            lease("100.96.3.0/24", "10.168.0.4", vni=None),
        )
        assert (taken, list(skipped)) == (["100.96.3.0/24"], ["100.96.2.0/24"])


ROUTES = st.lists(
    st.builds(
        lambda net, ifindex, closed: (
            unreachable(net) if closed else route(net, ifindex, net[0], onlink=True)
        ),
        st.integers(0, 5).map(lambda n: IPv4Network((int(NETWORK[0]) + (n << 8), 24))),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=12,
)


@given(ROUTES, ROUTES)
def test_comparing_routes_leads_from_any_table_to_the_wanted_one(
    there: list[RouteInfo], listed: list[RouteInfo]
) -> None:
    # The kernel has one route for a prefix and metric.
    table = {(r.dst, r.metric): r for r in there}
    wanted = {(r.dst, r.metric): r for r in listed}
    missing, stale = compare_routes(list(table.values()), list(wanted.values()))
    assert not set(missing) & set(table.values())
    for old in stale:
        del table[old.dst, old.metric]
    table |= {(new.dst, new.metric): new for new in missing}
    assert table == wanted
    assert compare_routes(list(table.values()), list(wanted.values())) == ([], [])


ENTRIES = st.builds(
    Neighbour,
    ifindex=st.integers(1, 2**31 - 1),
    mac=st.binary(min_size=6, max_size=6).map(lambda data: data.hex(":")) | st.just(""),
    dst=st.none() | st.integers(0, 2**32 - 1).map(IPv4Address),
    state=st.integers(0, 255),
    fdb=st.booleans(),
)


@given(ENTRIES)
def test_a_neighbour_message_reads_back(entry: Neighbour) -> None:
    assert rtnl_neigh.read(rtnl_neigh.put(entry).body) == entry


@given(ROUTES)
def test_a_route_message_reads_back(routes: list[RouteInfo]) -> None:
    for info in routes:
        assert rtnl_routes.read(rtnl_routes.put(info).body) == info


@given(st.binary(max_size=200))
def test_garbage_from_netlink_is_no_event(data: bytes) -> None:
    for event in rtnl_neigh.parse(data):
        assert event.entry is not None


def test_changes_of_ours_are_told_from_those_of_others() -> None:
    tables = VxlanTables(BulkSocket(), NETWORK)
    tables._neighbours = {SUBNET[0]: MAC}
    tables._fdb = {MAC: IPv4Address("10.168.0.3")}
    ours = Neighbour(5, MAC, SUBNET[0], NUD_PERMANENT, fdb=False)
    entry = Neighbour(5, MAC, IPv4Address("10.168.0.3"), NUD_PERMANENT, fdb=True)
    for right in (ours, entry):
        assert not tables.wrong(right, deleted=False)
        assert tables.wrong(right, deleted=True)
    stale = Neighbour(5, MAC, SUBNET[0], NUD_REACHABLE, fdb=False)
    assert tables.wrong(stale, deleted=False)
    elsewhere = Neighbour(5, MAC, IPv4Address("10.168.0.9"), NUD_PERMANENT, fdb=True)
    assert tables.wrong(elsewhere, deleted=False)
    assert not tables.wrong(elsewhere, deleted=True)
    foreign = Neighbour(5, OTHER_MAC, SUBNET[9], NUD_PERMANENT, fdb=False)
    assert tables.wrong(foreign, deleted=False)
    assert not tables.wrong(foreign, deleted=True)
    learned = Neighbour(5, OTHER_MAC, IPv4Address("10.168.0.9"), NUD_REACHABLE, fdb=True)
    assert not tables.wrong(learned, deleted=False)


class Refusing(BulkSocket):
    """Refuses requests of one kind that hold some bytes; remembers all the others, in order."""

    def __init__(self, kind: int, what: bytes) -> None:
        super().__init__()
        self.kind, self.what = kind, what
        self.done: list[Request] = []

    async def exchange(self, requests: Sequence[Request]) -> list[Answer]:
        answers = []
        for request in requests:
            bad = request.kind == self.kind and self.what in request.body
            answers.append(Answer(errno.ENOBUFS if bad else 0))
            self.done += [] if bad else [request]
        return answers

    async def dump(self, kind: int, body: bytes) -> list[bytes]:
        del kind, body
        return []


PUBLIC_IPS = [IPv4Address("10.168.0.3"), IPv4Address("10.168.0.4")]
VTEPS = [
    Vtep(SUBNET, PUBLIC_IPS[0], MAC),
    Vtep(IPv4Network("100.96.3.0/24"), PUBLIC_IPS[1], OTHER_MAC),
]
RTM_NEWROUTE = 24


def steps_of(vtep: Vtep) -> list[Request]:
    """What a peer gets, in flannel's order."""
    return [
        rtnl_neigh.put(Neighbour(5, vtep.mac, vtep.base, NUD_PERMANENT, fdb=False)),
        rtnl_neigh.put(Neighbour(5, vtep.mac, vtep.public_ip, NUD_PERMANENT, fdb=True)),
        rtnl_routes.put(route(vtep.subnet, 5, vtep.base, onlink=True)),
    ]


def undone(vtep: Vtep) -> list[Request]:
    return [
        rtnl_neigh.drop(Neighbour(5, vtep.mac, vtep.public_ip, NUD_PERMANENT, fdb=True)),
        rtnl_neigh.drop(Neighbour(5, vtep.mac, vtep.base, NUD_PERMANENT, fdb=False)),
    ]


class TestSteps:
    async def sync(self, bulk: Refusing, vteps: list[Vtep]) -> tuple[Synced, list[Request]]:
        tables = VxlanTables(bulk, NETWORK)
        done = await tables.sync(5, vteps, {}, [NETWORK])
        assert bulk.done[0] == rtnl_routes.put(unreachable(NETWORK))
        # Entries that were never complete are not repaired when they are written again.
        assert done.repaired.keys() <= {"unreachable_route"}
        return done, bulk.done[1:]

    async def test_the_order_of_each_peer_is_flannels(self) -> None:
        done, requests = await self.sync(Refusing(0, b""), VTEPS)
        assert done.failed == {}
        for vtep in VTEPS:
            steps = steps_of(vtep)
            assert [request for request in requests if request in steps] == steps

    @pytest.mark.parametrize(
        ("kind", "fdb", "left"),
        [
            (rtnl_neigh.RTM_NEWNEIGH, False, []),
            (rtnl_neigh.RTM_NEWNEIGH, True, [1]),
            (RTM_NEWROUTE, False, [0, 1]),
        ],
        ids=["neighbour", "fdb", "route"],
    )
    async def test_a_step_that_fails_undoes_those_before_and_costs_no_other_peer(
        self, kind: int, fdb: bool, left: list[int]
    ) -> None:
        bad = VTEPS[1]
        what = (bad.public_ip if fdb else bad.base).packed
        done, requests = await self.sync(Refusing(kind, what), VTEPS)
        assert list(done.failed) == [bad.subnet]
        assert "No buffer space" in done.failed[bad.subnet]
        own = [r for r in requests if r not in steps_of(VTEPS[0])]
        assert own == steps_of(bad)[: len(left)] + [undone(bad)[i] for i in left]
        assert [r for r in requests if r in steps_of(VTEPS[0])] == steps_of(VTEPS[0])

    async def test_an_fdb_entry_that_another_subnet_needs_is_not_undone(self) -> None:
        twin = Vtep(IPv4Network("100.96.4.0/24"), PUBLIC_IPS[0], MAC)
        done, requests = await self.sync(Refusing(RTM_NEWROUTE, twin.base.packed), [*VTEPS, twin])
        assert list(done.failed) == [twin.subnet]
        assert undone(twin)[0] not in requests
        assert requests[-1] == undone(twin)[1]


class TestAnswers:
    ADDRESS, PUBLIC = IPv4Address("100.96.2.3"), IPv4Address("10.168.0.3")
    ANSWERS = Answers(
        [
            Vtep(SUBNET, PUBLIC, MAC),
            Vtep(IPv4Network("100.96.2.128/25"), IPv4Address("10.168.0.4"), OTHER_MAC),
        ]
    )

    def asked(self, address: str, mac: str = "", *, fdb: bool = False) -> list[Neighbour]:
        dst = IPv4Address(address) if address else None
        return self.ANSWERS.entries(Neighbour(5, mac, dst, NUD_INCOMPLETE, fdb=fdb))

    def test_a_neighbour_miss_is_answered_with_both_entries_the_fdb_first(self) -> None:
        assert self.asked("100.96.2.3") == [
            Neighbour(5, MAC, self.PUBLIC, NUD_REACHABLE, fdb=True),
            Neighbour(5, MAC, self.ADDRESS, NUD_REACHABLE, fdb=False),
        ]

    def test_an_fdb_miss_is_answered_with_the_public_ip(self) -> None:
        assert self.asked("", MAC, fdb=True) == [
            Neighbour(5, MAC, self.PUBLIC, NUD_REACHABLE, fdb=True)
        ]

    def test_the_longest_prefix_answers(self) -> None:
        assert self.asked("100.96.2.200")[1].mac == OTHER_MAC

    def test_what_belongs_to_nobody_is_not_answered(self) -> None:
        assert self.asked("100.96.3.1") == []
        assert self.asked("", "be:00:00:00:00:99", fdb=True) == []
        assert self.asked("") == []

    def test_what_is_right_stays(self) -> None:
        right = Neighbour(5, MAC, self.ADDRESS, NUD_REACHABLE, fdb=False)
        assert self.ANSWERS.right(right)
        assert self.ANSWERS.right(Neighbour(5, MAC, self.PUBLIC, NUD_REACHABLE, fdb=True))
        assert self.ANSWERS.right(Neighbour(5, "", IPv4Address("100.96.9.9"), 0, fdb=False))
        assert not self.ANSWERS.right(Neighbour(5, OTHER_MAC, self.ADDRESS, 2, fdb=False))
        assert not self.ANSWERS.right(Neighbour(5, MAC, IPv4Address("10.168.0.9"), 2, fdb=True))
