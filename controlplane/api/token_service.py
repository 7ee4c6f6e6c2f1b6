"""[edge] mesh.v1.Tokens: make, list and revoke join tokens and login tokens."""

from dataclasses import dataclass, replace

from controlplane.api import token_use
from controlplane.api.authorize import authorize_namespaces, authorize_whole_mesh
from controlplane.api.call import Call
from controlplane.api.caller import Caller
from controlplane.api.dispatch import Rpc
from controlplane.api.issuing import Issuing
from controlplane.api.operators import Operators, check_in_force
from controlplane.api.request_id import request_of
from controlplane.ca import tokens
from controlplane.ca.tokens import AnyToken, Terms
from controlplane.domain import operators as deciding
from controlplane.store.etcd import Store
from controlplane.store.ops import Guard, KeyGuard, Op, Put
from controlplane.store.requests import RequestWriter
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Conflict, Corrupt, InvalidInput, NotFound, Problem
from schemas.names import check_name
from schemas.records import Epoch, JoinToken, LoginToken
from schemas.selectors import ServiceSelector

# The record outlives the token, so that "used" and "expired" can still be told from "unknown"; then etcd drops it.
KEEP_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class _Made:
    record: AnyToken
    guards: tuple[Guard, ...] = ()
    ops: tuple[Op, ...] = ()
    """What is written beside the token."""


