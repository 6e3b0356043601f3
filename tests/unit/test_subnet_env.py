"""subnet.env: flannel's bytes, replaced as one, read back."""

from __future__ import annotations

import stat
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import pytest

from tunneld import subnet_env
from tunneld.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

NETWORK, SUBNET = IPv4Network("100.96.0.0/16"), IPv4Network("100.96.1.0/24")
TEXT = (
    "FLANNEL_NETWORK=100.96.0.0/16\n"
    "FLANNEL_SUBNET=100.96.1.1/24\n"
    "FLANNEL_MTU=1472\n"
    "FLANNEL_IPMASQ=false\n"
)


def test_flannels_bytes() -> None:
    assert subnet_env.render(NETWORK, SUBNET, 1472) == TEXT


def test_modes_and_no_remains(tmp_path: Path) -> None:
    path = tmp_path / "flannel" / "subnet.env"
    assert subnet_env.write(path, TEXT)
    assert path.read_text() == TEXT
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert list(path.parent.iterdir()) == [path]


def test_replaced_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    subnet_env.write(path, TEXT)
    with path.open() as reader:
        assert subnet_env.write(path, TEXT.replace("1472", "1372"))
        # Who had it open still reads the old one, whole.
        assert reader.read() == TEXT
    assert "1372" in path.read_text()


def test_the_same_text_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    subnet_env.write(path, TEXT)
    before = path.stat()
    assert not subnet_env.write(path, TEXT)
    assert path.stat().st_ino == before.st_ino


def test_previous_subnet(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    assert subnet_env.previous_subnet(path) is None
    path.write_text(TEXT)
    assert subnet_env.previous_subnet(path) == SUBNET


@pytest.mark.parametrize("text", ["", "FLANNEL_SUBNET=\n", "FLANNEL_SUBNET=x/24", "\0"])
def test_a_broken_file_is_no_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    path.write_text(text)
    assert subnet_env.previous_subnet(path) is None


def test_unwritable_is_told_before_the_start(tmp_path: Path) -> None:
    # A file where the directory should be stops root as well.
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "subnet.env"
    for call in (subnet_env.check_writable, lambda path: subnet_env.write(path, TEXT)):
        with pytest.raises(StartError, match="cannot write the subnet file") as caught:
            call(path)
        assert "--subnet-file" in caught.value.remedy


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="is a directory"):
        subnet_env.check_writable(tmp_path)


def test_the_check_leaves_nothing(tmp_path: Path) -> None:
    subnet_env.check_writable(tmp_path / "subnet.env")
    assert list(tmp_path.iterdir()) == []
