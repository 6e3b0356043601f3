"""How many threads a queue gets."""

import pytest

from tunneld.dataplane.ladder import choose_threads


@pytest.mark.parametrize(
    ("rung", "asked", "cores", "threads"),
    [
        pytest.param("offload", "auto", 1, "1", id="one core"),
        pytest.param("offload", "auto", 2, "1", id="the other core is the containers'"),
        pytest.param("offload", "auto", 3, "auto", id="a core to spare"),
        pytest.param("gso", "auto", 64, "auto", id="many cores"),
        pytest.param("mmsg", "auto", 64, "1", id="flannel's class"),
        pytest.param("syscall", "auto", 64, "1", id="flannel itself"),
        pytest.param("offload", "2", 1, "2", id="asked for two"),
        pytest.param("offload", "1", 64, "1", id="asked for one"),
    ],
)
def test_threads(rung: str, asked: str, cores: int, threads: str) -> None:
    assert choose_threads(rung, asked, cores) == threads
