"""lease: the codec of keys and values, byte for byte."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunneld.lease import (
    Lease,
    LeaseAttrs,
    LeaseFormatError,
    SubnetKey,
    format_attrs,
    format_key,
    parse_attrs,
    parse_key,
)

UDP = b'{"PublicIP":"10.168.0.11","PublicIPv6":null}'
VXLAN = (
    b'{"PublicIP":"10.168.0.12","PublicIPv6":null,"BackendType":"vxlan",'
    b'"BackendData":{"VNI":1,"VtepMAC":"be:51:5e:8d:fd:f9"}}'
)
HOST_GW = b'{"PublicIP":"10.168.0.13","PublicIPv6":null,"BackendType":"host-gw"}'
DUAL = b'{"PublicIP":"10.168.0.14","PublicIPv6":"fd00::14"}'


def test_keys_as_flannel_writes_them() -> None:
    subnet, subnet6 = IPv4Network("10.12.13.0/24"), IPv6Network("fd00:12:13::/56")
    assert parse_key("100.96.1.0-24") == SubnetKey(IPv4Network("100.96.1.0/24"))
    assert parse_key("10.12.13.0-24&fd00:12:13::-56") == SubnetKey(subnet, subnet6)
    assert format_key(subnet) == "10.12.13.0-24"
    assert format_key(subnet, subnet6) == "10.12.13.0-24&fd00:12:13::-56"


def test_host_bits_of_a_key_are_masked() -> None:
    key = parse_key("100.96.1.7-24&fd00:12:13::7-56")
    assert key == SubnetKey(IPv4Network("100.96.1.0/24"), IPv6Network("fd00:12:13::/56"))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "config",
        "100.96.1.0",
        "100.96.1.0-",
        "100.96.1.0/24",
        "100.96.1.0-32",
        "100.96.1.0-33",
        "100.96.1.0-99",
        "100.96.1.0-240",
        "100.96.1.0-024",
        "100.96.1.0-+4",
        "100.96.1.0--4",
        "100.96.1.0-24.json",
        "100.96.1.0-24 ",
        "100.96.1.0-24\n",
        " 100.96.1.0-24",
        "x100.96.1.0-24",
        "subnets/100.96.1.0-24",
        "100.96.1-24",
        "100.96.1.0.0-24",
        "100x96x1x0-24",
        "100.96x1x0-24",
        "100,96,1,0-24",
        "256.96.1.0-24",
        "100.96.1.256-24",
        "100.96.1.999-24",
        "100.96.01.0-24",
        "100.96.1.-24",
        "\uff11\uff10\uff10.96.1.0-24",
        "100.96.1.0-2\u0664",
        "100.96.1.0-24&",
        "100.96.1.0-24&fd00::",
        "100.96.1.0-24&fd00::-",
        "100.96.1.0-24&-56",
        "100.96.1.0-24&fd00::-128",
        "100.96.1.0-24&fd00::-999",
        "100.96.1.0-24&fd00::-056",
        "100.96.1.0-24&fd00::-56x",
        "100.96.1.0-24&fd00::1::-56",
        "100.96.1.0-24&::::-56",
        "100.96.1.0-24&12345::-56",
        "100.96.1.0-24&fd00::%eth0-56",
        "100.96.1.0-24&::10.0.0.1-96",
        "&fd00:12:13::-56",
        "fd00:12:13::-56",
        "100.96.1.0-24&fd00::-56&fd01::-56",
    ],
)
def test_a_malformed_key_is_refused_and_named(key: str) -> None:
    with pytest.raises(LeaseFormatError, match="malformed key") as caught:
        parse_key(key)
    assert str(caught.value).isprintable()


SUBNETS = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 31),
)
SUBNETS6 = st.builds(
    lambda address, length: IPv6Network((address, length), strict=False),
    st.integers(0, 2**128 - 1).filter(lambda value: value >> 32 != 0xFFFF),
    st.integers(0, 127),
)


@given(SUBNETS, st.none() | SUBNETS6)
def test_a_key_reads_back(subnet: IPv4Network, subnet6: IPv6Network | None) -> None:
    assert parse_key(format_key(subnet, subnet6)) == SubnetKey(subnet, subnet6)


@given(st.from_regex(r"\A[0-9.x]{1,16}-?[0-9]{0,3}(&[0-9a-f:]{0,8}-?[0-9]{0,3})?\Z") | st.text())
@example("1.2.3.4-5")
def test_a_key_is_read_wholly_or_refused(key: str) -> None:
    try:
        parsed = parse_key(key)
    except LeaseFormatError:
        return
    address, _, rest = key.partition("-")
    length, _, half6 = rest.partition("&")
    assert IPv4Network(f"{address}/{length}", strict=False) == parsed.subnet
    assert bool(half6) == (parsed.subnet6 is not None)


@pytest.mark.parametrize("value", [UDP, VXLAN, HOST_GW, DUAL])
def test_values_of_real_flannel_are_printed_back_byte_for_byte(value: bytes) -> None:
    assert format_attrs(parse_attrs(value)) == value


def test_a_udp_lease() -> None:
    attrs = parse_attrs(UDP)
    assert attrs == LeaseAttrs(IPv4Address("10.168.0.11"))
    assert format_attrs(attrs) == UDP


def test_a_vxlan_lease() -> None:
    attrs = parse_attrs(VXLAN)
    assert attrs.backend_type == "vxlan"
    assert attrs.backend_data == {"VNI": 1, "VtepMAC": "be:51:5e:8d:fd:f9"}


@pytest.mark.parametrize(
    "value",
    [
        b'{"PublicIP":"10.168.0.11"}',
        b' { "publicip" : "10.168.0.11" , "PUBLICIPV6" : null } \n',
        b'{"PublicIP":"10.0.0.1","PublicIP":"10.168.0.11"}',
        b'{"PublicIP":"10.168.0.11","BackendType":"","BackendData":null,"More":[1]}',
        b'{"PublicIP":"10.168.0.11","BackendType":null}',
    ],
)
def test_other_ways_to_write_the_same_lease(value: bytes) -> None:
    assert parse_attrs(value) == LeaseAttrs(IPv4Address("10.168.0.11"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"garbage\x00\xff", "not JSON"),
        (UDP + b"x", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"PublicIP":' + b"9" * 5000 + b"}", "not JSON"),
        (b"null", "not a JSON object but a null"),
        (b'"10.0.0.1"', "not a JSON object but a string"),
        (b"{}", "no PublicIP"),
        (b'{"PublicIP":null}', "no PublicIP"),
        (b'{"PublicIP":10}', "PublicIP is a number, not a string"),
        (b'{"PublicIP":""}', 'PublicIP "" is no IPv4 address'),
        (b'{"PublicIP":"10.0.0"}', "is no IPv4 address"),
        (b'{"PublicIP":"10.0.0.256"}', "is no IPv4 address"),
        (b'{"PublicIP":"10.0.0.01"}', "is no IPv4 address"),
        (b'{"PublicIP":"10.0.0.1/32"}', "is no IPv4 address"),
        (b'{"PublicIP":"10.0.0.1 "}', "is no IPv4 address"),
        (b'{"PublicIP":"fd00::1"}', "is no IPv4 address"),
        (b'{"PublicIP":"node1\\u0007"}', 'PublicIP "node1\\x07"'),
        (b'{"PublicIP":"10.0.0.1","PublicIPv6":"10.0.0.1"}', "is no IPv6 address"),
        (b'{"PublicIP":"10.0.0.1","PublicIPv6":6}', "PublicIPv6 is a number"),
        (b'{"PublicIP":"10.0.0.1","BackendType":["udp"]}', "BackendType is a list"),
    ],
)
def test_a_malformed_value_is_refused_with_its_reason(value: bytes, message: str) -> None:
    with pytest.raises(LeaseFormatError, match="malformed value") as caught:
        parse_attrs(value)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@given(st.binary(max_size=100))
def test_garbage_is_a_format_error_and_nothing_else(value: bytes) -> None:
    with pytest.raises(LeaseFormatError):
        parse_attrs(value)


ATTRS = st.builds(
    LeaseAttrs,
    st.builds(IPv4Address, st.integers(0, 2**32 - 1)),
    st.none() | st.builds(lambda value: str(IPv6Address(value)), st.integers(0, 2**128 - 1)),
    st.none() | st.text(min_size=1),
    st.none() | st.dictionaries(st.text(), st.text() | st.integers(), min_size=1),
)


@given(ATTRS)
def test_attributes_read_back(attrs: LeaseAttrs) -> None:
    assert parse_attrs(format_attrs(attrs)) == attrs


def test_backend_data_is_escaped_as_go_does() -> None:
    attrs = LeaseAttrs(IPv4Address("10.0.0.1"), backend_type="extension", backend_data={"k": "<&>"})
    assert format_attrs(attrs) == (
        b'{"PublicIP":"10.0.0.1","PublicIPv6":null,"BackendType":"extension",'
        b'"BackendData":{"k":"\\u003c\\u0026\\u003e"}}'
    )


def test_a_lease_knows_its_key_and_public_ip() -> None:
    attrs = LeaseAttrs(IPv4Address("10.168.0.11"), backend_data={"VNI": 1})
    lease = Lease(IPv4Network("100.96.1.0/24"), attrs, IPv6Network("fd00::/56"))
    assert lease.key == "100.96.1.0-24&fd00::-56"
    assert lease.public_ip == IPv4Address("10.168.0.11")
    assert hash(lease) == hash(Lease(lease.subnet, attrs, lease.subnet6, lease.key))
