"""What is made from the code and handed out with it: example file, docs, man page, completions."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tunneld.cli.completion import SHELLS, script
from tunneld.config import load
from tunneld.observe.metric_names import METRICS
from tunneld.options import OPTIONS

ROOT = Path(__file__).parents[2]
TOML = ROOT / "contrib" / "tunneld.toml"
BUILD = ROOT / "contrib" / "build.py"

TAKEN = [option for option in OPTIONS if not option.refusal]


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_what_is_kept_is_what_would_be_made() -> None:
    done = run(sys.executable, str(BUILD), "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def switched_on() -> str:
    """Return the example with every key in force."""
    return re.sub(r"^#(?=[a-z0-9-]+ = )", "", TOML.read_text(), flags=re.MULTILINE)


def test_the_example_as_it_is_changes_nothing() -> None:
    assert tomllib.loads(TOML.read_text()) == {}
    assert load({"config": [str(TOML)]}, {}).sources == load({}, {}).sources


def test_the_example_has_every_key_and_each_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "tunneld.toml"
    path.write_text(switched_on())
    assert set(tomllib.loads(path.read_text())) == {option.name for option in TAKEN}
    sources = load({"config": [str(path)]}, {}).sources
    assert {option.name: sources[option.name] for option in TAKEN} == {
        option.name: f"file {path}" for option in TAKEN
    }


def test_the_example_shows_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "tunneld.toml"
    lines = switched_on().splitlines()
    with_default = {option.name for option in TAKEN if option.default}
    path.write_text("\n".join(line for line in lines if line.split(" ")[0] in with_default))
    given, default = load({"config": [str(path)]}, {}), load({}, {})
    for name in given.__slots__:
        if name != "sources":
            assert getattr(given, name) == getattr(default, name), name


def test_the_example_names_what_is_refused() -> None:
    for option in OPTIONS:
        assert re.search(rf"^#[ ]*{option.name}\b", TOML.read_text(), flags=re.MULTILINE)


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    for metric in METRICS:
        assert f"| `{metric.exported}` | {metric.kind} |" in text
    # And nothing is named that is not there.
    known = {metric.exported for metric in METRICS}
    assert set(re.findall(r"\btunneld_[a-z_]+\b", text)) <= known


def test_the_man_page(tmp_path: Path) -> None:
    assert run(sys.executable, str(BUILD), "--man", str(tmp_path)).returncode == 0
    page = tmp_path / "tunneld.8"
    shown = run("groff", "-man", "-ww", "-Tutf8", "-P-cbou", str(page))
    assert (shown.returncode, shown.stderr) == (0, "")
    text = " ".join(shown.stdout.split())
    for option in OPTIONS:
        assert f"--{option.name}" in text
    for words in ("tunneld status", "tunneld completion", "EXIT STATUS", "3 lease lost"):
        assert words in text
    again = tmp_path / "again"
    run(sys.executable, str(BUILD), "--man", str(again))
    assert (again / "tunneld.8").read_bytes() == page.read_bytes()


def complete(line: str, directory: Path) -> set[str]:
    """Return what bash offers after a command line."""
    words = line.split(" ")
    path = directory / "tunneld.bash"
    path.write_text(script("bash"))
    function = 'complete -p tunneld | sed "s/.*-F \\([^ ]*\\).*/\\1/"'
    ask = (
        f". {path}; f=$({function}); COMP_WORDS=({' '.join(words[:-1])} '{words[-1]}');"
        f" COMP_CWORD={len(words) - 1}; $f; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = run("bash", "--norc", "-c", f"cd {directory}; {ask}")
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tunneld st", {"status"}),
        ("tunneld run --healthz-", {"--healthz-ip", "--healthz-port"}),
        ("tunneld run --dataplane off", {"offload"}),
        ("tunneld run --source-check ", {"peer", "strict", "off"}),
        ("tunneld run --subnet-file subn", {"subnet.env"}),
        ("tunneld status --js", {"--json"}),
        ("tunneld completion ", set(SHELLS)),
    ],
)
def test_bash_completes(line: str, offered: set[str], tmp_path: Path) -> None:
    (tmp_path / "subnet.env").touch()
    assert complete(line, tmp_path) == offered


def test_bash_completes_a_directory(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "stray").touch()
    assert {name.rstrip("/") for name in complete("tunneld run --state-dir st", tmp_path)} == {
        "state"
    }


def test_zsh_takes_it(tmp_path: Path) -> None:
    (tmp_path / "_tunneld").write_text(script("zsh"))
    commands = (
        f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -D -u;"
        "print -r -- $_comps[tunneld]; autoload +X $_comps[tunneld] && print loaded"
    )
    done = run("zsh", "-f", "-c", commands)
    assert (done.stdout, done.stderr) == ("_tunneld\nloaded\n", "")
    text = (tmp_path / "_tunneld").read_text()
    assert run("zsh", "-f", "-n", str(tmp_path / "_tunneld")).returncode == 0
    assert "--healthz-port" in text
    assert "(auto python syscall mmsg gso offload kernel)" in text


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_it(shell: str) -> None:
    done = run(sys.executable, "-m", "tunneld", "completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == script(shell) + "\n"


def test_a_shell_that_is_not_there() -> None:
    done = run(sys.executable, "-m", "tunneld", "completion", "fish")
    assert done.returncode == 2
    assert "fish" in done.stderr
