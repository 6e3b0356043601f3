"""The garbage collector rests while much is taken, and leaves out what stays."""

from __future__ import annotations

import gc

import pytest

from tunneld import collector


def test_it_works_again_after_an_error() -> None:
    def fail() -> None:
        with collector.paused():
            assert not gc.isenabled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert gc.isenabled()


def test_what_is_there_is_left_out_of_later_collections() -> None:
    kept = [[number] for number in range(1000)]
    collector.settle()
    try:
        assert gc.get_freeze_count() >= len(kept)
        assert not any(item is kept[0] for item in gc.get_objects())
    finally:
        gc.unfreeze()
