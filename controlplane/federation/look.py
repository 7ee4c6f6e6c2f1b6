"""[edge] Everything that a decision about federated bundles rests upon, as etcd has it."""

from dataclasses import dataclass, field
from typing import TypeVar

from controlplane.federation.decide import Domain
from controlplane.store.etcd import Store
from schemas import codec
from schemas.errors import Corrupt, Unavailable
from schemas.keys import TrustRef
from schemas.names import SYSTEM_NAMESPACE, ObjectRef
from schemas.objects import Mesh, federation
from schemas.records import FederationStatus, TrustBundle
from trio_etcd import KeyValue

T = TypeVar("T")

MESH_REF = ObjectRef("Mesh", SYSTEM_NAMESPACE, "mesh")


@dataclass(frozen=True, slots=True)
class FederationLook:
    """`domains`: those that an object names, or that something is left of. `own`: the mesh's own bundle."""

    own: TrustBundle
    domains: dict[str, Domain]
    objects_revision: int
    raw: dict[bytes, KeyValue] = field(repr=False)

    def mod_revision(self, key: bytes) -> int:
        return self.raw[key].mod_revision if key in self.raw else 0

    def authorities(self, trust_domain: str) -> tuple[bytes, ...]:
        """By which a server of that trust domain is verified: of our own, or of one that an object names."""
        if trust_domain == self.own.trust_domain:
            return self.own.x509_authorities
        domain = self.domains.get(trust_domain)
        if domain is None or not domain.objects or domain.bundle is None:
            return ()
        return domain.bundle.x509_authorities


async def look(store: Store) -> FederationLook:
    """Raises Unavailable (before `meshadm init` too), Corrupt for the mesh's own values."""
    keyspace = store.keyspace
    objects = await store.list(keyspace.config_of_kind("TrustBundle"))
    bundles, statuses = await store.list(keyspace.trust()), await store.list(keyspace.federation())
    mesh_key = keyspace.object(MESH_REF)
    mesh_kv = await store.get(mesh_key)
    raw = {kv.key: kv for listing in (objects, bundles, statuses) for kv in listing.kvs}
    if mesh_kv is None:
        raise Unavailable("the mesh is not initialised: run `meshadm init`")
    own = codec.decode(mesh_kv.value, Mesh, mesh_key.decode()).spec.trust_domain
    own_kv = raw.get(keyspace.trust_bundle(own))
    if own_kv is None:
        raise Unavailable(f"there is no trust bundle of {own} in etcd")

    named: dict[str, list[tuple[federation.TrustBundle, int]]] = {}
    unreadable = ""
    for kv in objects.kvs:
        try:
            value = codec.decode(kv.value, federation.TrustBundle, kv.key.decode(errors="replace"))
        except Corrupt as error:
            unreadable = str(error)
        else:
            named.setdefault(value.spec.trust_domain, []).append((value, kv.mod_revision))
    held = {ref.trust_domain for kv in bundles.kvs if isinstance(ref := keyspace.parse(kv.key), TrustRef)}
    prefix = keyspace.federation()
    said = {kv.key.removeprefix(prefix).decode("ascii", "replace") for kv in statuses.kvs}
    domains = {
        name: Domain(
            name,
            tuple(named.get(name, ())),
            _read(raw.get(keyspace.trust_bundle(name)), TrustBundle),
            _read(raw.get(keyspace.federation_status(name)), FederationStatus),
            unreadable,
        )
        for name in sorted((named.keys() | held | said) - {own})
    }
    own_bundle = codec.decode(own_kv.value, TrustBundle, own_kv.key.decode())
    return FederationLook(own_bundle, domains, objects.revision, raw)


def _read(kv: KeyValue | None, type_: type[T]) -> T | None:
    """What can't be read is as if it were not there: it is written anew."""
    if kv is None:
        return None
    try:
        return codec.decode(kv.value, type_, kv.key.decode(errors="replace"))
    except Corrupt:
        return None
