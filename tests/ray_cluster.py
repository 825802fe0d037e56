"""A Ray cluster of the tests' own, whatever else runs on the host."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray


@contextmanager
def own_cluster(num_cpus: int, object_store_mb: int, namespace: str | None = None) -> Iterator[None]:
    """A local cluster of one node until the block ends; this process is its driver."""
    # A socket's path is short, so it is not pytest's folder.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray-") as folder:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=num_cpus,
            namespace=namespace,
            include_dashboard=False,
            object_store_memory=object_store_mb * 1024 * 1024,
            log_to_driver=False,
            _temp_dir=folder,
        )
        yield
        ray.shutdown()
