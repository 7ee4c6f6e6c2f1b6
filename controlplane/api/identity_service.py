"""[edge] mesh.v1.Identity for hosts: join by an attestor, renew with the current SVID."""

from collections.abc import Mapping

from cryptography import x509

from controlplane.api.attestors.interface import Attestor, chosen
from controlplane.api.attestors.x509_possession import X509Possession
from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.api.issuing import Issuing
from schemas.api import mesh_pb2 as pb
from schemas.errors import Unauthenticated


class IdentityService:
    """`attestors`: by the field of ``JoinRequest.evidence`` that is theirs."""

    def __init__(self, issuing: Issuing, attestors: Mapping[str, Attestor], possession: X509Possession) -> None:
        self._issuing = issuing
        self._attestors = attestors
        self._possession = possession

    def rpcs(self) -> dict[str, Rpc]:
        return {
            "/mesh.v1.Identity/Challenge": Rpc(pb.ChallengeRequest, unary=self.challenge),
            "/mesh.v1.Identity/Join": Rpc(pb.JoinRequest, unary=self.join),
            "/mesh.v1.Identity/Renew": Rpc(pb.RenewRequest, unary=self.renew),
        }

    async def challenge(self, message: pb.ChallengeRequest, call: Call) -> pb.ChallengeReply:
        return self._possession.challenge()

    async def join(self, message: pb.JoinRequest, call: Call) -> pb.IdentityReply:
        """Looks at the evidence, then at the requests, and uses the evidence up last: a bad request costs no token."""
        attestor = self._attestors.get(message.WhichOneof("evidence") or "")
        if attestor is None:
            raise Unauthenticated("this join request has no evidence that an attestor here knows")
        attestation = await attestor.attest(message, call)
        service = chosen(message, attestation)
        reply = self._issuing.identity(service, message.csr, message.etcd_csr)
        call.tell(revision=await attestation.use(reply.spiffe_id, call.seconds))
        tell_issued(call, reply.spiffe_id, reply.chain[0], reply.expires)
        return reply

    async def renew(self, message: pb.RenewRequest, call: Call) -> pb.IdentityReply:
        """The same identity again, never another."""
        reply = self._issuing.identity(call.caller.service, message.csr, message.etcd_csr)
        tell_issued(call, reply.spiffe_id, reply.chain[0], reply.expires)
        return reply


def tell_issued(call: Call, identity: str, leaf: bytes, expires: int) -> None:
    """For the audit: what was issued."""
    serial = x509.load_der_x509_certificate(leaf).serial_number
    call.tell(identity=identity, serial=f"{serial:x}", expires=expires)
