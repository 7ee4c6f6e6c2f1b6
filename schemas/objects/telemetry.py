"""`Telemetry`: what sidecars log, trace and count. Field names as Istio has them.

A section is taken whole from the narrowest object that has it: one that targets the service, one of its namespace, one
of the mesh (namespace mesh-system). It is about the sidecars of the services that it speaks for: as a client, where
their apps call, and as a server, where they are called.
"""

from typing import Annotated, Literal

import msgspec

from schemas.durations import Duration
from schemas.objects.common import Object, Part, TargetRef

Mode = Literal["CLIENT", "SERVER", "CLIENT_AND_SERVER"]
Percentage = Annotated[int, msgspec.Meta(ge=0, le=100)]
StatusCode = Annotated[int, msgspec.Meta(ge=100, le=599)]


class TelemetryMatch(Part, frozen=True, kw_only=True):
    mode: Mode = "CLIENT_AND_SERVER"


class AccessLogFilter(Part, frozen=True, kw_only=True):
    """What is logged beside what failed: 5xx, a connection that broke, a gRPC status that stands for a 5xx."""

    min_status_code: StatusCode | None = None
    """Answers of this status and above."""
    min_duration: Duration | None = None
    """What took at least so long."""


class AccessLogging(Part, frozen=True, kw_only=True):
    match: TelemetryMatch = TelemetryMatch()
    disabled: bool = False
    """Nothing, failures neither."""
    filter: AccessLogFilter | None = None
    """Absent: everything."""
    random_sampling_percentage: Percentage = 100
    """Of what the filter lets through. Both sidecars of a request choose alike, by its request id."""


class TelemetrySpec(Part, frozen=True, kw_only=True):
    target_refs: Annotated[tuple[TargetRef, ...], msgspec.Meta(min_length=1)] | None = None
    """The services it is for; absent: all of its namespace, of mesh-system: all of the mesh."""
    access_logging: Annotated[tuple[AccessLogging, ...], msgspec.Meta(max_length=8)] | None = None
    """For each side the first that matches; none: what failed is logged."""


class Telemetry(Object, frozen=True, kw_only=True, tag="Telemetry"):
    spec: TelemetrySpec

    @property
    def sections(self) -> list[str]:
        """What it says anything of, in the names of the fields."""
        return [name for name, value in (("accessLogging", self.spec.access_logging),) if value is not None]
