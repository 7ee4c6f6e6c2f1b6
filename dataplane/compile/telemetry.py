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
from schemas.objects.telemetry import AccessLogging, Mode, Telemetry

Side = Literal["client", "server"]
SIDES: tuple[Side, ...] = ("client", "server")
_MODES: dict[Side, tuple[Mode, ...]] = {
    "client": ("CLIENT", "CLIENT_AND_SERVER"),
    "server": ("SERVER", "CLIENT_AND_SERVER"),
}

LAYER = "telemetry"
"""Of the runtime, and of the one resource that fills it."""

FAILED = 500
"""HTTP status from which an answer is a failure of ours, not of who asked."""
NEVER_MS = 2**32 - 1
"""No request takes so long: 49 days."""


@dataclass(frozen=True, slots=True)
class LogLevel:
    """Failures are logged in any case, and what has at least this status or took so long; of all that, a part."""

    min_status: int = FAILED
    min_duration_ms: int = NEVER_MS
    sampled: int = 100
    """Per cent; whole ones, because Envoy takes what the runtime says for that."""


def log_key(side: Side, value: Literal["min_status", "min_duration_ms", "sampled"]) -> str:
    """The runtime's name for it."""
    return f"mesh.access_log.{side}.{value}"


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
        return LogLevel(sampled=0)
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
    values: dict[str, int] = {}
    for side in SIDES:
        level = log_level(found, side)
        values[log_key(side, "min_status")] = level.min_status
        values[log_key(side, "min_duration_ms")] = min(level.min_duration_ms, NEVER_MS)
        values[log_key(side, "sampled")] = level.sampled
    message.layer.update(values)
    return Resource.of(RUNTIME, LAYER, message)
