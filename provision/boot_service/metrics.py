"""The rack in the words of Prometheus, read at every scrape: right with any number of workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from provision.boot_service.messages import RunState
from provision.boot_service.rack_state import NodeState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CONDITIONS = ("idle", "waiting", "installing", "late", "failed", "registered", "expired", "rescue")


def exposition(nodes: Sequence[NodeState], run: RunState | None, last: int, now: float) -> bytes:
    """All metrics as text. Times are in seconds; a node that never spoke has no last word."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        _Reading(
            [*_of_nodes(nodes, now), *_of_run(run), _single("events", "Number of the newest event.", last)]
        )
    )
    return generate_latest(registry)


class _Reading(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _single(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"rackproof_{name}", what, value=value)


def _of_nodes(nodes: Sequence[NodeState], now: float) -> Iterator[Metric]:
    counted = Counter[str](node.condition for node in nodes)
    conditions = GaugeMetricFamily("rackproof_nodes", "Nodes by condition.", labels=["condition"])
    for condition in CONDITIONS:
        conditions.add_metric([condition], counted[condition])
    phase = GaugeMetricFamily(
        "rackproof_node_phase", "1 for the phase that a node reached last.", labels=["node", "phase"]
    )
    silence = GaugeMetricFamily(
        "rackproof_node_silence_seconds", "Time since a node was last heard.", labels=["node"]
    )
    in_phase = GaugeMetricFamily(
        "rackproof_node_phase_seconds", "Time in this phase, while it is installed.", labels=["node"]
    )
    for node in nodes:
        if node.phase:
            phase.add_metric([node.name, node.phase], 1)
        if node.last_word:
            silence.add_metric([node.name], max(now - node.last_word.time, 0))
        if node.since and node.awaits:
            in_phase.add_metric([node.name], max(now - node.since, 0))
    yield from (conditions, phase, silence, in_phase)


def _of_run(run: RunState | None) -> Iterator[Metric]:
    if run is None:
        return
    steps = GaugeMetricFamily(
        "rackproof_run_step", "1 for the state that a step of the run is in.", labels=["step", "state"]
    )
    for step in run.steps:
        steps.add_metric([step.name, step.state], 1)
    yield from (steps, _single("run_started_seconds", "When the run began, since the epoch.", run.started),
                _single("run_ended", "Whether the run has ended.", run.ended is not None))  # fmt: skip
