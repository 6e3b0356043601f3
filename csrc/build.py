"""Describe the extension module tunneld._dataplane to cffi; nothing else."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SOURCES = sorted(str(path.relative_to(ROOT)) for path in HERE.glob("*.c"))
HEADERS = sorted(str(path.relative_to(ROOT)) for path in HERE.glob("*.h"))

ffibuilder = FFI()
ffibuilder.cdef((HERE / "api.h").read_text())
ffibuilder.set_source(
    "tunneld._dataplane",
    '#include "dataplane.h"',
    sources=SOURCES,
    include_dirs=["csrc"],
    depends=HEADERS,
    extra_compile_args=[
        "-std=gnu11",
        "-D_GNU_SOURCE",
        "-O2",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
    ],
)
