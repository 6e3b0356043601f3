"""One daemon per run directory."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tunneld.errors import StartError
from tunneld.run_dir import RunDirLock

if TYPE_CHECKING:
    from pathlib import Path


def test_the_second_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with RunDirLock(tmp_path), pytest.raises(StartError, match=f"pid {os.getpid()}") as caught:
        RunDirLock(tmp_path).__enter__()
    assert "--run-dir" in caught.value.remedy


def test_free_again_after_a_clean_end(tmp_path: Path) -> None:
    for _ in range(2):
        with RunDirLock(tmp_path):
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_free_again_after_a_kill(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys; from tunneld.run_dir import RunDirLock\n"
        f"with RunDirLock(pathlib.Path({str(tmp_path)!r})): print('held', flush=True); "
        "sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(StartError, match=f"pid {child.pid}"):
        RunDirLock(tmp_path).__enter__()
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    with RunDirLock(tmp_path):
        pass


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot use the run directory"):
        RunDirLock(tmp_path / "file" / "run").__enter__()
