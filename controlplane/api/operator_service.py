"""[edge] mesh.v1.Operators, and of mesh.v1.Identity what operators log in by."""

from controlplane.api import token_use
from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.api.identity_service import tell_issued
from controlplane.api.issuing import Issuing
from controlplane.api.operators import Operators, check_in_force
from controlplane.api.request_id import request_of
from controlplane.ca import tokens
from controlplane.ca.authority import expires
from controlplane.domain import operators as deciding
from controlplane.restores import Restores
from controlplane.store.etcd import Store
from controlplane.store.ops import KeyGuard, Put
from controlplane.store.requests import Request, RequestWriter
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Conflict, Corrupt, NotFound, PermissionDenied, Unauthenticated
from schemas.names import SpiffeId, check_name
from schemas.records import LoginToken, Operator, TokenUse
from spiffe.x509 import csr_public_key
from trio_etcd import KeyValue

# A working day and a bit: a stolen laptop's certificate is of no use the next day, and nobody logs in twice a day.
OPERATOR_SECONDS = 12 * 3600


class OperatorService:
    def __init__(
        self,
        store: Store,
        writer: RequestWriter,
        issuing: Issuing,
        operators: Operators,
        restores: Restores | None = None,
    ) -> None:
        self._store = store
        self._restores = restores
        self._writer = writer
        self._issuing = issuing
        self._operators = operators

    def rpcs(self) -> dict[str, Rpc]:
        return {
            "/mesh.v1.Identity/Login": Rpc(pb.LoginRequest, unary=self.login),
            "/mesh.v1.Identity/RenewLogin": Rpc(pb.RenewLoginRequest, unary=self.renew_login),
            "/mesh.v1.Operators/List": Rpc(pb.ListOperatorsRequest, unary=self.list),
            "/mesh.v1.Operators/Grant": Rpc(pb.GrantOperatorRequest, unary=self.grant),
            "/mesh.v1.Operators/Revoke": Rpc(pb.RevokeOperatorRequest, unary=self.revoke),
        }

    # -- who they are

    async def login(self, message: pb.LoginRequest, call: Call) -> pb.OperatorReply:
        """A bad signing request costs no token; a token that was made before a revocation lets nobody in."""
        token = tokens.parse(message.token, LoginToken)
        call.tell(token=token.id)
        held = await token_use.look(self._store, token.id, self._restores)
        now = self._issuing.now()
        tokens.check(token, held.record, held.epoch, now)
        assert isinstance(held.record, LoginToken)  # noqa: S101  (check refuses all else)
        kv, operator = await self._operators.find(held.record.operator)
        if kv is None or operator is None:
            raise PermissionDenied(f"operator {held.record.operator} has no role here any more")
        check_in_force(operator)
        if held.record.created < operator.since:
            raise Unauthenticated(f"login token {token.id} is from before {operator.name} was revoked: make a new one")
        reply = self._issue(operator, message.csr)
        as_ = TokenUse(at=int(now), by=call.caller.where, identity=reply.spiffe_id, id=self._issuing.random(8).hex())
        guards = (KeyGuard(kv.key, kv.mod_revision),)
        revision = await token_use.use(
            self._store, token, as_, now=now, seconds=call.seconds, guards=guards, restores=self._restores
        )
        call.tell(revision=revision)
        tell_issued(call, reply.spiffe_id, reply.chain[0], reply.expires)
        return reply

    async def renew_login(self, message: pb.RenewLoginRequest, call: Call) -> pb.OperatorReply:
        operator = call.caller.operator
        if operator is None:
            raise PermissionDenied("this call is for operators")
        reply = self._issue(operator, message.csr)
        tell_issued(call, reply.spiffe_id, reply.chain[0], reply.expires)
        return reply

    def _issue(self, operator: Operator, csr: bytes) -> pb.OperatorReply:
        """Of the CSR the public key is taken and nothing else."""
        key = csr_public_key(csr)
        in_force = self._issuing.current()
        # Not before `since`, which a revocation, or a replica whose clock is ahead, may have put a little ahead.
        now = max(self._issuing.now(), operator.since)
        chain = in_force.authority.issue_operator(operator.name, key, now, OPERATOR_SECONDS, self._issuing.serial())
        return pb.OperatorReply(
            spiffe_id=str(SpiffeId.of_operator(in_force.authority.trust_domain, operator.name)),
            chain=chain,
            trust_bundle=codec.encode(in_force.bundle),
            expires=expires(chain),
            api_endpoints=self._issuing.told.api_endpoints,
            operator=_info(operator),
        )

    # -- what they may do

    async def list(self, message: pb.ListOperatorsRequest, call: Call) -> pb.ListOperatorsReply:
        listing = await self._store.list(self._store.keyspace.operators())
        reply = pb.ListOperatorsReply(revision=listing.revision)
        for kv in listing.kvs:
            try:
                operator = codec.decode(kv.value, Operator, kv.key.decode("utf-8", "backslashreplace"))
            except Corrupt:
                continue  # it gives nobody a role
            left = self._operators.left(operator.name, operator)
            if left is not None:
                reply.operators.append(_info(left))
        return reply

    async def grant(self, message: pb.GrantOperatorRequest, call: Call) -> pb.GrantOperatorReply:
        request = request_of(message, call.caller)
        name = check_name(message.name, "operator name")
        call.tell(request=request.id, operator=name)
        role, namespaces = deciding.check_grant(message.role, message.namespaces)
        kv, before = await self._find_readable(name)
        after = deciding.granted(
            before, name, role, namespaces, self._issuing.now(), str(call.caller), self._operators.serial(name)
        )
        call.tell(granted=deciding.described(after), before=_state(before))
        revision = await self._write(request, call, kv, before, after)
        return pb.GrantOperatorReply(revision=revision, operator=_info(after))

    async def revoke(self, message: pb.RevokeOperatorRequest, call: Call) -> pb.RevokeOperatorReply:
        request = request_of(message, call.caller)
        name = check_name(message.name, "operator name")
        call.tell(request=request.id, operator=name)
        done = await self._writer.recorded(request)
        if done is not None:
            call.tell(revision=done)
            return pb.RevokeOperatorReply(revision=done)
        kv, before = await self._operators.find(name)
        if before is None:
            raise NotFound(f"there is no operator {name}")
        call.tell(before=_state(before))
        after = deciding.revoked(before, self._issuing.now(), str(call.caller), self._operators.serial(name))
        return pb.RevokeOperatorReply(revision=await self._write(request, call, kv, before, after))

    async def _find_readable(self, name: str) -> tuple[KeyValue | None, Operator | None]:
        """A record that can't be read is no hindrance to granting anew, but nothing of before counts then."""
        try:
            return await self._operators.find(name)
        except Corrupt:
            return await self._store.get(self._store.keyspace.operator(name)), None

    async def _write(
        self, request: Request, call: Call, kv: KeyValue | None, before: Operator | None, after: Operator
    ) -> int:
        """`before` None: there is none, or none that can be read."""
        key = self._store.keyspace.operator(after.name)
        value = codec.encode_over(kv.value, after) if kv is not None and before is not None else codec.encode(after)
        revision = await self._writer.write(
            request,
            (KeyGuard(key, kv.mod_revision if kv else 0), *call.caller.guards),
            (Put(key, value),),
            seconds=call.seconds,
        )
        if revision is None:
            raise Conflict(f"somebody else has just changed operator {after.name}; nothing was written: look again")
        call.tell(revision=revision)
        return revision


def _state(operator: Operator | None) -> str:
    if operator is None:
        return "no operator"
    return "revoked" if operator.revoked is not None else deciding.described(operator)


def _info(operator: Operator) -> pb.OperatorInfo:
    return pb.OperatorInfo(
        name=operator.name,
        role=operator.role,
        namespaces=operator.namespaces,
        since=operator.since,
        granted_by=operator.granted_by,
        revoked=operator.revoked or 0,
        revoked_by=operator.revoked_by,
    )
