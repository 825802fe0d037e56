"""What the tests of actors on Ray share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from actors import NAMESPACE
from tests.ray_cluster import own_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of each module's own: actors have names, and tests kill them."""
    with own_cluster(num_cpus=1, object_store_mb=80, namespace=NAMESPACE):
        yield
