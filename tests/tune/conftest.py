"""What the tests of jobs on Ray share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ray_cluster import own_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of two cores, which is what jobs on two workers need."""
    with own_cluster(num_cpus=2, object_store_mb=200):
        yield
