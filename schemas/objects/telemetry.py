"""`Telemetry`: what sidecars log, trace and count. Field names as Istio has them.

A section is taken whole from the narrowest object that has it: one that targets the service, one of its namespace, one
of the mesh (namespace mesh-system). It is about the sidecars of the services that it speaks for: as a client, where
their apps call, and as a server, where they are called.
"""

from typing import Annotated, Literal

import msgspec

from schemas.durations import Duration
from schemas.objects.common import Name, Object, Part, Port, TargetRef

Mode = Literal["CLIENT", "SERVER", "CLIENT_AND_SERVER"]
Percentage = Annotated[int, msgspec.Meta(ge=0, le=100)]
StatusCode = Annotated[int, msgspec.Meta(ge=100, le=599)]
# Envoy decides in steps of a hundredth of a per cent.
FinePercentage = Annotated[float, msgspec.Meta(ge=0, le=100)]
# An attribute's name, as OpenTelemetry writes them.
TagName = Annotated[
    str,
    msgspec.Meta(pattern=r"^[a-z][a-z0-9_.]{0,62}\Z", description="1 to 63 of a-z, 0-9, '_' and '.', a letter first"),
]
HeaderName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,64}\Z", description="a header's name in lower case")]
CollectorAddress = Annotated[
    str, msgspec.Meta(pattern=r"^([A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]):[0-9]{1,5}\Z", description="host:port")
]
UrlPath = Annotated[str, msgspec.Meta(pattern=r"^/[A-Za-z0-9._~/-]{0,255}\Z", description="a path, without a query")]
MAX_TAGS = 16


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


class Metrics(Part, frozen=True, kw_only=True):
    match: TelemetryMatch = TelemetryMatch()
    disabled: bool = False
    """Requests and connections are not counted."""


class CollectorRef(Part, frozen=True, kw_only=True):
    """A collector that is a service of the mesh, or one that the mesh knows."""

    kind: Literal["Service", "ExternalService"] = "Service"
    name: Name
    namespace: Name | None = None
    """Absent: the Telemetry's own."""
    port: Port


class TracingProvider(Part, frozen=True, kw_only=True):
    """Where spans go, by OTLP. Exactly one of `backendRef` and `address`."""

    protocol: Literal["grpc", "http"] = "grpc"
    """OTLP/gRPC, or OTLP/HTTP with protobuf."""
    backend_ref: CollectorRef | None = None
    """By the ways of the mesh, with its TLS."""
    address: CollectorAddress | None = None
    """As it is, without TLS: for a collector on the sidecar's own host."""
    path: UrlPath = "/v1/traces"
    """Of `http`."""


class CustomTag(Part, frozen=True, kw_only=True):
    """An attribute of each span. Exactly one of `literal` and `requestHeader`."""

    name: TagName
    literal: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    request_header: HeaderName | None = None


class Tracing(Part, frozen=True, kw_only=True):
    disabled: bool = False
    """Nothing is exported, also of traces that others began."""
    provider: TracingProvider | None = None
    """Absent: nothing is exported."""
    random_sampling_percentage: FinePercentage = 1.0
    """Of requests that come without a trace context; what has one is sampled as that says."""
    custom_tags: Annotated[tuple[CustomTag, ...], msgspec.Meta(max_length=MAX_TAGS)] = ()


class TelemetrySpec(Part, frozen=True, kw_only=True):
    target_refs: Annotated[tuple[TargetRef, ...], msgspec.Meta(min_length=1)] | None = None
    """The services it is for; absent: all of its namespace, of mesh-system: all of the mesh."""
    access_logging: Annotated[tuple[AccessLogging, ...], msgspec.Meta(max_length=8)] | None = None
    """For each side the first that matches; none: what failed is logged."""
    metrics: Annotated[tuple[Metrics, ...], msgspec.Meta(max_length=8)] | None = None
    """For each side the first that matches; none: all is counted."""
    tracing: Tracing | None = None
    """Absent: trace contexts are passed on, and nothing is exported."""


class Telemetry(Object, frozen=True, kw_only=True, tag="Telemetry"):
    spec: TelemetrySpec

    @property
    def sections(self) -> list[str]:
        """What it says anything of, in the names of the fields."""
        spec = self.spec
        said = (("accessLogging", spec.access_logging), ("metrics", spec.metrics), ("tracing", spec.tracing))
        return [name for name, value in said if value is not None]
