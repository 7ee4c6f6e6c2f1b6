"""What a `Telemetry` makes of a sidecar, as far as it can change while it runs: values of Envoy's runtime.

Access logs and their like stand in listeners, and ask the runtime at each request whether to act. So a new level holds
from the next request on, on open connections too, and no listener is drained for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from envoy.service.runtime.v3 import rtds_pb2

from dataplane.compile.resources import RUNTIME, Resource
from dataplane.compile.workload import Workload
from dataplane.snapshot.state import MeshState
from schemas.durations import milliseconds
from schemas.names import ServiceRef
from schemas.objects.telemetry import AccessLogging, Metrics, Mode, Telemetry, Tracing

Side = Literal["client", "server"]
SIDES: tuple[Side, ...] = ("client", "server")
_MODES: dict[Side, tuple[Mode, ...]] = {
    "client": ("CLIENT", "CLIENT_AND_SERVER"),
    "server": ("SERVER", "CLIENT_AND_SERVER"),
}

LAYER = "telemetry"
"""Of the runtime, and of the one resource that fills it."""

TRACE_SAMPLING = "tracing.random_sampling"
"""Envoy's own key: of requests without a trace context, how many are sampled."""
DENIAL_HEADER_KEY = "mesh.denial_header"
"""Of the runtime: in how many per cent of denials the caller is told the rule; absent: in none."""

FAILED = 500
"""HTTP status from which an answer is a failure of ours, not of who asked."""
LIMITED = 429
"""HTTP status of what a rate limit refused; gRPC's `RESOURCE_EXHAUSTED` is logged as that."""
NEVER_MS = 2**32 - 1
"""No request takes so long: 49 days."""


@dataclass(frozen=True, slots=True)
class LogLevel:
    """Failures are logged in any case, and what has at least this status or took so long; of all that, a part."""

    min_status: int = FAILED
    min_duration_ms: int = NEVER_MS
    sampled: int = 100
    """Per cent; whole ones, because Envoy takes what the runtime says for that."""
    denied: int = 100
    """Per cent, 0 or 100: whether what this sidecar denies is logged."""

    @property
    def everything(self) -> int:
        """Per cent of all there is, whatever came of it."""
        return self.sampled if self.min_status == 0 else 0

    @property
    def limited(self) -> int:
        """Per cent of what a rate limit of this sidecar refuses; some of it is logged in any case."""
        return self.sampled if self.min_status <= LIMITED else 0

    @property
    def some(self) -> int:
        """Per cent of what there is a reason to log. Never beside `everything`: where a request's id is no UUID, Envoy
        draws for each of the two."""
        return self.sampled if self.min_status != 0 else 0


def log_key(
    side: Side, value: Literal["everything", "min_status", "min_duration_ms", "sampled", "denied", "limited"]
) -> str:
    """The runtime's name for it."""
    return f"mesh.access_log.{side}.{value}"


def metrics_key(side: Side) -> str:
    """The runtime's name for whether the side counts: per cent, 0 or 100."""
    return f"mesh.metrics.{side}.counted"


def counts(telemetries: Sequence[Telemetry], side: Side) -> bool:
    """telemetries: as for `log_level`."""
    for telemetry in telemetries:
        if telemetry.spec.metrics is not None:
            said = next((one for one in telemetry.spec.metrics if one.match.mode in _MODES[side]), None)
            return said is None or not said.disabled
    return True


def tracing_of(telemetries: Sequence[Telemetry]) -> tuple[Telemetry, Tracing] | None:
    """What is said of tracing, and where; None where nothing is exported."""
    for telemetry in telemetries:
        said = telemetry.spec.tracing
        if said is not None:
            return (telemetry, said) if said.provider is not None and not said.disabled else None
    return None


def asked_of_servers(telemetries: Sequence[Telemetry]) -> list[Telemetry]:
    """Those that ask a called sidecar for something of each request: a line, counts, a span. What is counted and logged
    without any is not asked for: connections will do.

    telemetries: as for `log_level`.
    """
    found = []
    for section in ("access_logging", "metrics"):
        for telemetry in telemetries:
            entries: Sequence[AccessLogging | Metrics] | None = getattr(telemetry.spec, section)
            if entries is not None:
                said = next((one for one in entries if one.match.mode in _MODES["server"]), None)
                found += [telemetry] if said is not None and not said.disabled else []
                break
    traced = tracing_of(telemetries)
    return [*found, *([traced[0]] if traced is not None else [])]


def collector_of(telemetry: Telemetry) -> ServiceRef | None:
    """The service that it names for spans."""
    tracing = telemetry.spec.tracing
    if tracing is None or tracing.provider is None or (ref := tracing.provider.backend_ref) is None:
        return None
    return ServiceRef(ref.namespace or telemetry.metadata.namespace, ref.name)


def collector(state: MeshState, workload: ServiceRef) -> ServiceRef | None:
    """The service that spans of the workload go to."""
    found = tracing_of(state.telemetries(workload))
    return collector_of(found[0]) if found is not None else None


def log_level(telemetries: Sequence[Telemetry], side: Side) -> LogLevel:
    """telemetries: those that speak for the workload, the narrowest first."""
    for telemetry in telemetries:
        if telemetry.spec.access_logging is not None:
            said = (one for one in telemetry.spec.access_logging if one.match.mode in _MODES[side])
            return _level(next(said, None))
    return LogLevel()


def _level(said: AccessLogging | None) -> LogLevel:
    if said is None:
        return LogLevel()
    if said.disabled:
        return LogLevel(sampled=0, denied=0)
    sampled = said.random_sampling_percentage
    if said.filter is None:
        return LogLevel(0, NEVER_MS, sampled)
    longest = said.filter.min_duration
    return LogLevel(
        said.filter.min_status_code or FAILED, milliseconds(longest) if longest is not None else NEVER_MS, sampled
    )


def runtime(state: MeshState, workload: Workload) -> Resource:
    """Always there: Envoy waits for it when it starts."""
    found = state.telemetries(workload.service)
    message = rtds_pb2.Runtime(name=LAYER)
    values: dict[str, int | dict[str, int | str]] = {}
    for side in SIDES:
        level = log_level(found, side)
        values[log_key(side, "everything")] = level.everything
        values[log_key(side, "min_status")] = level.min_status
        values[log_key(side, "min_duration_ms")] = min(level.min_duration_ms, NEVER_MS)
        values[log_key(side, "sampled")] = level.some
        if side == "server":
            values[log_key(side, "denied")] = level.denied
            values[log_key(side, "limited")] = level.limited
        values[metrics_key(side)] = 100 if counts(found, side) else 0
    traced = tracing_of(found)
    sampled = round(traced[1].random_sampling_percentage * 100) if traced is not None else 0
    values[TRACE_SAMPLING] = {"numerator": sampled, "denominator": "TEN_THOUSAND"}
    mesh = state.mesh()
    if mesh is not None and mesh.spec.denial_header:
        values[DENIAL_HEADER_KEY] = 100
    message.layer.update(values)
    return Resource.of(RUNTIME, LAYER, message)
