"""[edge] mesh.v1.Attestors: whose certificates hosts may join with, and as what; and where they join."""

from collections.abc import Iterable

from cryptography import x509

from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.api.issuing import Issuing
from controlplane.api.request_id import request_of
from controlplane.ca import host_rules
from controlplane.domain.floors import authority_left, next_serial
from controlplane.floors import Floors
from controlplane.store.etcd import Store
from controlplane.store.ops import Delete, KeyGuard, Put
from controlplane.store.requests import RequestWriter
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Conflict, Corrupt, InvalidInput, NotFound, Problem
from schemas.names import check_name
from schemas.records import HostAuthority, HostRule
from spiffe import possession
from spiffe.x509 import UNREADABLE
from trio_etcd import KeyValue

MAX_AUTHORITIES = 10  # of one record: an old and a new one while a CA is being replaced, and room to spare


class AttestorService:
    def __init__(self, store: Store, writer: RequestWriter, issuing: Issuing, floors: Floors) -> None:
        self._store = store
        self._floors = floors
        self._writer = writer
        self._issuing = issuing

    def rpcs(self) -> dict[str, Rpc]:
        return {
            "/mesh.v1.Attestors/List": Rpc(pb.ListAttestorsRequest, unary=self.list),
            "/mesh.v1.Attestors/Put": Rpc(pb.PutAttestorRequest, unary=self.put),
            "/mesh.v1.Attestors/Delete": Rpc(pb.DeleteAttestorRequest, unary=self.delete),
            "/mesh.v1.Attestors/Where": Rpc(pb.WhereRequest, unary=self.where),
        }

    async def list(self, message: pb.ListAttestorsRequest, call: Call) -> pb.ListAttestorsReply:
        listing = await self._store.list(self._store.keyspace.attestors())
        counting = [kv.value for kv in listing.kvs if self._counts(kv)]
        return pb.ListAttestorsReply(host_authorities=counting, revision=listing.revision)

    def _counts(self, kv: KeyValue) -> bool:
        """Whether it was not taken away before etcd was put back. One that can't be read is shown as it is."""
        try:
            stored = codec.decode(kv.value, HostAuthority, kv.key.decode("utf-8", "backslashreplace"))
        except Corrupt:
            return True
        return authority_left(stored, self._floors.authority(stored.name)) is not None

    async def put(self, message: pb.PutAttestorRequest, call: Call) -> pb.PutAttestorReply:
        """In place of the one of that name, if there is one. Joins from then on go by it."""
        request = request_of(message, call.caller)
        name = check_name(message.name, "name of a host authority")
        call.tell(request=request.id, authority=name)
        rules = host_rules.check_rules(
            (HostRule(match=one.match, selector=one.selector) for one in message.rules), f"host authority {name}"
        )
        key = self._store.keyspace.attestor(name)
        kv = await self._store.get(key)
        known = self._floors.authority(name)
        now = self._issuing.now()
        record = HostAuthority(
            name=name,
            x509_authorities=_checked(name, message.x509_authorities),
            rules=rules,
            changed=int(now),
            changed_by=str(call.caller),
            serial=next_serial(now, known.serial if known is not None else 0, _serial(kv)),
        )
        call.tell(rules=", ".join(f"{rule.match}={rule.selector}" for rule in rules))
        revision = await self._writer.write(
            request,
            (KeyGuard(key, kv.mod_revision if kv else 0), *call.caller.guards),
            (Put(key, codec.encode(record)),),
            seconds=call.seconds,
        )
        if revision is None:
            raise Conflict(f"somebody else has just changed host authority {name}; nothing was written: look again")
        call.tell(revision=revision)
        return pb.PutAttestorReply(revision=revision)

    async def delete(self, message: pb.DeleteAttestorRequest, call: Call) -> pb.DeleteAttestorReply:
        """Nobody joins by it any more; who has joined renews."""
        request = request_of(message, call.caller)
        name = check_name(message.name, "name of a host authority")
        call.tell(request=request.id, authority=name)
        revision = await self._writer.recorded(request)
        if revision is None:
            key = self._store.keyspace.attestor(name)
            kv = await self._store.get(key)
            if kv is None:
                raise NotFound(f"there is no host authority {name}")
            guards = (KeyGuard(key, kv.mod_revision), *call.caller.guards)
            revision = await self._writer.write(request, guards, (Delete(key),), seconds=call.seconds)
        if revision is None:
            raise Conflict(f"somebody else has just changed host authority {name}; nothing was deleted: look again")
        call.tell(revision=revision)
        return pb.DeleteAttestorReply(revision=revision)

    async def where(self, message: pb.WhereRequest, call: Call) -> pb.WhereReply:
        in_force, told = self._issuing.current(), self._issuing.told
        return pb.WhereReply(
            trust_bundle=codec.encode(in_force.bundle),
            join_endpoints=told.join_endpoints,
            api_endpoints=told.api_endpoints,
            trust_domain=in_force.authority.trust_domain,
        )


def _serial(kv: KeyValue | None) -> int:
    """Of a record that is to be replaced; of one that can't be read, 0."""
    try:
        return 0 if kv is None else codec.decode(kv.value, HostAuthority, "host authority").serial
    except Corrupt:
        return 0


def _checked(name: str, authorities: Iterable[bytes]) -> tuple[bytes, ...]:
    """Raises InvalidInput."""
    different = tuple(sorted(set(authorities)))
    subject = f"host authority {name}"
    if not 0 < len(different) <= MAX_AUTHORITIES:
        text = f"{len(different)} certificates, expected 1 to {MAX_AUTHORITIES}"
        raise InvalidInput(Problem(subject, text, "x509_authorities", "give the certificates of the CA"))
    for der in different:
        try:
            certificate = x509.load_der_x509_certificate(der)
        except UNREADABLE as error:
            raise InvalidInput(Problem(subject, "a certificate that can't be read", "x509_authorities")) from error
        possession.check_authority(certificate)
    return different
