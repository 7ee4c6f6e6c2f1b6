"""[edge] Everything that a decision about CA keys rests upon, as etcd has it."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from controlplane.ca.facts import Facts, Replica, Sidecar, Silent, active
from controlplane.ca.gates import is_forgettable
from controlplane.ca.records import issuers, starts
from controlplane.domain.registration import service_of
from controlplane.store.etcd import Store
from schemas import codec
from schemas.errors import Corrupt, Unavailable
from schemas.keys import EndpointRef, StatusRef
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef
from schemas.objects import Mesh
from schemas.records import (
    Endpoint,
    ReplicaStatus,
    Revocation,
    Rotation,
    SealedKey,
    SidecarStatus,
    SilentSidecar,
    TrustBundle,
)
from trio_etcd import KeyValue, Listing

MESH_REF = ObjectRef("Mesh", SYSTEM_NAMESPACE, "mesh")
# Other trust domains poll our bundle once a refresh hint; SPIFFE Federation 5 asks for 3 to 5 of them between a key's
# publication and its use.
HINTS_AHEAD = 3


@dataclass(frozen=True, slots=True)
class Look:
    """The CA at one moment. `revision`: nothing under ``control/ca/`` that was written later is known."""

    facts: Facts
    trust_domain: str
    bundle: TrustBundle
    rotation: Rotation | None
    replicas: tuple[ReplicaStatus, ...]
    mesh: Mesh
    revision: int
    statuses_revision: int
    revocations_revision: int
    raw: dict[bytes, KeyValue]
    """Of every CA key, the bundle and the rotation: what was read, for guards and for what a newer writer added."""
    forgettable: tuple[KeyValue, ...]
    """Records of silent sidecars that say nothing any more."""

    @property
    def short_bound(self) -> SealedKey | None:
        """The active issuing key, where its leaves may not live as long as the mesh asks for."""
        key = active(self.facts.keys, "mesh-issuing")
        return key if key is not None and key.leaf_seconds < self.mesh.spec.svid_ttl_seconds else None

    def mod_revision(self, key: bytes) -> int:
        return self.raw[key].mod_revision if key in self.raw else 0


async def look(store: Store, now: float) -> Look:
    """Raises Unavailable (before `meshadm init` too), Corrupt."""
    keyspace = store.keyspace
    # Keys before evidence: what is said later of an older state can only hold a step back.
    ca = await store.list(keyspace.ca())
    mesh_key, rotation_key = keyspace.object(MESH_REF), keyspace.rotation()
    found = await store.get_many((mesh_key, rotation_key))
    if mesh_key not in found:
        raise Unavailable("the mesh is not initialised: run `meshadm init`")
    mesh = codec.decode(found[mesh_key].value, Mesh, mesh_key.decode())
    bundle_key = keyspace.trust_bundle(mesh.spec.trust_domain)
    bundle_kv = await store.get(bundle_key)
    if bundle_kv is None:
        raise Unavailable(f"there is no trust bundle of {mesh.spec.trust_domain} in etcd")
    bundle = codec.decode(bundle_kv.value, TrustBundle, bundle_key.decode())
    statuses, replicas = await store.list(keyspace.statuses()), await store.list(keyspace.replicas())
    # After the statuses: whose status is gone by now has been remembered before that.
    silences = await store.list(keyspace.silent())
    revocations = await store.list(keyspace.revocations())
    follows = bool(await store.list_keys(keyspace.config_of_kind("TrustBundle")))
    keys = {key.id: key for key in (codec.decode(kv.value, SealedKey, kv.key.decode()) for kv in ca.kvs)}
    rotation = (
        codec.decode(found[rotation_key].value, Rotation, rotation_key.decode()) if rotation_key in found else None
    )
    said = _replicas(replicas)
    federated = follows or any(one.serves_bundle for one in said)
    revoked = _revoked(revocations)
    heard = _sidecars(store, statuses, revoked)
    facts = Facts(
        keys=keys,
        issuers=issuers(keys),
        starts=starts(keys),
        now=int(now),
        sidecars=heard,
        replicas=tuple(
            Replica(one.name, one.seen, one.trust_sequence, one.issuing_key_id, one.issuing_since) for one in said
        ),
        publish_ahead=HINTS_AHEAD * bundle.refresh_hint_seconds if federated else 0,
    )
    silent, forgettable = _silent(store, silences, facts, revoked, await _addresses(store, silences, facts))
    facts = replace(facts, silent=silent)
    raw = {kv.key: kv for kv in (*ca.kvs, bundle_kv, *found.values())}
    return Look(
        facts, mesh.spec.trust_domain, bundle, rotation, said, mesh, ca.revision, statuses.revision,
        revocations.revision, raw, forgettable,
    )  # fmt: skip


def _revoked(listing: Listing) -> set[ServiceRef]:
    """Of whom it is certain."""
    records: list[Revocation] = []
    for kv in listing.kvs:
        try:
            records.append(codec.decode(kv.value, Revocation, kv.key.decode("utf-8", "backslashreplace")))
        except Corrupt:
            continue
    return {ServiceRef(one.namespace, one.service) for one in records if one.revoked}


def _sidecars(store: Store, listing: Listing, revoked: Collection[ServiceRef]) -> tuple[Sidecar, ...]:
    """One whose words can't be understood is there, and has acked nothing.

    Who is revoked does not count: nobody hears what it says, so that a thief could hold back every rotation.
    """
    result: list[Sidecar] = []
    for kv in listing.kvs:
        ref = store.keyspace.parse(kv.key)
        if not isinstance(ref, StatusRef) or service_of(ref) in revoked:
            continue
        name = f"{ref.namespace}/{ref.sidecar}"
        try:
            status = codec.decode(kv.value, SidecarStatus, str(ref))
        except Corrupt:
            result.append(Sidecar(name, 0, ""))
        else:
            result.append(Sidecar(name, status.trust_sequence, status.svid_issuer))
    return tuple(result)


def _silent(
    store: Store,
    listing: Listing,
    facts: Facts,
    revoked: Collection[ServiceRef],
    addresses: Mapping[StatusRef, str],
) -> tuple[tuple[Silent, ...], tuple[KeyValue, ...]]:
    """Who is silent; and the records that can go. Who speaks again from where it was, speaks for itself; a namesake
    elsewhere is another host. addresses: of the namesakes in discovery."""
    silent: list[Silent] = []
    forgettable: list[KeyValue] = []
    for kv in listing.kvs:
        ref = store.keyspace.parse_silent(kv.key)
        if ref is None:
            continue
        name = f"{ref.namespace}/{ref.sidecar}"
        try:
            record = codec.decode(kv.value, SilentSidecar, str(ref))
        except Corrupt:
            one, is_back = Silent(name, 0, None), False
        else:
            one = Silent(name, record.trust_sequence, record.until)
            is_back = bool(record.address) and addresses.get(ref) == record.address
        if is_forgettable(one, facts):
            forgettable.append(kv)
        elif not is_back and service_of(ref) not in revoked:
            silent.append(one)
    return tuple(silent), tuple(forgettable)


async def _addresses(store: Store, listing: Listing, facts: Facts) -> dict[StatusRef, str]:
    """Of whom there are records, where those are in discovery that speak under their names."""
    heard = {one.name for one in facts.sidecars}
    keys: dict[bytes, StatusRef] = {}
    for kv in listing.kvs:
        ref = store.keyspace.parse_silent(kv.key)
        if ref is not None and f"{ref.namespace}/{ref.sidecar}" in heard:
            keys[store.keyspace.endpoint(EndpointRef(service_of(ref), ref.sidecar.partition(".")[2]))] = ref
    found: dict[StatusRef, str] = {}
    for key, kv in (await store.get_many(keys)).items():
        with suppress(Corrupt):
            found[keys[key]] = codec.decode(kv.value, Endpoint, str(keys[key])).address
    return found


def _replicas(listing: Listing) -> tuple[ReplicaStatus, ...]:
    result: list[ReplicaStatus] = []
    for kv in listing.kvs:
        try:
            result.append(codec.decode(kv.value, ReplicaStatus, kv.key.decode()))
        except Corrupt:
            continue  # written by a newer version; its next word may be clearer, and its sidecars speak for themselves
    return tuple(result)
