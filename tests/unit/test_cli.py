"""The command line: spellings of flags, `tunneld --flag`, exit codes, quick start."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tunneld import cli, config
from tunneld.cli import run as run_command
from tunneld.errors import ConfigError, LeaseLostError, StartError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Sequence[str]]]:
    """Record the flags that reach the configuration, and stop there."""
    seen: list[Mapping[str, Sequence[str]]] = []

    def load(flags: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> config.Config:
        del environ
        seen.append(flags)
        raise ConfigError("enough")

    monkeypatch.setattr(run_command, "load", load)
    return seen


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--iface", "eth1", "--ip-masq", "--v=3"],
        ["run", "-iface", "eth1", "-ip-masq", "-v=3"],
        ["-iface=eth1", "-ip-masq=true", "-v", "3"],
        ["--iface=eth1", "--ip-masq=true", "-v", "3"],
    ],
)
def test_flannels_spellings(argv: list[str], loaded: list[Mapping[str, Sequence[str]]]) -> None:
    assert cli.main(argv) == 2
    assert loaded == [{"iface": ["eth1"], "ip-masq": ["true"], "v": ["3"]}]


def test_repeated_flags_and_false(loaded: list[Mapping[str, Sequence[str]]]) -> None:
    cli.main(["-iface", "a", "--iface=b", "-iptables-forward-rules=false"])
    assert loaded == [{"iface": ["a", "b"], "iptables-forward-rules": ["false"]}]


def test_a_value_may_look_like_a_number_below_zero(
    loaded: list[Mapping[str, Sequence[str]]],
) -> None:
    cli.main(["--subnet-lease-renew-margin", "-5"])
    assert loaded == [{"subnet-lease-renew-margin": ["-5"]}]


@pytest.mark.parametrize(
    "argv", [["--ifac", "x"], ["-ifac=x"], ["run", "stray"], ["--nonsense"], [], ["nonsense"]]
)
def test_bad_usage_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert "usage: tunneld" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--version"], ["-version"], ["run", "-version"]])
def test_version(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("tunneld 0.")


@pytest.mark.parametrize(
    ("error", "code"), [(StartError("s"), 1), (ConfigError("c"), 2), (LeaseLostError("l"), 3)]
)
def test_errors_become_exit_codes_and_one_line(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(*_: object) -> config.Config:
        raise error

    monkeypatch.setattr(run_command, "load", load)
    assert cli.main(["run"]) == code
    assert capsys.readouterr().err == f"tunneld: {error}\n"


def test_help_lists_every_option_and_says_what_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    text = capsys.readouterr().out
    assert "--etcd-cafile" in text
    assert "--kube-subnet-mgr" in text
    assert "refused: tunneld does not run on the Kubernetes API" in " ".join(text.split())


def test_status_is_quick() -> None:
    argv = [sys.executable, "-m", "tunneld", "status", "--run-dir", "/nonexistent"]

    # CPU time: wall-clock time also tells what else the machine has to do.
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def once() -> float:
        before = spent()
        assert subprocess.run(argv, capture_output=True, check=False).returncode == 1
        return spent() - before

    assert min(once() for _ in range(5)) < 0.1


def test_status_imports_nothing_heavy() -> None:
    script = (
        "import sys; from tunneld.cli import main; main(['status', '--run-dir', '/nonexistent']);"
        "heavy = {'asyncio', 'uvloop', 'pyroute2', 'cffi', 'logging', 'rich', 'subprocess'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
