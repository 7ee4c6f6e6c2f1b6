"""PeerAuthentication ▸ whether a port takes plaintext beside mTLS. Pure.

The narrowest object that says anything of the port decides, as Istio has it: the service's for that port, the
service's, the namespace's, the mesh's; what nobody says is STRICT. Where two of one rank differ, STRICT goes first.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from schemas.checking import Fault
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef
from schemas.objects import PeerAuthentication
from schemas.objects.peer_authentication import Mode, PeerAuthenticationSpec

_OF_PORT, _OF_SERVICE, _OF_NAMESPACE, _OF_MESH = range(4)


@dataclass(frozen=True, slots=True)
class Decided:
    """`by`: the object that says so; None: nobody says anything."""

    mode: Mode
    by: ObjectRef | None = None

    @property
    def permissive(self) -> bool:
        return self.mode == "PERMISSIVE"


STRICT = Decided("STRICT")


def mode_of(
    service: ServiceRef,
    port: int | None,
    objects: Iterable[PeerAuthentication],
    unreadable: Collection[ObjectRef] = (),
) -> Decided:
    """port: of the Service; None: one that nothing is said of apart. objects: may be those of other services too.

    unreadable: objects that nobody could read. One may be STRICT of whatever it could be for.
    """
    said: list[tuple[int, bool, Decided]] = []
    for one in objects:
        said += ((rank, mode != "STRICT", Decided(mode, one.ref)) for rank, mode in _says(one, service, port))
    for ref in unreadable:
        if ref.kind == PeerAuthentication.__name__ and ref.namespace in (service.namespace, SYSTEM_NAMESPACE):
            rank = _OF_PORT if ref.namespace == service.namespace else _OF_MESH
            said.append((rank, False, Decided("STRICT", ref)))
    return min(said, key=lambda one: (*one[:2], one[2].by), default=(0, False, STRICT))[2]


def _says(one: PeerAuthentication, service: ServiceRef, port: int | None) -> Iterator[tuple[int, Mode]]:
    namespace, spec = one.metadata.namespace, one.spec
    if spec.target_refs is None:
        if spec.mtls is not None and concerns(one, service):
            yield _OF_MESH if namespace == SYSTEM_NAMESPACE else _OF_NAMESPACE, spec.mtls.mode
    elif concerns(one, service):
        if port is not None and (of_port := spec.port_level_mtls.get(str(port))) is not None:
            yield _OF_PORT, of_port.mode
        if spec.mtls is not None:
            yield _OF_SERVICE, spec.mtls.mode


def concerns(one: PeerAuthentication, service: ServiceRef) -> bool:
    """Whether it is for the service at all."""
    namespace, targets = one.metadata.namespace, one.spec.target_refs
    if targets is None:
        return namespace in (service.namespace, SYSTEM_NAMESPACE)
    return namespace == service.namespace and any(target.name == service.name for target in targets)


def ports_named(service: ServiceRef, objects: Iterable[PeerAuthentication]) -> set[int]:
    """The ports of which something is said apart."""
    return {
        int(port)
        for one in objects
        if one.spec.target_refs is not None and concerns(one, service)
        for port in one.spec.port_level_mtls
    }


def peer_faults(spec: PeerAuthenticationSpec) -> Iterator[Fault]:
    """Paths begin at the object."""
    if spec.port_level_mtls and spec.target_refs is None:
        remedy = "name the services in targetRefs"
        yield Fault(("spec", "portLevelMtls"), "ports are those of services, and none is named", remedy)
