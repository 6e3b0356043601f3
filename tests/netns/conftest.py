"""Clusters of network namespaces for the tests of this directory; they need root.

cluster           two nodes, a switch, no daemons
running_cluster   the same with a ready daemon on each node
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tunneld.lab import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(nodes=2) as cluster:
        yield cluster


@pytest.fixture
def running_cluster(cluster: Cluster) -> Cluster:
    cluster.start_daemons()
    return cluster
