"""Whose name it is, and what is true of it: the mesh's names as a zone of DNS. Pure.

    <service>.<namespace>.mesh                A, AAAA
    <service>.mesh, <service>                 the same, for a service of the app's own namespace
    _<port name>._tcp.<service>.<namespace>.mesh   SRV

That a name has no records of the type asked for (NODATA) is told apart from that there is no such name (NXDOMAIN):
resolvers take NXDOMAIN for everything below the name as well (RFC 8020).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.names import NAME_PATTERN, ServiceRef

ZONE = "mesh"
_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class Named:
    """What the mesh knows of a service, as far as names go."""

    ipv4: str | None
    ipv6: str | None
    ports: Mapping[str, int]
    """By name."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Somebody else's name."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """A name of the zone that no service can have. exists: something is, or may be, below it."""

    exists: bool


@dataclass(frozen=True, slots=True)
class Apex:
    """The zone itself."""


@dataclass(frozen=True, slots=True)
class Host:
    """The name of a service, if there is one. `bare`: without the zone, so without a service it is a foreign name.
    `exists`: the name is there without the service as well, for what may be below it."""

    service: ServiceRef
    bare: bool = False
    exists: bool = False


@dataclass(frozen=True, slots=True)
class Port:
    """``_<name>._tcp`` of a service; name None: ``_tcp``, which has no records, and is there if the service is."""

    service: ServiceRef
    name: str | None


Asked = Foreign | Nothing | Apex | Host | Port


def asked(labels: Sequence[str], namespace: str) -> Asked:
    """labels: of an absolute name without the root, in lower case. namespace: the app's own."""
    match tuple(labels):
        case (only,) if only != ZONE and _NAME.fullmatch(only):
            return Host(ServiceRef(namespace, only), bare=True)
        case (*rest, last) if last == ZONE:
            return _of_zone(tuple(rest), namespace)
    return Foreign()


def _of_zone(labels: tuple[str, ...], namespace: str) -> Asked:
    match labels:
        case ():
            return Apex()
        case (port, "_tcp", *host) if port.startswith("_") and (service := _service(host, namespace)):
            return Port(service, port[1:])
        case ("_tcp", *host) if service := _service(host, namespace):
            return Port(service, None)
        case host if service := _service(host, namespace):
            # orders.mesh is what all names of a namespace `orders` are below.
            return Host(service, exists=len(host) == 1)
    return Nothing(exists=False)


def _service(labels: Sequence[str], namespace: str) -> ServiceRef | None:
    if len(labels) in (1, 2) and all(map(_NAME.fullmatch, labels)):
        return ServiceRef(labels[1] if len(labels) == 2 else namespace, labels[0])
    return None
