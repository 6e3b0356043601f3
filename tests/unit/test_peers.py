"""The optional contenders: configs, command lines and refusals, without running any of them."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from bench.contenders import Contender, Options, registry
from bench.peers import _tunnel, fastd, flannel, openvpn, socat, tinc, wireguard_go
from bench.peers._tunnel import Plan, Side, Task, Tunnel, find_version, one_line
from tunneld.lab import CommandError, process
from tunneld.lease import parse_attrs, parse_key
from tunneld.netconf import parse_network_config

ONE = Side(1, "node1", IPv4Address("10.168.0.2"), IPv4Network("100.96.1.0/24"))
OTHER = Side(2, "node2", IPv4Address("10.168.0.3"), IPv4Network("100.96.2.0/24"))
DIRECTORY = Path("/scratch")
NAMES = ["fastd", "flannel", "openvpn", "socat", "tinc", "wireguard-go"]


def halves(tunnel: Tunnel) -> tuple[Task, Task]:
    mtu = 1500 - tunnel.overhead
    return (
        Task(ONE, OTHER, DIRECTORY / "node1", mtu, "KEY-1", "KEY-2", owner=4711),
        Task(OTHER, ONE, DIRECTORY / "node2", mtu, "KEY-2", "KEY-1", owner=4711),
    )


def plans(tunnel: Tunnel) -> tuple[Plan, Plan]:
    one, other = halves(tunnel)
    return tunnel.plan(one), tunnel.plan(other)


class TestRegistry:
    def test_each_is_found_and_keeps_the_protocol(self) -> None:
        known = registry(Options())
        assert [name for name in known if name in NAMES] == NAMES
        for name in NAMES:
            assert isinstance(known[name], Contender)
            assert isinstance(known[name], Tunnel)

    def test_nothing_runs_and_no_line_is_left_before_it_is_up(self) -> None:
        for name in NAMES:
            assert registry(Options())[name].pids() == []

    def test_the_missing_are_named_with_their_packages(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        reason = wireguard_go.contender(Options()).missing()
        assert reason == (
            "not installed: wireguard-go, wg"
            " (apt-get install -y --no-install-recommends wireguard-go wireguard-tools)"
        )
        assert "install -y --no-install-recommends tinc)" in (
            tinc.contender(Options()).missing() or ""
        )

    def test_one_that_is_there_is_not_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "socat").touch(mode=0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert socat.contender(Options()).missing() is None


class TestPlans:
    @pytest.mark.parametrize(
        ("tunnel", "mtu"),
        [
            (fastd.Fastd(), 1471),
            (openvpn.Openvpn(), 1472),
            (socat.Socat(), 1472),
            (tinc.Tinc(), 1454),
            (wireguard_go.WireguardGo(), 1440),
        ],
        ids=lambda value: getattr(value, "name", value),
    )
    def test_device_gets_base_address_mtu_and_the_peers_route(
        self, tunnel: Tunnel, mtu: int
    ) -> None:
        for plan, mine, theirs in zip(plans(tunnel), (ONE, OTHER), (OTHER, ONE), strict=True):
            address, link, route = plan.then[-3:]
            device = address[-1]
            assert address[:-1] == ("ip", "address", "add", str(mine.subnet[0]) + "/32", "dev")
            assert link == ("ip", "link", "set", device, "mtu", str(mtu), "up")
            assert route == ("ip", "route", "replace", str(theirs.subnet), "dev", device)
            assert len(device) < 16  # IFNAMSIZ

    def test_socat_does_not_connect_its_socket(self) -> None:
        first, second = plans(socat.Socat())
        assert first.argv[-1] == "UDP4-DATAGRAM:10.168.0.3:7000,bind=10.168.0.2:7000"
        assert second.argv[-1] == "UDP4-DATAGRAM:10.168.0.2:7000,bind=10.168.0.3:7000"
        assert "iff-no-pi" in first.argv[-2].split(",")

    def test_openvpn_has_neither_cipher_nor_keys(self) -> None:
        line = " ".join(plans(openvpn.Openvpn())[0].argv)
        assert "--cipher none --auth none" in line
        assert "--local 10.168.0.2 --lport 1194 --remote 10.168.0.3 1194 udp4" in line
        assert "--tun-mtu 1472" in line
        assert "secret" not in line
        assert "tls" not in line

    def test_fastds_config(self) -> None:
        first, second = plans(fastd.Fastd())
        assert first.argv[:3] == ("fastd", "--config", "/scratch/node1/fastd.conf")
        assert first.files == {
            "fastd.conf": (
                "mode tun;\n"
                'interface "fastd0";\n'
                "mtu 1471;\n"
                'method "null";\n'
                "bind 10.168.0.2:10000;\n"
                'include "secret.conf";\n'
                'peer "node2" { remote 10.168.0.3:10000; key "KEY-2"; }\n'
            )
        }
        assert 'peer "node1" { remote 10.168.0.2:10000; key "KEY-1"; }' in str(second.files)

    def test_fastds_keys_are_read(self) -> None:
        assert fastd.parse_keys("Secret: 0a\nPublic: 0b\n") == ("0a", "0b")
        with pytest.raises(CommandError, match="printed no 'Public' key"):
            fastd.parse_keys("Secret: 0a\n")

    def test_tincs_configs(self) -> None:
        first, second = plans(tinc.Tinc())
        assert first.files.keys() == {"tinc.conf", "hosts/node1", "hosts/node2"}
        assert "ConnectTo" not in first.files["tinc.conf"]
        assert "ConnectTo = node1\n" in second.files["tinc.conf"]
        assert first.files["hosts/node2"] == second.files["hosts/node2"]
        host = first.files["hosts/node2"].splitlines()
        assert host[:2] == ["Address = 10.168.0.3", "Subnet = 100.96.2.0/24"]
        assert {"Cipher = none", "Digest = none", "PMTUDiscovery = no", "KEY-2"} <= set(host)

    def test_wireguards_device_and_socket_are_its_own_on_the_machine(self) -> None:
        first, second = plans(wireguard_go.WireguardGo())
        assert first.argv == ("wireguard-go", "-f", "wg4711-1")
        assert second.outside == (Path("/var/run/wireguard/wg4711-2.sock"),)
        assert " ".join(first.then[0]) == (
            "wg set wg4711-1 listen-port 51820 private-key /scratch/node1/private-key"
            " peer KEY-2 allowed-ips 100.96.2.0/24 endpoint 10.168.0.3:51820"
        )

    def test_who_encrypts_says_so(self) -> None:
        for tunnel in (fastd.Fastd(), openvpn.Openvpn(), socat.Socat(), tinc.Tinc()):
            assert tunnel.note.startswith("no encryption")
        assert wireguard_go.WireguardGo().note.startswith("encrypted")


class TestFlannel:
    def test_command_lines_have_flannels_flags(self) -> None:
        first, second = plans(flannel.Flannel("/opt/flanneld", "test"))
        for plan, node in ((first, "node1"), (second, "node2")):
            assert plan.argv == (
                "/opt/flanneld",
                "--etcd-endpoints=http://10.168.0.2:2379",
                "--etcd-prefix=/coreos.com/network",
                "--iface=eth0",
                f"--subnet-file=/scratch/{node}/subnet.env",
                "--ip-masq=false",
                "--iptables-forward-rules=false",
            )
            assert plan.ready == DIRECTORY / node / "subnet.env"

    def test_etcd_listens_where_both_nodes_reach_it_and_gets_three_keys(self) -> None:
        item = flannel.Flannel("flanneld", "test")
        plan = item.helper(*halves(item))
        assert not plan.carries
        line = " ".join(plan.argv)
        assert "--listen-client-urls http://10.168.0.2:2379" in line
        assert "--data-dir /scratch/node1/etcd" in line
        assert [command[:3] for command in plan.then] == [
            ("etcdctl", "--endpoints=http://10.168.0.2:2379", "put")
        ] * 3
        assert plan.then[2][3:] == (
            "/coreos.com/network/subnets/100.96.2.0-24",
            '{"PublicIP":"10.168.0.3","PublicIPv6":null}',
        )

    def test_what_is_put_is_what_we_would_accept_ourselves(self) -> None:
        found = dict(flannel.entries(ONE, OTHER))
        config = parse_network_config(found.pop("/coreos.com/network/config"), "etcd")
        assert (config.backend_type, str(config.network)) == ("udp", "100.96.0.0/16")
        for side, (key, value) in zip((ONE, OTHER), found.items(), strict=True):
            assert parse_key(key.rpartition("/")[2]).subnet == side.subnet
            assert parse_attrs(value.encode()).public_ip == side.public_ip

    def test_flag_before_variable_before_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FLANNELD_BINARY", raising=False)
        assert flannel.contender(Options()).program == "flanneld"
        monkeypatch.setenv("FLANNELD_BINARY", "/by/variable")
        assert flannel.contender(Options()).program == "/by/variable"
        assert flannel.contender(Options(flanneld="/by/flag")).program == "/by/flag"

    def test_the_refusal_names_source_and_remedy(self) -> None:
        reason = flannel.contender(Options(flanneld="/no/such/file")).missing() or ""
        assert reason == (
            "flag --flanneld: /no/such/file is no program (build github.com/flannel-io/flannel with"
            " CGO_ENABLED=1 and give the file: --flanneld FILE or FLANNELD_BINARY=FILE)"
        )

    def test_nothing_said_and_nothing_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FLANNELD_BINARY", raising=False)
        monkeypatch.setenv("PATH", "/nowhere")
        reason = flannel.contender(Options()).missing() or ""
        assert reason.startswith("no flanneld in PATH (build ")

    def test_a_binary_alone_is_not_enough(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        binary = tmp_path / "flanneld"
        binary.touch(mode=0o755)
        monkeypatch.setenv("PATH", "/nowhere")
        reason = flannel.contender(Options(flanneld=str(binary))).missing()
        assert reason == (
            "not installed: etcd, etcdctl"
            " (apt-get install -y --no-install-recommends etcd-server etcd-client)"
        )


class TestReporting:
    def test_lines_are_what_a_reader_would_type_without_keys(self) -> None:
        plan = Plan(
            argv=("prog", "a b"),
            ready="",
            files={"x.conf": "one;\n\ntwo;\n-----BEGIN RSA\nAA==\n-----END RSA-----\n"},
            env={"LOG": "1"},
            then=(("ip", "link"),),
        )
        assert plan.lines("node1") == [
            "node1: x.conf: one; two; (key)",
            "node1: LOG=1 prog 'a b'",
            "node1: ip link",
        ]

    def test_several_keys_are_left_out_one_by_one(self) -> None:
        block = "-----BEGIN X-----\nA\n-----END X-----\n"
        assert one_line(f"{block}between\n{block}") == "(key); between; (key)"

    @pytest.mark.parametrize(
        ("text", "version"),
        [
            ("fastd v22\n", "v22"),
            ("tinc version 1.0.36 (built May 9 2021)", "1.0.36"),
            ("OpenVPN 2.6.14 x86_64-pc-linux-gnu", "2.6.14"),
            ("wireguard-go v0.0.20220316\n\nUserspace WireGuard", "v0.0.20220316"),
            ("socat by Gerhard Rieger\nsocat version 1.7.4.4 on 06 Nov 2022", "1.7.4.4"),
            ("v0.28.9\n", "v0.28.9"),
            ("nothing to say", ""),
        ],
    )
    def test_versions(self, text: str, version: str) -> None:
        assert find_version(text) == version


class TestReadiness:
    def test_a_process_that_ends_is_reported_with_its_last_words(self, tmp_path: Path) -> None:
        log = tmp_path / "prog.log"
        with log.open("w") as out:
            child = process.start(["sh", "-c", "echo no such device; exit 3"], stdout=out)
        with pytest.raises(CommandError, match="prog ended with status 3 on node1: no such device"):
            _tunnel.wait_ready(child, lambda: False, log, "node1")

    def test_one_that_never_gets_ready_is_given_up(self, tmp_path: Path) -> None:
        log = tmp_path / "prog.log"
        log.touch()
        child = process.start([sys.executable, "-c", "import signal; signal.pause()"])
        try:
            with pytest.raises(CommandError, match="not ready after 0 s on node1: it logged noth"):
                _tunnel.wait_ready(child, lambda: False, log, "node1", timeout=0)
        finally:
            process.stop([child])
