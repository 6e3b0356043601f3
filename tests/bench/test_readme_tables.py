"""README's tables come from result files, and are up to date."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import readme_tables
from tests.bench import made_up
from tunneld.errors import ConfigError

MARKED = """# made up

Before.

<!-- bench:{0} -->
old
<!-- /bench -->

After.
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made_up.write(tmp_path)
    return tmp_path


def rendered(directory: Path, name: str) -> str:
    documents = readme_tables.load_all(directory)
    return readme_tables.render(MARKED.format(name), documents, "README.md")


def test_readme_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert readme_tables.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", readme_tables.TABLES)
def test_each_table_stands_between_its_comments_and_names_its_source(
    directory: Path, name: str
) -> None:
    text = rendered(directory, name)
    head, body, tail = text.partition(f"<!-- bench:{name} -->\n")
    table = (body + tail).partition("<!-- /bench -->")[0]
    assert head == "# made up\n\nBefore.\n\n"
    assert text.endswith("<!-- /bench -->\n\nAfter.\n")
    assert "old" not in table.split()
    assert "Made-up CPU of a test" in " ".join(table.split())
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert max(len(line) for line in table.splitlines() if not line.startswith("|")) <= 100


def test_the_newest_file_is_taken_and_a_named_one_wins(directory: Path) -> None:
    assert "made-up-sgro.json`: 5 rounds of 2 s, 1 of 440 runs" in rendered(directory, "ladder")
    pinned = rendered(directory, "ladder made-up-sgro-earlier.json")
    assert "made-up-sgro-earlier.json`: 3 rounds" in pinned.replace("\n", " ")


def test_headline_has_a_column_for_each_setting(directory: Path) -> None:
    lines = rendered(directory, "headline").splitlines()
    assert "| | sgro | on |" in lines
    row = next(line for line in lines if line.startswith("| UDP 64 B"))
    assert 1.9 < float(row.split("|")[2].split()[0]) < 2.4


def test_rows_of_the_ladder_go_from_python_to_direct(directory: Path) -> None:
    rows = [
        line.split("|")[1].strip()
        for line in rendered(directory, "ladder").splitlines()
        if line.startswith("| ")
    ]
    assert rows[1:3] == ["udp-python", "udp-syscall"]
    assert rows[-2:] == ["vxlan", "direct"]
    assert "flannel" not in rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MARKED.format("nonsense"), "README.md, bench:nonsense: is no table"),
        ("<!-- bench:ladder -->\nno end\n", "README.md, markers: needs one"),
        ("<!-- bench:ladder -->\n<!-- bench:field -->\n<!-- /bench -->", "markers: needs one"),
        (MARKED.format("ladder made-up-on.json"), "bench:ladder: no result file"),
    ],
)
def test_wrong_markers_are_named(directory: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        readme_tables.render(text, readme_tables.load_all(directory), "README.md")
    assert words in str(caught.value)


def test_check_writes_nothing_and_shows_what_differs(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = directory / "README.md"
    readme.write_text(MARKED.format("headline"))
    where = ["--readme", str(readme), "--results", str(directory)]
    assert readme_tables.main([*where, "--check"]) == 1
    assert "-old" in capsys.readouterr().out
    assert readme.read_text() == MARKED.format("headline")
    assert readme_tables.main(where) == 0
    assert readme_tables.main([*where, "--check"]) == 0


def test_files_of_another_shape_are_left_out_and_said(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "strange.json").write_text(json.dumps({"schema": 1, "runs": []}))
    assert len(readme_tables.load_all(directory)) == 3
    assert "strange.json" in capsys.readouterr().err
