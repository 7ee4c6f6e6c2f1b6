"""What must be read to decide on a change set: O(change), but where something that others may name goes away. Pure."""

from collections.abc import Iterable, Sequence

from controlplane.domain.change import Change
from controlplane.domain.federation import MESH_REF, rival
from controlplane.domain.known import Known
from controlplane.domain.references import references
from schemas.keys import Keyspace
from schemas.names import SYSTEM_NAMESPACE, ObjectRef
from schemas.objects import ExternalService, Gateway, Mesh, PeerAuthentication, Service, TrustBundle


def _of_peers(keyspace: Keyspace, ref: ObjectRef) -> tuple[bytes, ...]:
    """Two PeerAuthentications must not speak for one service; and which ports turn strict depends on all that may speak
    for them."""
    kind = PeerAuthentication.__name__
    if ref.kind != kind:
        return ()
    if ref.namespace == SYSTEM_NAMESPACE:
        return (keyspace.config_of_kind(kind),)
    return keyspace.config_of_kind(kind, ref.namespace), keyspace.config_of_kind(kind, SYSTEM_NAMESPACE)


_LOOKED_AT = frozenset({"BackendTrafficPolicy", "ExternalService", "Gateway", "Telemetry", "TrustBundle"})


def objects_needed(changes: Sequence[Change]) -> frozenset[ObjectRef]:
    """What is written, what that names, and what it must not be beside."""
    named = (reference.target for change in changes if change.put for reference in references(change.put))
    puts = [change.put for change in changes if change.put]
    rivals = (rival(put) for put in puts if isinstance(put, Service | ExternalService))
    mesh = [MESH_REF] if any(isinstance(put, TrustBundle | Service | ExternalService) for put in puts) else []
    return frozenset((*(change.ref for change in changes), *named, *rivals, *mesh))


def prefixes_needed(keyspace: Keyspace, changes: Sequence[Change], known: Known) -> frozenset[bytes]:
    """What must be listed, given the objects that `objects_needed` asked for."""
    # Ranges may change while nobody has an address of them.
    moved = any(moves_ranges(change, known) for change in changes)
    blocks = frozenset({keyspace.address_blocks()} if moved else ())
    if any(narrows(change, known) for change in changes):
        return frozenset({keyspace.config()}) | blocks  # a dependency may name a service from any namespace
    # Two policies must not speak for one service, nor two Telemetry objects in one matter, so the others of the
    # namespace are looked at; nor two bundles for one trust domain, two external services
    # for one host name, two gateways in one service for one port.
    peers = (prefix for change in changes for prefix in _of_peers(keyspace, change.ref))
    return blocks.union(peers) | frozenset(
        keyspace.config_of_kind(change.ref.kind, change.ref.namespace)
        for change in changes
        if change.put and change.ref.kind in _LOOKED_AT
    )


def concerns_peers(changes: Iterable[Change]) -> bool:
    """Whether any is of a PeerAuthentication. What such a change does depends on objects that it does not write, and on
    their not being deleted meanwhile, which no list can tell: so these changes go one after the other."""
    return any(change.ref.kind == PeerAuthentication.__name__ for change in changes)


def moves_ranges(change: Change, known: Known) -> bool:
    """Whether the Mesh object gets other ranges of virtual addresses than it had."""
    stored = known.objects.get(change.ref)
    before, put = stored.object if stored else None, change.put
    return (
        isinstance(put, Mesh)
        and isinstance(before, Mesh)
        and put.spec.virtual_addresses != before.spec.virtual_addresses
    )


def narrows(change: Change, known: Known) -> bool:
    """Whether what others say of this service may no longer hold: it goes, a port goes, or one becomes several."""
    stored = known.objects.get(change.ref)
    if change.ref.kind == Gateway.__name__ and stored is not None:
        was, will_be = stored.object, change.put
        if not isinstance(was, Gateway) or not isinstance(will_be, Gateway):
            return True
        return bool(set(was.spec.listeners) - set(will_be.spec.listeners))
    if change.ref.kind not in ("Service", "ExternalService") or stored is None:
        return False
    put, before_it = change.put, stored.object
    if not isinstance(put, Service | ExternalService) or not isinstance(before_it, Service | ExternalService):
        return True
    before = {(port.port, port.name, port.protocol) for port in before_it.spec.ports}
    after = {(port.port, port.name, port.protocol) for port in put.spec.ports}
    return bool(before - after) or (len(before) == 1 and len(after) > 1)
