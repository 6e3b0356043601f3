"""What `--store URL` accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunneld.errors import ConfigError
from tunneld.store.registry import STORES, open_store


@pytest.mark.parametrize("form", ["file:{}", "file://{}", "file://localhost{}"])
async def test_a_directory_in_every_form_of_its_url(tmp_path: Path, form: str) -> None:
    store = open_store(form.format(tmp_path))
    assert store.url == f"file:{tmp_path}"
    await store.close()


async def test_a_relative_directory_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("file:here")
    monkeypatch.chdir("/")
    assert store.url == f"file:{tmp_path}/here"
    await store.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "names no store .*file:"),
        ("file", "names no store .*file:"),
        ("/var/lib/x", "names no store .*file:"),
        ("consul:x", "names no store .*file:"),
        ("file:", "names no directory"),
        ("file://", "names another host|names no directory"),
        ("file://host/dir", "names another host"),
        ("etcd:http://10.0.0.1:2379", "behind the colon .*--etcd-endpoints"),
        ("file:/proc/version", "is not a directory"),
        ("file:a\0b", "names no directory"),
    ],
)
def test_other_urls_are_refused_with_a_remedy(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        open_store(url)
    assert str(caught.value).startswith("--store: ")
    assert caught.value.remedy
    assert caught.value.exit_code == 2


def test_each_scheme_has_one_line() -> None:
    assert set(STORES) == {"etcd", "file"}
