"""The doctor: every finding has a level, every bad one a remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunneld import cli
from tunneld.cli import doctor
from tunneld.observe import checks
from tunneld.observe.checks import FAIL, OK, WARN, Finding


@pytest.mark.parametrize("check", checks.ALL_CHECKS, ids=lambda check: check.__name__)
def test_each_check_speaks(check: object) -> None:
    assert callable(check)
    findings = list(check())
    assert findings
    for finding in findings:
        assert finding.level in {OK, WARN, FAIL}
        assert finding.detail
        assert bool(finding.remedy) == (finding.level != OK)


def test_json_and_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "ALL_CHECKS", (lambda: iter([Finding("a", WARN, "d", "r")]),))
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "a", "level": "warn", "detail": "d", "remedy": "r"}
    ]
    monkeypatch.setattr(doctor, "ALL_CHECKS", (lambda: iter([Finding("a", FAIL, "d", "r")]),))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[0].startswith("fail  a")


def test_no_tun_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("os.open", refuse)
    (finding,) = checks.check_tun()
    assert (finding.level, "modprobe tun" in finding.remedy) == (FAIL, True)


def backend(dataplane: str, **gauges: int) -> dict[str, object]:
    none = {"segments": 128, "downgrades_udp": 0, "downgrades_tun": 0}
    return {"backend": {"dataplane": dataplane, "offload": {**none, **gauges}}}


@pytest.mark.parametrize(
    ("document", "names"),
    [
        (backend("offload"), ["running"]),
        (backend("offload", segments=1, downgrades_udp=1), ["running: UDP GSO", "running: udp"]),
        (backend("gso", downgrades_udp=3), ["running: udp"]),
        (backend("offload", downgrades_tun=3), ["running: tun"]),
        (backend("mmsg", segments=1), ["running"]),
        ({"backend": {"dataplane": "kernel", "offload": {}}}, ["running"]),
        # It has not begun yet.
        ({"backend": {"dataplane": None, "offload": {}}}, []),
    ],
)
def test_what_was_refused_to_a_daemon(
    monkeypatch: pytest.MonkeyPatch, document: object, names: list[str]
) -> None:
    monkeypatch.setattr("tunneld.observe.status.fetch", lambda _: document)
    findings = list(checks.check_daemon(Path("/run/tunneld")))
    assert [finding.name for finding in findings] == names
    assert all(bool(finding.remedy) == (finding.level != OK) for finding in findings)


def test_no_daemon_to_look_at(tmp_path: Path) -> None:
    assert list(checks.check_daemon(tmp_path)) == []
