"""The C core's own tests (tests/c), built and run under the sanitizers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "csrc").glob("*.c"))
PROGRAMS = sorted((ROOT / "tests" / "c").glob("test_*.c"))
WRAP = ROOT / "tests" / "c" / "wrap.c"
WARNINGS = ["-Wall", "-Wextra", "-Wsign-compare", "-Wconversion", "-Wshadow", "-Werror"]
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", "-pthread", f"-I{ROOT / 'csrc'}"]
BUILDS = {
    "gcc-asan-ubsan": ["gcc", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "clang-asan-ubsan": [
        "clang-14",
        "-fsanitize=address,undefined,nullability",
        "-fno-sanitize-recover=all",
    ],
    "gcc-tsan": ["gcc", "-fsanitize=thread"],
}
"""Name -> compiler and its sanitizers; threads are looked at in the engine's tests alone."""
WRAPPED = [
    f"-Wl,--wrap={name}"
    for name in ("malloc", "calloc", "realloc", "sendmmsg", "recvmmsg", "writev")
]
"""The engine's tests count allocations and play a kernel that refuses, see tests/c/wrap.h."""


def is_engine(program: Path) -> bool:
    """Whether a program runs a whole engine, on the bed of tests/c/bed.h."""
    return program.stem.startswith("test_engine")


CASES = [
    pytest.param(program, build, id=f"{program.stem}-{build}")
    for program in PROGRAMS
    for build in BUILDS
    if build != "gcc-tsan" or is_engine(program)
]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)


def fixed_addresses() -> list[str]:
    """Return a prefix that turns address randomisation off, where the kernel lets us.

    Sanitizers of this age die now and then where mmap_rnd_bits is 32.
    """
    prefix = ["setarch", "-R"]
    return prefix if run([*prefix, "true"]).returncode == 0 else []


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Path]]:
    """Compile csrc once for each build."""
    done: dict[str, list[Path]] = {}

    def objects(build: str) -> list[Path]:
        if build not in done:
            directory = tmp_path_factory.mktemp(build)
            done[build] = [directory / f"{source.stem}.o" for source in CORE]
            for source, target in zip(CORE, done[build], strict=True):
                compiled = run(
                    [*BUILDS[build], *FLAGS, *WARNINGS, "-c", str(source), "-o", str(target)]
                )
                assert compiled.returncode == 0, compiled.stderr
        return done[build]

    return objects


@pytest.mark.parametrize(("program", "build"), CASES)
def test_c_core(
    program: Path, build: str, core: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    binary = tmp_path / program.stem
    objects = [str(path) for path in core(build)]
    linked = run(
        [
            *(*BUILDS[build], *FLAGS, *WARNINGS, str(program), *objects, "-o", str(binary)),
            *([str(WRAP), *WRAPPED] if is_engine(program) else []),
        ]
    )
    assert linked.returncode == 0, linked.stderr
    result = run([*fixed_addresses(), str(binary)])
    assert result.returncode == 0, result.stdout + result.stderr
    # A program that checks nothing exits with 0 too, but for check_result().
    assert f"{program.stem}: " in result.stdout
    assert " 0 failed" in result.stdout


def test_every_program_is_found() -> None:
    """An empty glob would pass without a word."""
    assert {path.stem for path in PROGRAMS} >= {
        "test_counters",
        "test_ip",
        "test_icmp",
        "test_routes",
        "test_engine",
        "test_engine_load",
        "test_engine_offload",
        "test_segment",
        "test_coalesce",
        "test_coalesce_limits",
        "test_coalesce_random",
        "test_udp_batch",
        "test_wait",
    }
