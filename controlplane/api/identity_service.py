"""[edge] mesh.v1.Identity: join with a token, renew with the current SVID."""

import logging

import trio

from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.api.issuing import Issuing
from controlplane.ca import tokens
from controlplane.log import event
from controlplane.store.etcd import PAUSE_SECONDS, Store
from controlplane.store.ops import KeyGuard, Put
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Unavailable
from schemas.records import JoinToken
from trio_etcd import KeyValue

logger = logging.getLogger(__name__)


class IdentityService:
    def __init__(self, store: Store, issuing: Issuing) -> None:
        self._store = store
        self._issuing = issuing

    def rpcs(self) -> dict[str, Rpc]:
        return {
            "/mesh.v1.Identity/Join": Rpc(pb.JoinRequest, unary=self.join),
            "/mesh.v1.Identity/Renew": Rpc(pb.RenewRequest, unary=self.renew),
        }

    async def join(self, message: pb.JoinRequest, call: Call) -> pb.IdentityReply:
        """Looks at the token, then at the requests, and uses the token up last: a bad request costs no token."""
        token = tokens.parse(message.token)
        # Unique, so that after a lost answer of etcd we know our own use of the token from another's.
        used_by = f"{call.caller.where} {self._issuing.random(8).hex()}"
        _, stored = await self._token(token)
        service = tokens.service_of(tokens.consume(token, stored, self._issuing.now(), used_by))
        reply = self._issuing.identity(service, message.csr, message.etcd_csr)
        revision = await self._consume(token, used_by, call.seconds)
        self._log("joined", call, reply, token=token.id, revision=revision)
        return reply

    async def renew(self, message: pb.RenewRequest, call: Call) -> pb.IdentityReply:
        """The same identity again, never another."""
        reply = self._issuing.identity(call.caller.service, message.csr, message.etcd_csr)
        self._log("renewed", call, reply)
        return reply

    async def _token(self, token: tokens.Token) -> tuple[KeyValue | None, JoinToken | None]:
        key = self._store.keyspace.token(token.id)
        kv = await self._store.get(key)
        return kv, codec.decode(kv.value, JoinToken, key.decode()) if kv else None

    async def _consume(self, token: tokens.Token, used_by: str, seconds: float) -> int:
        """The revision at which it was used up by us. Raises Unauthenticated where another was faster."""
        deadline = trio.current_time() + seconds
        while True:
            kv, stored = await self._token(token)
            if kv is not None and stored is not None and stored.used_by == used_by:
                return kv.mod_revision
            consumed = tokens.consume(token, stored, self._issuing.now(), used_by)
            assert kv is not None  # noqa: S101  (consume refuses what is not there)
            put = Put(kv.key, codec.encode_over(kv.value, consumed), kv.lease)
            try:
                revision = await self._store.transact((KeyGuard(kv.key, kv.mod_revision),), (put,))
            except Unavailable as error:
                if not error.outcome_unknown or trio.current_time() + PAUSE_SECONDS >= deadline:
                    raise
                await trio.sleep(PAUSE_SECONDS)
                continue
            if revision is not None:
                return revision

    def _log(self, what: str, call: Call, reply: pb.IdentityReply, **more: object) -> None:
        event(
            logger,
            logging.INFO,
            what,
            identity=reply.spiffe_id,
            peer=call.caller.where,
            expires=reply.expires,
            **more,
        )
