"""python-etcd3 imports with the protobuf of today, and speaks etcd's messages."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tunneld.errors import StartError
from tunneld.store import etcd_compat


def test_messages_and_stubs_are_there() -> None:
    rpc = etcd_compat.load().etcdrpc
    put = rpc.PutRequest(key=b"k", value=b"v", lease=7)
    assert rpc.PutRequest.FromString(put.SerializeToString()) == put
    # api/etcdserverpb/rpc.proto: key = 1, value = 2, lease = 3.
    assert put.SerializeToString() == b"\x0a\x01k\x12\x01v\x18\x07"
    for stub in ("KVStub", "WatchStub", "LeaseStub", "AuthStub"):
        assert hasattr(rpc, stub)
    assert (rpc.Compare.VERSION, rpc.Compare.MOD, rpc.Compare.EQUAL) == (0, 2, 0)


def test_loading_twice_gives_the_same_module() -> None:
    assert etcd_compat.load() is etcd_compat.load()


def run(code: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


def test_threads_load_it_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parsers at once: `SystemError: AST constructor recursion depth mismatch`."""
    inside, most = 0, 0
    together = threading.Barrier(2)

    def slow() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.2)
        inside -= 1

    monkeypatch.setattr(etcd_compat, "_load", slow)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: etcd_compat.load(), range(2)))
    assert most == 1


def test_a_fresh_process_imports_it_without_a_warning() -> None:
    done = run(
        "import os\n"
        "from tunneld.store.etcd_compat import load\n"
        "print(load().__version__, os.environ['GRPC_ENABLE_FORK_SUPPORT'],"
        " os.environ['GRPC_VERBOSITY'])"
    )
    assert (done.stdout, done.stderr) == ("0.12.0 0 NONE\n", "")


@pytest.mark.parametrize(
    "module", ["tunneld.cli", "tunneld.config", "tunneld.daemon", "tunneld.store.etcd"]
)
def test_grpc_is_not_imported_before_it_is_needed(module: str) -> None:
    done = run(f"import sys, {module}\nprint(sorted({{'grpc', 'etcd3'}} & set(sys.modules)))")
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    "text",
    ["", "DESCRIPTOR = None", "f(serialized_pb=name)", "f(serialized_pb=_b(1))", "def f(:"],
)
def test_a_stub_without_a_descriptor_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kv_pb2.py"
    path.write_text(text)
    with pytest.raises(StartError, match=r"kv_pb2\.py"):
        etcd_compat.serialized_descriptor(path)


def test_a_missing_stub_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"kv_pb2\.py"):
        etcd_compat.serialized_descriptor(tmp_path / "kv_pb2.py")


def test_a_stub_is_read_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "kv_pb2.py"
    path.write_text("raise SystemExit\nf(serialized_pb=_b('\\xff\\x00'))\ng(serialized_pb=b'x')")
    assert etcd_compat.serialized_descriptor(path) == b"\xff\x00"


def test_it_says_when_etcd3_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(StartError, match="python-etcd3"):
        etcd_compat._stub_directory()
