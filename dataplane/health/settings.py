"""A sidecar's own settings of its health check."""

from typing import Annotated, Literal

import msgspec

from schemas.durations import PositiveDuration
from schemas.objects.health import CheckPort, GrpcCheck, HttpCheck, Threshold
from schemas.settings import Settings


class HealthCheckSettings(Settings, frozen=True, kw_only=True):
    """How to ask the app whether it is well, in place of what the Service says. See `AppHealthCheck`.

    A command can be named here only: who may change objects must not be able to run anything on the hosts.
    """

    type: Literal["HTTP", "TCP", "GRPC", "Command"]
    port: CheckPort | None = None
    http: HttpCheck | None = None
    grpc: GrpcCheck | None = None
    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] | None = None
    """Program and arguments; exit status 0 is well. It runs as the sidecar's user."""
    interval: PositiveDuration = "3s"
    timeout: PositiveDuration = "1s"
    unhealthy_threshold: Threshold = 3
    healthy_threshold: Threshold = 1
