"""netconf: every rule and error text of flannel's network config, and what we add."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.errors import ConfigError
from tunneld.netconf import (
    FLANNEL_BACKENDS,
    NetworkConfig,
    parse_network_config,
)

SOURCE = "/coreos.com/network/config"


def parse(**fields: object) -> NetworkConfig:
    return parse_network_config(json.dumps(fields), SOURCE)


def refused(text: bytes | str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_network_config(text, SOURCE)
    assert caught.value.exit_code == 2
    assert caught.value.source == SOURCE
    assert str(caught.value).isprintable()
    return caught.value


def test_the_defaults() -> None:
    config = parse(Network="100.96.0.0/16")
    assert config == NetworkConfig(
        network=IPv4Network("100.96.0.0/16"),
        subnet_len=24,
        subnet_min=IPv4Address("100.96.1.0"),
        subnet_max=IPv4Address("100.96.255.0"),
        backend_type="udp",
        port=8285,
        mtu=None,
        backend={"Type": "udp"},
    )


def test_host_bits_of_the_network_are_masked() -> None:
    assert parse(Network="10.5.77.3/16").network == IPv4Network("10.5.0.0/16")


def test_keys_match_in_any_case_and_the_last_one_wins() -> None:
    text = (
        b'{"NETWORK":"10.0.0.0/8","network":"10.5.0.0/16","sUbNeTlEn":28,'
        b'"backEND":{"TYPE":"UDP","port":9}}'
    )
    config = parse_network_config(text, SOURCE)
    assert (config.network, config.subnet_len) == (IPv4Network("10.5.0.0/16"), 28)
    assert (config.backend_type, config.port) == ("udp", 9)


def test_null_leaves_the_default() -> None:
    config = parse(
        Network="10.5.0.0/16", SubnetLen=None, SubnetMin=None, EnableIPv4=None, Backend=None
    )
    assert config == parse(Network="10.5.0.0/16")


def test_unknown_keys_and_zero_values_are_ignored() -> None:
    unset = str(IPv4Address(0))
    config = parse(**NET, Hello=[1], SubnetLen=0, SubnetMin=unset, SubnetMax=unset)
    assert config == parse(Network="10.5.0.0/16")


@pytest.mark.parametrize(
    ("network", "length", "first", "last"),
    [
        ("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0"),
        ("10.5.0.0/22", 24, "10.5.1.0", "10.5.3.0"),
        ("10.5.0.0/23", 25, "10.5.0.128", "10.5.1.128"),
        ("10.5.0.0/24", 26, "10.5.0.64", "10.5.0.192"),
        ("10.5.0.0/28", 30, "10.5.0.4", "10.5.0.12"),
        ("128.0.0.0/1", 24, "128.0.1.0", "255.255.255.0"),
    ],
)
def test_subnet_len_and_range_follow_the_network(
    network: str, length: int, first: str, last: str
) -> None:
    config = parse(Network=network)
    assert config.subnet_len == length
    assert (config.subnet_min, config.subnet_max) == (IPv4Address(first), IPv4Address(last))


NET = {"Network": "10.5.0.0/16"}
FLANNEL_TEXTS = [
    ({}, "Network", "please define a correct Network parameter in the flannel config"),
    ({"Network": ""}, "Network", "please define a correct Network parameter in the flannel config"),
    (
        {"Network": "0.0.0.0/0"},
        "Network",
        "please define a correct Network parameter in the flannel config",
    ),
    (NET | {"SubnetLen": 31}, "SubnetLen", "SubnetLen must be less than /31"),
    (
        NET | {"SubnetLen": 17},
        "SubnetLen",
        "network must be able to accommodate at least four subnets",
    ),
    (
        {"Network": "10.5.0.0/29", "SubnetLen": 30},
        "SubnetLen",
        "network must be able to accommodate at least four subnets",
    ),
    (
        {"Network": "10.5.0.0/29"},
        "Network",
        "network is too small. Minimum useful network prefix is /28",
    ),
    (
        NET | {"SubnetMin": "10.4.255.0"},
        "SubnetMin",
        "SubnetMin is not in the range of the Network",
    ),
    (NET | {"SubnetMax": "10.6.0.0"}, "SubnetMax", "SubnetMax is not in the range of the Network"),
    (
        NET | {"SubnetMin": "10.5.1.128"},
        "SubnetMin",
        "SubnetMin is not on a SubnetLen boundary: 10.5.1.128",
    ),
    (
        NET | {"SubnetMax": "10.5.1.1"},
        "SubnetMax",
        "SubnetMax is not on a SubnetLen boundary: 10.5.1.1",
    ),
    (NET | {"Backend": {"Type": "Bogus"}}, "Backend.Type", "unknown backend type: bogus"),
]


@pytest.mark.parametrize(("fields", "field", "text"), FLANNEL_TEXTS)
def test_flannels_error_texts(fields: dict[str, object], field: str, text: str) -> None:
    error = refused(json.dumps(fields))
    assert str(error) == f"{SOURCE}, {field}: {text}"
    assert error.field == field


OUR_TEXTS = [
    (b"", "", "not JSON"),
    (b"{", "", "not JSON"),
    (b"\xff\xfe{}", "", "not JSON"),
    (b'{"Network":"10.5.0.0/16","SubnetLen":NaN}', "", "NaN is no JSON value"),
    (b"[" * 200_000, "", "nested too deeply"),
    (b"[]", "", "not a JSON object but a list"),
    (b"null", "", "not a JSON object but a null"),
    (b'{"Network":5}', "Network", "not a number"),
    (b'{"Network":"10.5.0.0"}', "Network", 'invalid CIDR address: "10.5.0.0"'),
    (b'{"Network":"10.5.0.0/255.255.0.0"}', "Network", "invalid CIDR address"),
    (b'{"Network":"10.5.0.0/33"}', "Network", "invalid CIDR address"),
    (b'{"Network":"10.5.0/16"}', "Network", "invalid CIDR address"),
    (b'{"Network":"fd00::/48"}', "Network", "invalid CIDR address"),
    (b'{"Network":"10.5.0.0/16\\n"}', "Network", "invalid CIDR address"),
    (b'{"Network":"10.5.0.0/16","SubnetLen":-1}', "SubnetLen", "must not be negative: -1"),
    (b'{"Network":"10.5.0.0/16","SubnetLen":"24"}', "SubnetLen", "must be a whole number"),
    (b'{"Network":"10.5.0.0/16","SubnetLen":24.0}', "SubnetLen", "must be a whole number"),
    (b'{"Network":"10.5.0.0/16","SubnetLen":true}', "SubnetLen", "must be a whole number"),
    (b'{"Network":"10.5.0.0/16","SubnetMin":"x"}', "SubnetMin", 'is not an IPv4 address: "x"'),
    (b'{"Network":"10.5.0.0/16","SubnetMax":7}', "SubnetMax", "must be a string"),
    (
        b'{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}',
        "SubnetMin",
        "SubnetMin 10.5.9.0 lies above SubnetMax 10.5.8.0",
    ),
    (b'{"Network":"10.5.0.0/16","EnableIPv4":false}', "EnableIPv4", "IPv4 only for now"),
    (b'{"Network":"10.5.0.0/16","EnableIPv6":true}', "EnableIPv6", "IPv4 only for now"),
    (b'{"EnableIPv4":false,"EnableIPv6":true}', "EnableIPv4", "IPv4 only for now"),
    (b'{"Network":"10.5.0.0/16","EnableIPv6":1}', "EnableIPv6", "must be true or false"),
    (b'{"Network":"10.5.0.0/16","EnableNFTables":"no"}', "EnableNFTables", "must be true or"),
    (b'{"Network":"10.5.0.0/16","Backend":"udp"}', "Backend", "must be a JSON object"),
    (b'{"Network":"10.5.0.0/16","Backend":{}}', "Backend.Type", 'unknown backend type: ""'),
    (b'{"Network":"10.5.0.0/16","Backend":{"Type":7}}', "Backend.Type", "must be a string"),
    (
        b'{"Network":"10.5.0.0/16","Backend":{"Type":"a\\u0000b"}}',
        "Backend.Type",
        'unknown backend type: "a\\x00b"',
    ),
    (
        b'{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":0}}',
        "Backend.Port",
        "must lie between 1 and 65535: 0",
    ),
    (
        b'{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":65536}}',
        "Backend.Port",
        "must lie between 1 and 65535: 65536",
    ),
    (
        b'{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":"8285"}}',
        "Backend.Port",
        "must be a whole number",
    ),
    (
        b'{"Network":"10.5.0.0/16","Backend":{"Type":"udp","MTU":67}}',
        "Backend.MTU",
        "must lie between 68 and 65507 bytes: 67",
    ),
    (
        b'{"Network":"10.5.0.0/16","Backend":{"Type":"udp","MTU":65508}}',
        "Backend.MTU",
        "must lie between 68 and 65507 bytes: 65508",
    ),
]


@pytest.mark.parametrize(("text", "field", "message"), OUR_TEXTS)
def test_what_flannel_leaves_to_chance_is_refused_by_name(
    text: bytes, field: str, message: str
) -> None:
    error = refused(text)
    assert error.field == field
    assert message in str(error)


def test_ipv6_switched_off_and_nftables_are_accepted() -> None:
    config = parse(**NET, EnableIPv6=False, IPv6Network="fc00::/48", EnableNFTables=True)
    assert config == parse(**NET)


@pytest.mark.parametrize(
    ("backend", "kind", "port", "mtu"),
    [
        ({"Type": "UDP", "Port": 7890, "MTU": 1400}, "udp", 7890, 1400),
        ({"type": "udp", "mtu": 0}, "udp", 8285, None),
        ({"Type": "VXLAN", "VNI": 7}, "vxlan", 8472, None),
        ({"Type": "host-gw"}, "host-gw", 0, None),
    ],
)
def test_backend_options(backend: dict[str, object], kind: str, port: int, mtu: int | None) -> None:
    config = parse(**NET, Backend=backend)
    assert (config.backend_type, config.port, config.mtu) == (kind, port, mtu)
    assert config.backend == backend


def test_an_option_is_found_in_any_case() -> None:
    config = parse(**NET, Backend={"Type": "vxlan", "vni": 7})
    assert config.option("VNI") == 7
    assert config.option("GBP") is None


@pytest.mark.parametrize("name", sorted(FLANNEL_BACKENDS))
def test_whatever_flannel_knows_is_no_unknown_type(name: str) -> None:
    assert parse(**NET, Backend={"Type": name.upper()}).backend_type == name


@given(st.integers(0, 2**32 - 1), st.integers(1, 28), st.data())
def test_every_accepted_config_has_a_range_of_whole_subnets(
    address: int, prefix_len: int, data: st.DataObject
) -> None:
    network = IPv4Network((address, prefix_len), strict=False)
    length = data.draw(st.just(0) | st.integers(prefix_len + 2, 30))
    config = parse(Network=f"{IPv4Address(address)}/{prefix_len}", SubnetLen=length)
    first = IPv4Network((config.subnet_min, config.subnet_len))
    last = IPv4Network((config.subnet_max, config.subnet_len))
    assert first.subnet_of(network)
    assert first.network_address != network.network_address
    assert last.broadcast_address == network.broadcast_address
    assert first < last
    assert config.leases_subnet(first)
    assert config.leases_subnet(last)
    reserved = IPv4Network((network.network_address, config.subnet_len))
    assert not config.leases_subnet(reserved)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_garbage_is_a_config_error_and_nothing_else(text: bytes | str) -> None:
    refused(text)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from(["10.5.0.0/16", "10.5.1.0", "udp", "vxlan", 24, 30])
)
FIELDS = st.sampled_from(
    ["Network", "SubnetLen", "SubnetMin", "SubnetMax", "EnableIPv4", "EnableIPv6", "Backend"]
)
BACKENDS = st.dictionaries(st.sampled_from(["Type", "Port", "MTU", "x"]), VALUES)


@given(st.dictionaries(FIELDS, VALUES | BACKENDS))
def test_any_document_gives_a_config_or_a_config_error(document: dict[str, object]) -> None:
    try:
        config = parse_network_config(json.dumps(document), SOURCE)
    except ConfigError:
        refused(json.dumps(document))
    else:
        assert config.leases_subnet(IPv4Network((config.subnet_min, config.subnet_len)))
