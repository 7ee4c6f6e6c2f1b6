"""[edge] mesh.v1.Tokens: make a join token."""

import logging

from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.api.issuing import Issuing
from controlplane.api.request_id import request_of
from controlplane.ca import tokens
from controlplane.log import event
from controlplane.store.etcd import Store
from controlplane.store.ops import KeyGuard, Put
from controlplane.store.requests import RequestWriter
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Conflict
from schemas.names import ServiceRef, check_name

# The record outlives the token, so that "used" and "expired" can still be told from "unknown"; then etcd drops it.
KEEP_SECONDS = 24 * 3600

logger = logging.getLogger(__name__)


class TokenService:
    def __init__(self, store: Store, writer: RequestWriter, issuing: Issuing) -> None:
        self._store = store
        self._writer = writer
        self._issuing = issuing

    def rpcs(self) -> dict[str, Rpc]:
        return {"/mesh.v1.Tokens/Create": Rpc(pb.CreateTokenRequest, unary=self.create)}

    async def create(self, message: pb.CreateTokenRequest, call: Call) -> pb.CreateTokenReply:
        """The service need not exist yet: hosts may join before it is applied."""
        request = request_of(message, call.caller)
        service = ServiceRef(check_name(message.namespace, "namespace"), check_name(message.service, "service name"))
        in_force = self._issuing.current()
        if await self._writer.recorded(request) is not None:
            raise Conflict("this request has made its token already, and a token is shown once: ask with a new id")
        token = tokens.make(self._issuing.random(tokens.RANDOM_BYTES))
        ttl = message.ttl_seconds or tokens.DEFAULT_TTL_SECONDS
        record = tokens.record(token, service, self._issuing.now(), ttl, str(call.caller))
        key = self._store.keyspace.token(token.id)
        lease = await self._store.grant_lease(ttl + KEEP_SECONDS)
        revision = await self._writer.write(
            request, (KeyGuard(key, 0),), (Put(key, codec.encode(record), lease),), seconds=call.seconds
        )
        if revision is None:
            raise Conflict("a token of that id exists already: ask again")
        event(
            logger,
            logging.INFO,
            "token created",
            token=token.id,
            service=service,
            expires=record.expires,
            caller=call.caller,
            peer=call.caller.where,
            revision=revision,
        )
        return pb.CreateTokenReply(
            token=token.text,
            expires=record.expires,
            trust_bundle=codec.encode(in_force.bundle),
            join_endpoints=self._issuing.told.join_endpoints,
            api_endpoints=self._issuing.told.api_endpoints,
            trust_domain=in_force.authority.trust_domain,
        )
