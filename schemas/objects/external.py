"""`ExternalService`: what services of the mesh call, and that is not of the mesh: where it is, and how to know it.

Callers name it as they name a service: `<name>.<namespace>.mesh`, or by a bound port. A `Service` of the same name and
namespace can't be beside it.
"""

from typing import Annotated, Literal

import msgspec

from schemas.objects.authorization import Identity
from schemas.objects.common import Name, Object, Part, Port
from schemas.objects.service import ServicePort, VirtualAddress


class ExternalEndpoint(Part, frozen=True, kw_only=True):
    address: Annotated[str, msgspec.Meta(max_length=64)]
    """IPv4 or IPv6."""
    ports: dict[Name, Port] | None = None
    """By the port's name; a port that is not here is reached by its own number."""


class ExternalTls(Part, frozen=True, kw_only=True):
    """How the connection is secured (Istio: ClientTLSSettings)."""

    mode: Literal["MESH"]
    """MESH: mutual TLS with the caller's own SVID; the server's is verified by the bundle of its trust domain."""
    spiffe_id: Identity
    """Exactly that server; any other is refused."""


class ExternalServiceSpec(Part, frozen=True, kw_only=True):
    ports: Annotated[tuple[ServicePort, ...], msgspec.Meta(min_length=1, max_length=64)]
    """What callers name, and the protocol; `targetPort` says nothing here."""
    endpoints: Annotated[tuple[ExternalEndpoint, ...], msgspec.Meta(min_length=1, max_length=256)]
    tls: ExternalTls
    virtual_address: VirtualAddress | None = None
    """As of a Service."""


class ExternalService(Object, frozen=True, kw_only=True, tag="ExternalService"):
    spec: ExternalServiceSpec
