"""The names by which a workload's app calls services at its sidecar's proxy port. Pure."""

from schemas.names import ServiceRef
from schemas.objects import ExternalService, Service
from schemas.objects.service import ServicePort

HOST_SUFFIX = "mesh"


def host_names(service: ServiceRef, caller: ServiceRef) -> list[str]:
    """The names by which `caller` may call `service`; the short one within a namespace only."""
    names = [f"{service}.{HOST_SUFFIX}", str(service)]
    return [*names, service.name] if service.namespace == caller.namespace else names


def default_port(service: Service | ExternalService) -> ServicePort | None:
    """The port that a URL without a port means: 80 where the service has it, else its first HTTP port."""
    http = [port for port in service.spec.ports if port.protocol != "tcp"]
    return next((port for port in http if port.port == 80), http[0] if http else None)
