"""[edge] mesh.v1.Identity: SVIDs for the workload behind a sidecar, which serves them to it by the Workload API."""

from collections.abc import Sequence

from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.api.issuing import Issuing
from controlplane.ca.authority import expires
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, Problem, Unavailable
from schemas.names import SpiffeId
from spiffe.x509 import csr_public_key

# JWT-SVID 3.2 asks for one; whoever gets the token can show it to all others that it names.
MAX_AUDIENCES = 16
MAX_AUDIENCE_BYTES = 256  # room for a SPIFFE ID or a URL; sixteen of them fit into the headers of a request


class SvidService:
    """Whose SVID it is comes from the caller's certificate alone; nothing in a request names an identity."""

    def __init__(self, issuing: Issuing) -> None:
        self._issuing = issuing

    def rpcs(self) -> dict[str, Rpc]:
        return {
            "/mesh.v1.Identity/IssueX509": Rpc(pb.IssueX509Request, unary=self.issue_x509),
            "/mesh.v1.Identity/IssueJwt": Rpc(pb.IssueJwtRequest, unary=self.issue_jwt),
        }

    async def issue_x509(self, message: pb.IssueX509Request, call: Call) -> pb.IssueX509Reply:
        """Of the CSR the public key is taken and nothing else. Raises InvalidInput, AuthorityExpired."""
        return await self._issuing.in_turn(call, lambda: self._x509(message.csr, call))

    def _x509(self, csr: bytes, call: Call) -> pb.IssueX509Reply:
        service, key, serial = call.caller.service, csr_public_key(csr), self._issuing.serial()
        in_force = self._issuing.current()
        ttl = in_force.mesh.spec.svid_ttl_seconds
        chain = in_force.authority.issue_workload(service, key, self._issuing.now(), ttl, serial)
        reply = pb.IssueX509Reply(
            spiffe_id=str(SpiffeId.of_service(in_force.authority.trust_domain, service)),
            chain=chain,
            trust_bundle=codec.encode(in_force.bundle),
            expires=expires(chain),
        )
        call.tell(identity=reply.spiffe_id, serial=f"{serial:x}", expires=reply.expires)
        return reply

    async def issue_jwt(self, message: pb.IssueJwtRequest, call: Call) -> pb.IssueJwtReply:
        """Raises InvalidInput, AuthorityExpired; Unavailable where there is no published JWT key yet."""
        audience = check_audience(message.audience)
        call.tell(audience=", ".join(audience))
        return await self._issuing.in_turn(call, lambda: self._jwt(audience, call))

    def _jwt(self, audience: list[str], call: Call) -> pb.IssueJwtReply:
        in_force = self._issuing.current()
        signer = in_force.jwt
        if signer is None or signer.authority not in in_force.bundle.jwt_authorities:
            raise Unavailable("the mesh has no JWT key in its trust bundle yet; a replica is about to make one")
        spiffe_id = SpiffeId.of_service(in_force.authority.trust_domain, call.caller.service)
        token, end = signer.issue(spiffe_id, audience, self._issuing.now())
        reply = pb.IssueJwtReply(spiffe_id=str(spiffe_id), token=token, expires=end)
        call.tell(identity=reply.spiffe_id, expires=reply.expires)
        return reply


def check_audience(audience: Sequence[str]) -> list[str]:
    """Raises InvalidInput."""

    def refuse(why: str) -> InvalidInput:
        return InvalidInput(Problem("JWT-SVID", why, "$.audience", "name whom the token is to be shown to"))

    if not 0 < len(audience) <= MAX_AUDIENCES:
        raise refuse(f"{len(audience)} audiences, expected 1 to {MAX_AUDIENCES}")
    if len(set(audience)) != len(audience):
        raise refuse("an audience is there twice")
    for one in audience:
        if not 0 < len(one.encode()) <= MAX_AUDIENCE_BYTES:
            raise refuse(f"an audience of {len(one.encode())} bytes, expected 1 to {MAX_AUDIENCE_BYTES}")
    return list(audience)
