"""Options: precedence, the source in every error, flannel's spellings, refusals."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from tunneld.config import load
from tunneld.errors import ConfigError
from tunneld.options import OPTIONS


def test_defaults_are_flannels() -> None:
    config = load({}, {})
    assert config.subnet_file == Path("/run/flannel/subnet.env")
    assert config.renew_margin == 3600
    assert config.iface == ()
    assert config.public_ip is None
    assert config.sources["iface"] == "default"


def test_precedence_flag_environment_file_default(tmp_path: Path) -> None:
    file = tmp_path / "tunneld.toml"
    file.write_text('iface = ["file0"]\nsubnet-file = "/file"\nrun-dir = "/file"\nv = 3\n')
    config = load(
        {"config": [str(file)], "iface": ["flag0"]},
        {"FLANNELD_IFACE": "env0", "FLANNELD_SUBNET_FILE": "/env"},
    )
    assert config.iface == ("flag0",)
    assert config.subnet_file == Path("/env")
    assert config.run_dir == Path("/file")
    assert config.verbosity == 3
    assert config.state_dir == Path("/var/lib/tunneld")
    assert [config.sources[name] for name in ("iface", "subnet-file", "run-dir", "state-dir")] == [
        "flag --iface",
        "environment FLANNELD_SUBNET_FILE",
        f"file {file}",
        "default",
    ]


def test_an_empty_variable_is_not_set() -> None:
    assert load({}, {"FLANNELD_PUBLIC_IP": ""}).sources["public-ip"] == "default"


def test_repeatable_options_keep_their_order() -> None:
    config = load({"iface": ["eth1", "eth0"], "iface-regex": ["^en"]}, {})
    assert config.iface == ("eth1", "eth0")
    assert config.iface_regex == ("^en",)


def test_last_of_a_single_option_wins() -> None:
    assert load({"public-ip": ["10.0.0.1", "10.0.0.2"]}, {}).public_ip == IPv4Address("10.0.0.2")


def test_allow_source_takes_a_list_in_one_variable() -> None:
    config = load({}, {"FLANNELD_ALLOW_SOURCE": "10.1.0.0/16, 10.2.0.0/16"})
    assert config.allow_sources == (IPv4Network("10.1.0.0/16"), IPv4Network("10.2.0.0/16"))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("public-ip", "10.0.0.256", "'10.0.0.256' is not an IPv4 address"),
        ("v", "loud", "'loud' is not a whole number"),
        ("subnet-lease-renew-margin", "0", "is not between 1 and 1439"),
        ("subnet-lease-renew-margin", "1440", "is not between 1 and 1439"),
        ("subnet-lease-renew-margin", "-5", "is not between 1 and 1439"),
        ("ip-masq", "yes", "'yes' is neither true nor false"),
        ("dataplane", "warp", "is not one of auto, python,"),
        ("source-check", "on", "is not one of peer, strict, off"),
        ("allow-source", "10.0.0.1/8", "is not an IPv4 prefix"),
        ("iface-regex", "(", "is not a regular expression"),
        ("subnet-file", "", "a path is needed"),
    ],
)
def test_a_bad_value_names_option_and_source(name: str, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({name: [text]}, {})
    assert str(caught.value).startswith(f"flag --{name}: ")
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_bad_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="environment FLANNELD_PUBLIC_IP: 'x' is not"):
        load({}, {"FLANNELD_PUBLIC_IP": "x"})


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("public-ipv6", "fd00::1", "IPv6 comes with a later release"),
        ("kube-subnet-mgr", "true", "Kubernetes"),
        ("kube-api-url", "https://k", "Kubernetes"),
    ],
)
def test_what_is_not_here_yet_is_refused(name: str, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, {"FLANNELD_" + name.upper().replace("-", "_"): text})
    assert says in str(caught.value)


def test_the_etcd_flags() -> None:
    flags = {
        "etcd-endpoints": ["https://10.0.0.1:2379,https://10.0.0.2:2379"],
        "etcd-prefix": ["/other/"],
        "etcd-cafile": ["ca.pem"],
        "etcd-username": ["me"],
    }
    etcd = load(flags, {"FLANNELD_ETCD_PASSWORD": "secret"}).etcd
    assert [str(endpoint) for endpoint in etcd.endpoints] == flags["etcd-endpoints"][0].split(",")
    assert (etcd.prefix, etcd.cafile, etcd.username) == ("/other", "ca.pem", "me")
    assert etcd.password == "secret"
    assert [str(endpoint) for endpoint in load({}, {}).etcd.endpoints] == [
        "http://127.0.0.1:4001",
        "http://127.0.0.1:2379",
    ]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"etcd-password": ["se\udcffcret"]}, r"^flag --etcd-password: is not UTF-8: write"),
        ({"etcd-username": ["me"]}, "flag --etcd-username: is of no use without etcd-password"),
        ({"etcd-password": ["secret"]}, "flag --etcd-password: .* without etcd-username"),
        ({"etcd-certfile": ["c"]}, "flag --etcd-certfile: .* without etcd-keyfile"),
        ({"etcd-keyfile": ["k"]}, "flag --etcd-keyfile: .* without etcd-certfile"),
        ({"etcd-endpoints": ["http://me:secret@a"]}, "flag --etcd-endpoints: holds a user"),
        ({"etcd-prefix": [""]}, "flag --etcd-prefix: '' is no prefix"),
    ],
)
def test_bad_etcd_flags(flags: dict[str, list[str]], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load(flags, {})
    assert "secret" not in str(caught.value)


def test_every_default_can_be_given_without_a_refusal() -> None:
    flags = {option.name: [option.default] for option in OPTIONS if option.default}
    config = load(flags, {})
    assert config.dataplane == "auto"


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True"])
def test_gos_spellings_of_true(text: str) -> None:
    assert load({"ip-masq": [text]}, {}).ip_masq


@pytest.mark.parametrize("text", ["0", "f", "F", "false", "FALSE", "False"])
def test_gos_spellings_of_false(text: str) -> None:
    assert not load({"iptables-forward-rules": [text]}, {}).forward_rules


def test_the_flags_of_the_firewall() -> None:
    default = load({}, {})
    assert (default.ip_masq, default.forward_rules, default.rules_resync) == (False, True, 5.0)
    assert default.ip_masq_random
    environ = {"FLANNELD_IP_MASQ_FULLY_RANDOM_DISABLE": "true", "FLANNELD_IPTABLES_RESYNC": "60"}
    config = load({}, environ)
    assert (config.ip_masq_random, config.rules_resync) == (False, 60.0)


def test_unknown_key_in_the_file_suggests(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('subnet_file = "/x"\n')
    with pytest.raises(ConfigError, match="did you mean subnet-file") as caught:
        load({"config": [str(file)]}, {})
    assert (caught.value.field, caught.value.source) == ("subnet_file", f"file {file}")


def test_a_wrong_type_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text("public-ip = 1.5\n")
    with pytest.raises(ConfigError, match="public-ip: a float is not a value"):
        load({"config": [str(file)]}, {})


def test_a_list_for_a_single_option(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('public-ip = ["10.0.0.1"]\n')
    with pytest.raises(ConfigError, match="public-ip: a list is not a value"):
        load({"config": [str(file)]}, {})


def test_broken_toml_and_missing_file(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    with pytest.raises(ConfigError, match="cannot read"):
        load({}, {"FLANNELD_CONFIG": str(file)})
    file.write_text("= 1")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load({}, {"FLANNELD_CONFIG": str(file)})
