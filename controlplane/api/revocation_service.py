"""[edge] mesh.v1.Revocations: which identities of workloads are revoked."""

from controlplane.api import convert
from controlplane.api.authorize import authorize_namespaces
from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.api.issuing import Issuing
from controlplane.api.request_id import request_of
from controlplane.ca.etcd_revocation import NEXT_UPDATE_SECONDS, revocation_list, revoked_serials
from controlplane.domain import revocation as deciding
from controlplane.revocations import Revocations
from controlplane.store.etcd import Store
from controlplane.store.ops import KeyGuard, Put
from controlplane.store.requests import RequestWriter
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Conflict, Corrupt
from schemas.keys import RevocationRef
from schemas.names import ServiceRef, check_name
from schemas.records import Revocation
from schemas.revocations import newer
from trio_etcd import KeyValue

_Write = pb.RevokeIdentityRequest | pb.RestoreIdentityRequest


class RevocationService:
    def __init__(self, store: Store, writer: RequestWriter, issuing: Issuing, revocations: Revocations) -> None:
        self._store = store
        self._writer = writer
        self._issuing = issuing
        self._revocations = revocations

    def rpcs(self) -> dict[str, Rpc]:
        return {
            "/mesh.v1.Revocations/List": Rpc(pb.ListRevocationsRequest, unary=self.list),
            "/mesh.v1.Revocations/Revoke": Rpc(pb.RevokeIdentityRequest, unary=self.revoke),
            "/mesh.v1.Revocations/Restore": Rpc(pb.RestoreIdentityRequest, unary=self.restore),
            "/mesh.v1.Revocations/EtcdList": Rpc(pb.EtcdListRequest, unary=self.etcd_list),
        }

    async def list(self, message: pb.ListRevocationsRequest, call: Call) -> pb.ListRevocationsReply:
        revision = convert.revision_from(message.revision)
        listing = await self._store.list_at(self._store.keyspace.revocations(), revision)
        reply = pb.ListRevocationsReply(revision=listing.revision)
        for kv in listing.kvs:
            try:
                codec.decode(kv.value, Revocation, kv.key.decode("utf-8", "backslashreplace"))
            except Corrupt:
                continue  # sidecars and `meshadm status` name it
            reply.revocations.append(kv.value)
        return reply

    async def revoke(self, message: pb.RevokeIdentityRequest, call: Call) -> pb.RevocationReply:
        return await self._write(message, call, revoked=True)

    async def restore(self, message: pb.RestoreIdentityRequest, call: Call) -> pb.RevocationReply:
        return await self._write(message, call, revoked=False)

    async def etcd_list(self, message: pb.EtcdListRequest, call: Call) -> pb.EtcdListReply:
        """With what etcd may have lost, too."""
        now, records = self._issuing.now(), self._revocations.records()
        etcd = self._issuing.current_unfenced().authority.etcd
        return pb.EtcdListReply(
            crl=await self._issuing.in_turn(call, lambda: revocation_list(etcd, revoked_serials(records, now), now)),
            identities=sum(one.revoked for one in records),
            next_update=int(now + NEXT_UPDATE_SECONDS),
        )

    async def _write(self, message: _Write, call: Call, *, revoked: bool) -> pb.RevocationReply:
        request = request_of(message, call.caller)
        service = ServiceRef(check_name(message.namespace, "namespace"), check_name(message.service, "service"))
        call.tell(request=request.id, service=f"{service.namespace}/{service.name}", reason=message.reason)
        authorize_namespaces(call.caller, (service.namespace,), "an identity")
        key = self._store.keyspace.revocation(service)
        done = await self._writer.recorded(request)
        if done is not None:
            found = await self._store.get(key)
            call.tell(revision=done)
            return pb.RevocationReply(revision=done, revocation=found.value if found else b"")
        kv, before = await self._before(key, service)
        after = deciding.changed(
            before, service, revoked=revoked, now=self._issuing.now(), by=str(call.caller), reason=message.reason
        )
        value = codec.encode(after)
        revision = await self._writer.write(
            request,
            (KeyGuard(key, kv.mod_revision if kv else 0), *call.caller.guards),
            (Put(key, value),),
            seconds=call.seconds,
        )
        if revision is None:
            name = f"{service.namespace}/{service.name}"
            raise Conflict(f"somebody else has just changed the revocation of {name}; nothing was written: look again")
        call.tell(revision=revision, serial=after.serial)
        return pb.RevocationReply(revision=revision, revocation=value)

    async def _before(self, key: bytes, service: ServiceRef) -> tuple[KeyValue | None, Revocation | None]:
        """What etcd has, or the floor where that is newer. A record that can't be read counts as one that revokes."""
        kv, known = await self._store.get(key), self._revocations.record(service)
        if kv is None:
            return None, known
        try:
            stored = codec.decode(kv.value, Revocation, str(RevocationRef(service)))
        except Corrupt:
            unread = Revocation(
                namespace=service.namespace, service=service.name, serial=1, revoked=True, at=0, by="a record that "
                "can't be read",
            )  # fmt: skip
            return kv, known or unread
        return kv, stored if newer(stored, known) else known
