"""`Service`: what listens where, in which protocol, and on whom it depends."""

from typing import Annotated, Literal

import msgspec

from schemas.names import NAME_EXPECTED, NAME_PATTERN
from schemas.objects.common import Name, Object, Part, Port
from schemas.objects.health import AppHealthCheck

Protocol = Literal["http", "http2", "grpc", "tcp"]


class ServicePort(Part, frozen=True, kw_only=True):
    name: Name
    port: Port
    """What callers name (``orders.shop:8080``), and where the sidecar listens unless the instance says otherwise."""
    protocol: Protocol
    target_port: Port | None = None
    """Where the app listens on its own host; `port` where absent."""
    identity_header: bool = True
    """Whether the app is told who calls, in ``x-forwarded-client-cert``. False, for ``http`` and ``http2``: it is not,
    and where no rule needs more of a request than the caller's identity, its sidecar does not read HTTP."""

    @property
    def app_port(self) -> int:
        return self.target_port or self.port

    @property
    def passes_bytes(self) -> bool:
        """Whether callers may speak to the app as if its sidecar were not there, but for mTLS."""
        return not self.identity_header and self.protocol in ("http", "http2")


class Dependency(Part, frozen=True, kw_only=True):
    """A service that this one calls. Name ``*``: every service of the mesh, and every external one."""

    kind: Literal["Service", "ExternalService"] = "Service"
    name: Annotated[
        str,
        msgspec.Meta(pattern=rf"^(\*|{NAME_PATTERN})\Z", description=f"'*', or a name of {NAME_EXPECTED}"),
    ]
    namespace: Name | None = None
    """The depending service's own where absent."""
    port: Port | None = None
    """Which of its ports `bindPort` leads to; needed where it has several."""
    bind_port: Port | None = None
    """A port on the caller's own host that leads there, for clients that know no proxy."""


class VirtualAddress(Part, frozen=True, kw_only=True):
    """What the service's names stand for, of the ranges that `Mesh` has for it: the same number in both."""

    ipv4: Annotated[str, msgspec.Meta(max_length=15)]
    ipv6: Annotated[str, msgspec.Meta(max_length=39)]


class ServiceSpec(Part, frozen=True, kw_only=True):
    ports: Annotated[tuple[ServicePort, ...], msgspec.Meta(min_length=1, max_length=64)]
    dependencies: tuple[Dependency, ...] | None = None
    """Absent: whatever the app turns out to call; its sidecar learns each on the first request."""
    health_check: AppHealthCheck | None = None
    """How each sidecar checks its own app; an instance that fails leaves discovery. Absent: it is taken to be well."""
    virtual_address: VirtualAddress | None = None
    """A replica's to say, once: what is written without it keeps it."""


class Service(Object, frozen=True, kw_only=True, tag="Service"):
    spec: ServiceSpec

    def port_named(self, name: str) -> ServicePort | None:
        return next((port for port in self.spec.ports if port.name == name), None)
