"""What the answers of etcd's watch mean that carry no event."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tunneld.store import StoreUnavailableError
from tunneld.store.etcd_watch import _refuse


def answer(**given: object) -> SimpleNamespace:
    usual = {"compact_revision": 0, "canceled": False, "watch_id": 0, "cancel_reason": ""}
    return SimpleNamespace(**{**usual, **given})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"watch_id": -1}, "token has expired"),
        ({"canceled": True, "cancel_reason": "permission denied"}, "permission denied"),
        ({"canceled": True, "compact_revision": 7}, "revision 7 was compacted"),
    ],
)
def test_a_refusal_is_an_error(given: dict[str, object], words: str) -> None:
    with pytest.raises(StoreUnavailableError, match=words):
        _refuse(answer(**given))


def test_progress_is_none() -> None:
    _refuse(answer())
