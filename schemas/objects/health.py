"""How a sidecar asks its own app whether it is well. Field names as Envoy Gateway's active health check."""

from typing import Annotated, Literal

import msgspec

from schemas.durations import PositiveDuration
from schemas.objects.common import Name, Part, Port

Threshold = Annotated[int, msgspec.Meta(ge=1, le=1000)]
CheckPort = Annotated[
    Name | Port, msgspec.Meta(description="the name of one of the service's ports, or a number on the app's host")
]
# RFC 9112, 3.2: nothing in a request's target may end its line, or split it.
CheckPath = Annotated[
    str, msgspec.Meta(pattern=r"^/[!-~]{0,1023}\Z", description="a path such as /healthz, with a query where needed")
]
CheckHost = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9.:_\[\]-]{1,255}\Z", description="a host name, for the header Host")
]


class HttpCheck(Part, frozen=True, kw_only=True):
    path: CheckPath = "/"
    hostname: CheckHost | None = None
    """``Host``; where the app listens where absent."""
    expected_statuses: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=100, le=599)], ...], msgspec.Meta(min_length=1)
    ] = (200,)


class GrpcCheck(Part, frozen=True, kw_only=True):
    service: Annotated[str, msgspec.Meta(max_length=255)] = ""
    """Of `grpc.health.v1.Health/Check`; empty: the server as a whole."""


class AppHealthCheck(Part, frozen=True, kw_only=True):
    type: Literal["HTTP", "TCP", "GRPC"]
    port: CheckPort | None = None
    """The service's first port where absent."""
    http: HttpCheck | None = None
    grpc: GrpcCheck | None = None
    interval: PositiveDuration = "3s"
    timeout: PositiveDuration = "1s"
    unhealthy_threshold: Threshold = 3
    """So many failures in a row, and the instance leaves discovery."""
    healthy_threshold: Threshold = 1
    """So many successes in a row, and it comes (back)."""
