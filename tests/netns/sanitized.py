"""The extension module built with AddressSanitizer and UBSan, and daemons that run on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tunneld.lab import Daemon

ROOT = Path(__file__).resolve().parents[2]
FLAGS = "-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"


class Sanitized:
    """A copy of the package around a sanitized build; the one in the tree stays as it is.

    Args:
        directory: empty; holds the copy, the build and the reports.
    """

    def __init__(self, directory: Path) -> None:
        self._library = directory / "library"
        self._reports = directory / "reports"
        self._reports.mkdir()
        shutil.copytree(
            ROOT / "tunneld",
            self._library / "tunneld",
            ignore=shutil.ignore_patterns("*.so", "__pycache__"),
        )
        build = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(self._library)]
        done = subprocess.run(
            [*build, "--build-temp", str(directory / "build")],
            cwd=ROOT,
            env={**os.environ, "CFLAGS": FLAGS, "LDFLAGS": "-fsanitize=address,undefined"},
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # The interpreter is not built for it: the run-time library must be there before it.
        self._runtime = subprocess.run(
            ["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
        ).stdout.strip()

    def use_for(self, daemon: Daemon) -> None:
        """Have a daemon that is not started yet run on this build."""
        log = f"log_path={self._reports / daemon.node.name}"
        # The interpreter leaves memory behind on purpose; a reader of the log needs no colours.
        common = f"halt_on_error=1:color=never:{log}"
        daemon.prefix = [
            # Sanitizers of this age die now and then where mmap_rnd_bits is 32.
            *("setarch", "-R"),
            "env",
            f"LD_PRELOAD={self._runtime}",
            f"ASAN_OPTIONS=detect_leaks=0:{common}",
            f"UBSAN_OPTIONS=print_stacktrace=1:{common}",
            f"PYTHONPATH={self._library}",
            # Else `python -m` looks for the package in the current directory first.
            "PYTHONSAFEPATH=1",
        ]

    def assert_in_use(self, daemon: Daemon) -> None:
        """Check that the running daemon has our build and the sanitizer in it."""
        maps = Path(f"/proc/{daemon.pid}/maps").read_text()
        assert str(self._library / "tunneld" / "_dataplane") in maps
        assert "libasan" in maps

    def reports(self) -> str:
        """Return everything that a sanitizer said."""
        return "\n".join(path.read_text() for path in sorted(self._reports.iterdir()))