class TokenService:
    def __init__(self, store: Store, writer: RequestWriter, issuing: Issuing, operators: Operators) -> None:
        self._store = store
        self._writer = writer
        self._issuing = issuing
        self._operators = operators

    def rpcs(self) -> dict[str, Rpc]:
        return {
            "/mesh.v1.Tokens/Create": Rpc(pb.CreateTokenRequest, unary=self.create),
            "/mesh.v1.Tokens/List": Rpc(pb.ListTokensRequest, unary=self.list),
            "/mesh.v1.Tokens/Revoke": Rpc(pb.RevokeTokenRequest, unary=self.revoke),
        }

    async def create(self, message: pb.CreateTokenRequest, call: Call) -> pb.CreateTokenReply:
        """A service need not exist yet: hosts may join before it is applied."""
        request = request_of(message, call.caller)
        call.tell(request=request.id)
        for_operator = bool(message.operator)
        token = tokens.make(self._issuing.random(tokens.RANDOM_BYTES), LoginToken if for_operator else JoinToken)
        in_force = self._issuing.current()
        keyspace = self._store.keyspace
        epoch, epoch_guard = await self._epoch()
        ttl = message.ttl_seconds or tokens.DEFAULT_TTL_SECONDS
        terms = Terms(self._issuing.now(), ttl, str(call.caller), epoch, message.uses or 1)
        if for_operator:
            made = await self._for_operator(message, token, terms, call)
        else:
            made = self._for_service(message, token, terms, call)
        call.tell(token=token.id, bound_to=made.record.bound_to, uses=made.record.uses, expires=made.record.expires)
        if await self._writer.recorded(request) is not None:
            raise Conflict("this request has made its token already, and a token is shown once: ask with a new id")
        lease = await self._store.grant_lease(ttl + KEEP_SECONDS)
        key = keyspace.token(token.id)
        revision = await self._writer.write(
            request,
            (KeyGuard(key, 0), epoch_guard, *made.guards, *call.caller.guards),
            (Put(key, codec.encode(made.record), lease), *made.ops),
            seconds=call.seconds,
        )
        if revision is None:
            raise Conflict("what this token depends on changed meanwhile: ask again")
        call.tell(revision=revision)
        return pb.CreateTokenReply(
            token=token.text,
            expires=made.record.expires,
            trust_bundle=codec.encode(in_force.bundle),
            join_endpoints=self._issuing.told.join_endpoints,
            api_endpoints=self._issuing.told.api_endpoints,
            trust_domain=in_force.authority.trust_domain,
            id=token.id,
            revision=revision,
        )

    def _for_service(self, message: pb.CreateTokenRequest, token: tokens.Token, terms: Terms, call: Call) -> _Made:
        if message.role or message.namespaces:
            raise InvalidInput(Problem("token", "a role is for operators", "role", "name an operator or leave it out"))
        selector = ServiceSelector.of(message.namespace, message.service)
        authorize_namespaces(call.caller, (selector.namespace,), "a join token")
        return _Made(tokens.join_record(token, selector, terms))

    async def _for_operator(
        self, message: pb.CreateTokenRequest, token: tokens.Token, terms: Terms, call: Call
    ) -> _Made:
        """With a role for an operator that is not there yet; one that is there keeps the role that it has."""
        authorize_whole_mesh(call.caller, "a login token")
        if message.namespace or message.service:
            raise InvalidInput(Problem("token", "for an operator and a service at once", "operator", "name one"))
        name = check_name(message.operator, "operator name")
        kv, held = await self._operators.find(name)
        guard = KeyGuard(self._store.keyspace.operator(name), kv.mod_revision if kv else 0)
        ops: tuple[Op, ...] = ()
        if held is not None and not message.role:
            check_in_force(held)
            granted = held
        else:
            role, namespaces = deciding.check_grant(message.role, message.namespaces)
            granted = deciding.granted(
                held, name, role, namespaces, terms.now, terms.created_by, self._operators.serial(name)
            )
            if held is None or held.revoked is not None:
                call.tell(granted=deciding.described(granted))
                value = codec.encode_over(kv.value, granted) if kv else codec.encode(granted)
                ops = (Put(guard.key, value),)
            elif (held.role, held.namespaces) != (granted.role, granted.namespaces):
                raise Conflict(f"operator {name} is {held.role} already: change that with `meshadm operator grant`")
        # Not before `since`, which a revocation, or a replica whose clock is ahead, may have put a little ahead.
        return _Made(tokens.login_record(token, name, replace(terms, now=max(terms.now, granted.since))), (guard,), ops)

    async def list(self, message: pb.ListTokensRequest, call: Call) -> pb.ListTokensReply:
        epoch, _ = await self._epoch()
        listing = await self._store.list(self._store.keyspace.tokens())
        reply = pb.ListTokensReply(revision=listing.revision)
        now = self._issuing.now()
        for kv in listing.kvs:
            try:
                record = tokens.decode(kv.value, kv.key.decode("utf-8", "backslashreplace"))
            except Corrupt:
                continue  # it lets nobody in
            reply.tokens.append(_info(record, tokens.uses_left(record, epoch, now)))
        return reply

    async def revoke(self, message: pb.RevokeTokenRequest, call: Call) -> pb.RevokeTokenReply:
        """From then on nobody gets in by it; who got in before stays in."""
        request = request_of(message, call.caller)
        token_id = tokens.check_id(message.id)
        call.tell(request=request.id, token=token_id)
        done = await self._writer.recorded(request)
        if done is not None:
            call.tell(revision=done)
            return pb.RevokeTokenReply(revision=done)
        while True:
            held = await token_use.look(self._store, token_id)
            if held.record is None or held.kv is None:
                raise NotFound(f"there is no token {token_id}: it never was, or has long expired")
            self._check_may_revoke(call.caller, held.record)
            call.tell(bound_to=held.record.bound_to)
            revoked = tokens.revoke(held.record, self._issuing.now(), str(call.caller))
            revision = await self._writer.write(
                request,
                (KeyGuard(held.kv.key, held.kv.mod_revision), *call.caller.guards),
                (Put(held.kv.key, codec.encode_over(held.kv.value, revoked), held.kv.lease),),
                seconds=call.seconds,
            )
            if revision is not None:
                call.tell(revision=revision)
                return pb.RevokeTokenReply(revision=revision)
            # Somebody used it at that moment, or took away our role.
            if call.caller.guards:
                await self._operators.known(call.caller)

    @staticmethod
    def _check_may_revoke(caller: Caller, record: AnyToken) -> None:
        if isinstance(record, JoinToken):
            authorize_namespaces(caller, (record.namespace,), "a join token")
        else:
            authorize_whole_mesh(caller, "a login token")

    async def _epoch(self) -> tuple[str, KeyGuard]:
        key = self._store.keyspace.epoch()
        kv = await self._store.get(key)
        if kv is None:
            raise Corrupt(Problem(key.decode(), "missing", remedy="a restore writes it; see the documentation"))
        return codec.decode(kv.value, Epoch, key.decode()).id, KeyGuard(key, kv.mod_revision)


def _info(record: AnyToken, uses_left: int) -> pb.TokenInfo:
    return pb.TokenInfo(
        id=record.id,
        bound_to=record.bound_to,
        uses=record.uses,
        uses_left=uses_left,
        expires=record.expires,
        created=record.created,
        created_by=record.created_by,
        used=[pb.TokenUse(at=one.at, by=one.by, identity=one.identity) for one in record.used],
        revoked=record.revoked or 0,
        revoked_by=record.revoked_by,
    )
