"""Make python-etcd3 0.12.0 import with today's protobuf, without generated code of ours.

Its `etcdrpc/*_pb2.py` were written by a protoc of 2019, and protobuf >= 4 refuses to run them. What
they carry is still right: the serialized descriptors. They are read out as text (`ast`, nothing is
executed), put into the descriptor pool, and the messages are built from there, as today's protoc
would. When python-etcd3 brings newer stubs, this file goes and `load` becomes `import etcd3`.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from tunneld.errors import StartError

# In the order in which they import one another.
_STUBS = ("kv", "auth", "rpc")
_PACKAGE = "etcd3.etcdrpc"
_REMEDY = "install tunneld anew, with its dependencies: pip install tunneld"


_loading = threading.Lock()


def load() -> Any:
    """Import python-etcd3 and return it; its messages and stubs are in `etcd3.etcdrpc`.

    Costs about 140 ms the first time: call it where the store is used, not where it is named. Any
    thread may call it: they wait for the first one (two parsers at once raise SystemError, and two
    importers would see half a package).

    Raises:
        StartError: it is not installed, or is a release that this way does not fit.
    """
    with _loading:
        return _load()


@functools.cache
def _load() -> Any:
    # grpc's C core reads both when it is loaded: no fork handlers (pyroute2 forks, and they would
    # stop grpc's threads for that), and no lines of its own on stderr (they know no redaction).
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if "etcd3" not in sys.modules:
        _seed(_stub_directory())
    return importlib.import_module("etcd3")


def _stub_directory() -> Path:
    try:
        spec = importlib.util.find_spec("etcd3")
    except ValueError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise StartError("the etcd store needs python-etcd3, which is missing", remedy=_REMEDY)
    return Path(spec.submodule_search_locations[0], "etcdrpc")


def _seed(directory: Path) -> None:
    """Put a package `etcd3.etcdrpc` into `sys.modules` before etcd3 looks for its own."""
    package = ModuleType(_PACKAGE)
    package.__path__ = [str(directory)]
    for name in _STUBS:
        descriptor = serialized_descriptor(directory / f"{name}_pb2.py")
        stub = _build(f"{_PACKAGE}.{name}_pb2", descriptor)
        setattr(package, f"{name}_pb2", stub)
    vars(package).update(_public(package.rpc_pb2))
    sys.modules[_PACKAGE] = package
    try:
        # This imports etcd3 itself first, which is why the messages had to be there already.
        grpc_stubs = importlib.import_module(f"{_PACKAGE}.rpc_pb2_grpc")
    except BaseException:
        sys.modules.pop(_PACKAGE, None)
        raise
    vars(package).update(_public(grpc_stubs))


def serialized_descriptor(path: Path) -> bytes:
    """Return the `serialized_pb` of a stub file, without running the file.

    Raises:
        StartError: it is not there, or holds none.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise StartError(f"python-etcd3: {path}: {error}", remedy=_REMEDY) from error
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "serialized_pb":
            # _b('...') of the old protoc: a text whose code points are the bytes.
            value = node.value.args[0] if isinstance(node.value, ast.Call) else node.value
            if isinstance(value, ast.Constant):
                text = value.value
                if isinstance(text, str):
                    return text.encode("latin-1")
                if isinstance(text, bytes):
                    return text
    raise StartError(f"python-etcd3: {path} holds no descriptor", remedy=_REMEDY)


def _build(name: str, serialized: bytes) -> ModuleType:
    pool: Any = importlib.import_module("google.protobuf.descriptor_pool")
    builder: Any = importlib.import_module("google.protobuf.internal.builder")
    try:
        descriptor = pool.Default().AddSerializedFile(serialized)
    except (TypeError, ValueError) as error:
        raise StartError(f"python-etcd3: {name} does not fit this protobuf: {error}") from error
    module = ModuleType(name)
    names = vars(module)
    builder.BuildMessageAndEnumDescriptors(descriptor, names)
    builder.BuildTopDescriptorsAndMessages(descriptor, name, names)
    sys.modules[name] = module
    return module


def _public(module: ModuleType) -> dict[str, object]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}
