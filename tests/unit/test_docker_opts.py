"""tunneld docker-opts: the bytes that flannel's mk-docker-opts.sh writes; told apart from mistakes.

What is expected here was printed by dist/mk-docker-opts.sh of flannel v0.28 (sh and bash) for the
same files and flags.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from tunneld import cli
from tunneld.cli import docker_opts

OFF = """FLANNEL_NETWORK=100.96.0.0/16
FLANNEL_SUBNET=100.96.1.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=false
"""
ON = OFF.replace("false", "true")
SHORT = "FLANNEL_SUBNET=100.96.1.1/24\n"

BIP = 'DOCKER_OPT_BIP="--bip=100.96.1.1/24"\n'
MASQ = 'DOCKER_OPT_IPMASQ="--ip-masq=true"\n'
NO_MASQ = 'DOCKER_OPT_IPMASQ="--ip-masq=false"\n'
MTU = 'DOCKER_OPT_MTU="--mtu=1472"\n'
ALL = 'DOCKER_OPTS=" --bip=100.96.1.1/24 --ip-masq=true --mtu=1472"\n'
KEY = 'KEY=" --bip=100.96.1.1/24 --ip-masq=false --mtu=1472"\n'


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_OPTS", raising=False)


def write(directory: Path, text: str, *flags: str) -> str:
    (directory / "subnet.env").write_text(text)
    out = directory / "docker.env"
    assert (
        cli.main(["docker-opts", "-f", str(directory / "subnet.env"), "-d", str(out), *flags]) == 0
    )
    return out.read_text()


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        (OFF, [], BIP + MASQ + MTU + ALL),
        (OFF, ["-i"], BIP + MASQ + MTU),
        (OFF, ["-c"], ALL),
        (OFF, ["-i", "-c"], BIP + MASQ + MTU + ALL),
        (OFF, ["-m"], BIP + MTU + 'DOCKER_OPTS=" --bip=100.96.1.1/24 --mtu=1472"\n'),
        (ON, ["-k", "KEY"], BIP + NO_MASQ + MTU + KEY),
        (ON, ["-ck", "KEY"], KEY),
        (SHORT, [], BIP + 'DOCKER_OPTS=" --bip=100.96.1.1/24"\n'),
    ],
)
def test_the_bytes_of_flannels_script(
    tmp_path: Path, text: str, flags: list[str], expected: str
) -> None:
    assert write(tmp_path, text, *flags) == expected


def test_the_environment_is_taken_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_OPTS", "--debug")
    monkeypatch.setenv("DOCKER_OPT_LOG", "--log-level=warn")
    assert write(tmp_path, OFF) == (
        f'{BIP}{MASQ}DOCKER_OPT_LOG="--log-level=warn"\n{MTU}'
        'DOCKER_OPTS="--debug  --bip=100.96.1.1/24 --ip-masq=true --log-level=warn --mtu=1472"\n'
    )


def test_a_file_that_was_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "docker.env").write_text("x" * 1000)
    assert write(tmp_path, OFF, "-c") == ALL


@pytest.mark.parametrize(
    ("text", "flags", "ends"),
    [
        (None, [], (1, "subnet.env: No such file or directory (start tunneld first")),
        ("", [], (2, "FLANNEL_SUBNET: '' is not an address with a length")),
        ("FLANNEL_SUBNET=x\n", [], (2, "'x' is not an address")),
        (
            OFF.replace("false", "maybe"),
            [],
            (2, "FLANNEL_IPMASQ: 'maybe' is neither true nor false"),
        ),
        (OFF, ["-k", "A B"], (2, "flag -k: 'A B' is not the name of a variable")),
        (OFF, ["-d", "/proc/none/x"], (1, "cannot write /proc/none/x")),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    flags: list[str],
    ends: tuple[int, str],
) -> None:
    subnet_file, out = tmp_path / "subnet.env", tmp_path / "docker.env"
    if text is not None:
        subnet_file.write_text(text)
    argv = ["docker-opts", "-f", str(subnet_file), "-d", str(out), *flags]
    assert cli.main(argv) == ends[0]
    assert ends[1] in capsys.readouterr().err
    assert not out.exists()


def test_a_subnet_that_is_routed_elsewhere_is_seen(tmp_path: Path) -> None:
    table = tmp_path / "route"
    # As the kernel prints it: 100.96.1.0/24 via 10.168.0.3, and 100.96.2.0/24 on a link.
    table.write_text(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00016064\t0300A80A\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "docker0\t00026064\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    seen = [docker_opts._gateways(table, IPv4Network(f"100.96.{n}.0/24")) for n in (1, 2, 3)]
    assert seen == [[IPv4Address("10.168.0.3")], [], []]
