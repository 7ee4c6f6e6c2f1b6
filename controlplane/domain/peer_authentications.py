"""What a `PeerAuthentication` must hold beyond its own schema: its ports are there, and one rank of one service is said
once. Pure."""

from collections.abc import Iterator

from authz.peers import peer_faults
from controlplane.domain.known import After
from controlplane.domain.references import references
from schemas.checking import json_path
from schemas.errors import Problem
from schemas.names import ObjectRef
from schemas.objects import PeerAuthentication, Service

_PORTS = "$.spec.portLevelMtls"


def peer_authentication_problems(value: PeerAuthentication, after: After, subject: str) -> Iterator[Problem]:
    for fault in peer_faults(value.spec):
        yield Problem(subject, fault.message, json_path(fault.path), fault.remedy)
    targets = [reference.target for reference in references(value)]
    for index, target in enumerate(targets):
        if target in targets[:index]:
            yield Problem(subject, f"names {target} twice", f"$.spec.targetRefs[{index}]", "name it once")
    yield from _port_problems(value, targets, after, subject)
    yield from _rivals(value, targets, after, subject)


def _port_problems(
    value: PeerAuthentication, targets: list[ObjectRef], after: After, subject: str
) -> Iterator[Problem]:
    services = [one for one in map(after.get, targets) if isinstance(one, Service)]
    if not services or len(services) != len(targets):
        return  # a broken reference is said elsewhere
    known = {str(port.port) for service in services for port in service.spec.ports}
    for number in value.spec.port_level_mtls:
        if number not in known:
            remedy = f"their ports are {', '.join(sorted(known, key=int))}; it goes by the Service's, not the app's"
            yield Problem(subject, f"no targeted service has port {number}", f"{_PORTS}[{number!r}]", remedy)


def _rivals(value: PeerAuthentication, targets: list[ObjectRef], after: After, subject: str) -> Iterator[Problem]:
    """Of two for one service, or for one whole namespace, people would read one and forget the other."""
    for other in after:
        if not isinstance(other, PeerAuthentication) or other.ref == value.ref:
            continue
        if other.metadata.namespace != value.metadata.namespace:
            continue
        if value.spec.target_refs is None and other.spec.target_refs is None:
            remedy = "keep one of the two, or name services in targetRefs"
            yield Problem(subject, f"{other.ref} already speaks for all of the namespace", "$.spec", remedy)
        taken = {reference.target for reference in references(other)}
        for index, target in enumerate(targets):
            if target in taken:
                path = f"$.spec.targetRefs[{index}]"
                yield Problem(subject, f"{other.ref} already speaks for {target}", path, "merge the two")
