"""The script that starts HAProxy gives a replica what the replica takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

SERVE = Path(__file__).parents[2] / "ops" / "serve"


@pytest.mark.parametrize("definition", sorted(SERVE.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_replica_is_sent_as_many_requests_as_it_takes_at_once(definition: Path) -> None:
    found = re.search(r"^at_once=(\d+)$", (SERVE / "haproxy").read_text(), re.MULTILINE)
    assert found is not None
    (application,) = yaml.safe_load(definition.read_text())["applications"]
    (face,) = [one for one in application["deployments"] if one["name"] == "Api"]
    assert face["max_ongoing_requests"] == int(found[1])
