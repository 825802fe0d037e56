"""The metrics of several processes on one page: each keeps its own, and one shows them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric

OURS = "levibot_"
# Always 1, and the same wherever one version runs.
LEFT_OUT = "levibot_build_info"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric of a process, ready to travel. samples: (name, labels, value) each."""

    name: str
    documentation: str
    kind: str
    samples: tuple[tuple[str, dict[str, str], float], ...]


def families(registry: CollectorRegistry = REGISTRY) -> list[Family]:
    """LeviBot's own metrics in a registry, as they are now."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            tuple((sample.name, dict(sample.labels), sample.value) for sample in metric.samples),
        )
        for metric in registry.collect()
        if metric.name.startswith(OURS)
    ]


def exposition(others: Mapping[str, Sequence[Family]], registry: CollectorRegistry = REGISTRY) -> bytes:
    """Prometheus' text format: this process's metrics as they are, the others' with the label `process`."""
    return generate_latest(_Together(registry, others))


class _Together:
    """What `generate_latest` asks of a registry. A metric of several processes is one family there."""

    def __init__(self, registry: CollectorRegistry, others: Mapping[str, Sequence[Family]]) -> None:
        self._registry = registry
        self._others = others

    def collect(self) -> Iterable[Metric]:
        together = {metric.name: _copy(metric) for metric in self._registry.collect()}
        for process, its in self._others.items():
            for family in its:
                if family.name == LEFT_OUT:
                    continue
                metric = together.setdefault(
                    family.name, Metric(family.name, family.documentation, family.kind)
                )
                for name, labels, value in family.samples:
                    metric.add_sample(name, {"process": process, **labels}, value)
        return together.values()


def _copy(metric: Metric) -> Metric:
    copy = Metric(metric.name, metric.documentation, metric.type)
    copy.samples = list(metric.samples)
    return copy
