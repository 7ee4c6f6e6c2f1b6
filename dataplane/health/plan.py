"""What to ask, and how often: from the Service, or from the sidecar's own settings where those say it. Pure."""

from dataclasses import dataclass, field
from typing import Literal

from dataplane.compile.workload import Workload
from dataplane.health.settings import HealthCheckSettings
from schemas.durations import milliseconds
from schemas.objects import Service
from schemas.objects.health import AppHealthCheck, CheckPort, GrpcCheck, HttpCheck


@dataclass(frozen=True, slots=True)
class Plan:
    """Times in seconds."""

    type: Literal["HTTP", "TCP", "GRPC", "Command"]
    address: str
    port: int
    """0 for a command."""
    interval: float
    timeout: float
    unhealthy_threshold: int
    healthy_threshold: int
    http: HttpCheck = field(default_factory=HttpCheck)
    grpc: GrpcCheck = field(default_factory=GrpcCheck)
    command: tuple[str, ...] = ()


def plan_of(service: Service | None, settings: HealthCheckSettings | None, workload: Workload) -> Plan | str | None:
    """None: nothing is checked. A text: why what is asked for can't be done."""
    asked: AppHealthCheck | HealthCheckSettings | None = settings
    if asked is None:
        asked = service.spec.health_check if service is not None else None
    if asked is None:
        return None
    command = asked.command or () if isinstance(asked, HealthCheckSettings) else ()
    number = 0 if asked.type == "Command" else _number(asked.port, service, workload)
    if number is None:
        return f"the health check names port {asked.port!r}, which the service does not have"
    return Plan(
        type=asked.type,
        address=workload.app_address,
        port=number,
        interval=milliseconds(asked.interval) / 1000,
        timeout=milliseconds(asked.timeout) / 1000,
        unhealthy_threshold=asked.unhealthy_threshold,
        healthy_threshold=asked.healthy_threshold,
        http=asked.http or HttpCheck(),
        grpc=asked.grpc or GrpcCheck(),
        command=command,
    )


def _number(port: CheckPort | None, service: Service | None, workload: Workload) -> int | None:
    """Where the app itself listens."""
    if isinstance(port, int):
        return port
    if service is None:
        return None
    found = service.spec.ports[0] if port is None else service.port_named(port)
    return None if found is None else workload.app_ports.get(found.name, found.app_port)
