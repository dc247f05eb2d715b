"""What a gateway counts, as Prometheus text. Labels name no person, patient, AE title or address: metrics leave the house."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from securepacs_proxy.control import Message

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"

_COUNTERS = {
    "accepted": "Connections accepted.",
    "authenticated": "Peers that were authenticated.",
    "handshakes_failed": "Peers that were not authenticated.",
    "turned_away": "Connections closed unheard because of a limit.",
    "audit_failures": "Audit records that could not be written.",
    "crashes": "Relays that failed.",
    "received": "Bytes received from peers.",
    "sent": "Bytes sent to peers.",
}


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What the supervisor knows. `workers` are their answers; `expiry` is by port, `children` by name: (is up, was replaced)."""

    version: str
    workers: Mapping[str, Message]
    children: Mapping[str, tuple[bool, int]] = field(default_factory=dict)
    blocks: int = 0
    expiry: Mapping[int, datetime] = field(default_factory=dict)
    reloads: Mapping[str, int] = field(default_factory=dict)


class _Collector(Collector):
    def __init__(self, state: GatewayState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state = self._state
        yield InfoMetricFamily("securepacs_configuration", "Version in force.", value={"version": state.version[:12]})
        live = GaugeMetricFamily("securepacs_connections", "Connections now.", labels=["worker", "state"])
        for worker, answer in state.workers.items():
            for name, count in answer.get("states", {}).items():
                live.add_metric([worker, name], count)
        yield live
        for name, text in _COUNTERS.items():
            unit = "_bytes" if name in ("received", "sent") else ""
            family = CounterMetricFamily(f"securepacs_{name}{unit}", text, labels=["worker"])
            for worker, answer in state.workers.items():
                family.add_metric([worker], answer.get("totals", {}).get(name, 0))
            yield family
        up = GaugeMetricFamily("securepacs_process_up", "Whether a process is ready.", labels=["process"])
        replaced = CounterMetricFamily("securepacs_process_replaced", "Processes that ended and were replaced.", labels=["process"])
        for child, (is_up, count) in state.children.items():
            up.add_metric([child], is_up)
            replaced.add_metric([child], count)
        yield from (up, replaced)
        yield GaugeMetricFamily("securepacs_blocks", "Blocks set by hand.", value=state.blocks)
        expiry = GaugeMetricFamily(
            "securepacs_certificate_expiry_timestamp_seconds", "End of the gateway's own certificate.", labels=["listener"]
        )
        for listener, end in state.expiry.items():
            expiry.add_metric([str(listener)], end.timestamp())
        yield expiry
        reloads = CounterMetricFamily("securepacs_reloads", "Reloads of the configuration by their result.", labels=["result"])
        for result, count in state.reloads.items():
            reloads.add_metric([result], count)
        yield reloads


def exposition(state: GatewayState) -> bytes:
    """Return the metrics in the text format of Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(state))
    return generate_latest(registry)
