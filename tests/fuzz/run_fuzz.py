"""Build each fuzz target with libFuzzer and the sanitizers, and run it for a while.

A crash ends with a non-zero exit and the input in hex: turn it into a line of seeds.txt, or better
into a case of tests/c, when it is mended.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
TARGETS = {
    "ip": ["ip.c"],
    "icmp": ["icmp.c", "ip.c"],
    "segment": ["segment.c", "ip.c"],
    "coalesce": ["coalesce.c", "segment.c", "ip.c"],
}
"""Target -> the files of the C core that it needs."""
BUILD = [
    "clang-14",
    "-std=gnu11",
    "-D_GNU_SOURCE",
    "-g",
    "-O1",
    "-fsanitize=fuzzer,address,undefined",
    "-fno-sanitize-recover=all",
    f"-I{CSRC}",
]
INPUT_MAX = 2048
# Sanitizers of this age die now and then where mmap_rnd_bits is 32; not every container allows it.
FIXED_ADDRESSES = ["setarch", "-R"]


def seeds(target: str) -> dict[str, bytes]:
    """Return name -> bytes of a target's seeds."""
    found: dict[str, bytes] = {}
    for line in (HERE / "seeds.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            wanted, name, digits = line.split()
            if wanted == target:
                found[name] = bytes.fromhex(digits)
    return found


def fuzz(target: str, seconds: int, work: Path) -> bool:
    """Build and run one target in a directory of its own; say what came of it."""
    binary = work / target
    corpus = work / f"{target}-corpus"
    corpus.mkdir()
    for name, data in seeds(target).items():
        (corpus / name).write_bytes(data)
    sources = [str(HERE / f"fuzz_{target}.c"), *(str(CSRC / name) for name in TARGETS[target])]
    subprocess.run([*BUILD, *sources, "-o", str(binary)], check=True)
    print(f"fuzzing {target} for {seconds} s ...", flush=True)
    fixed = subprocess.run([*FIXED_ADDRESSES, "true"], check=False, capture_output=True)
    result = subprocess.run(
        [
            *([] if fixed.returncode else FIXED_ADDRESSES),
            str(binary),
            f"-max_total_time={seconds}",
            f"-max_len={INPUT_MAX}",
            "-print_final_stats=1",
            f"-artifact_prefix={work}/{target}-",
            str(corpus),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    for line in result.stderr.splitlines():
        if "number_of_executed_units" in line:
            print(
                f"fuzzing {target}: {line.split()[-1]} inputs, {len(list(corpus.iterdir()))} kept"
            )
    if result.returncode:
        print(result.stderr[-4000:], file=sys.stderr)
        for crash in work.glob(f"{target}-*-*"):
            print(f"{target}: {crash.name}: {crash.read_bytes().hex()}", file=sys.stderr)
    return result.returncode == 0


def main() -> int:
    """Fuzz all targets, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("target", nargs="*", choices=[[], *TARGETS], help="default: all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunneld-fuzz-") as directory:
        good = [
            fuzz(target, arguments.seconds, Path(directory))
            for target in arguments.target or TARGETS
        ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
