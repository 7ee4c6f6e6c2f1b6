"""[edge] mesh.v1.Identity for hosts: join by an attestor, renew with the current SVID."""

from collections.abc import Mapping
from functools import partial

from cryptography import x509

from controlplane.api.attestors.interface import Attestor, chosen
from controlplane.api.attestors.x509_possession import X509Possession
from controlplane.api.call import Call
from controlplane.api.convert import problem_item
from controlplane.api.dispatch import Rpc
from controlplane.api.issuing import Issuing, Pair
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, Problem, Unauthenticated
from schemas.names import ServiceRef

# Some 100 ms of work: an answer of 200 KB, within what gRPC takes, and within any caller's patience.
MAX_BATCH = 100


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
            "/mesh.v1.Identity/RenewBatch": Rpc(pb.RenewBatchRequest, unary=self.renew_batch),
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
        reply, pair = await self._issue(service, message, call)
        call.tell(revision=await attestation.use(reply.spiffe_id, call.seconds))
        call.tell(identity=reply.spiffe_id, serial=pair.serial, expires=reply.expires)
        return reply

    async def renew(self, message: pb.RenewRequest, call: Call) -> pb.IdentityReply:
        """The same identity again, never another."""
        reply, pair = await self._issue(call.caller.service, message, call)
        call.tell(identity=reply.spiffe_id, serial=pair.serial, expires=reply.expires)
        return reply

    async def renew_batch(self, message: pb.RenewBatchRequest, call: Call) -> pb.RenewBatchReply:
        """As `renew`, for several pairs of keys. One that is refused says so and leaves the others as they are."""
        if not 0 < len(message.items) <= MAX_BATCH:
            text = f"{len(message.items)} items, expected 1 to {MAX_BATCH}"
            raise InvalidInput(Problem("batch", text, "$.items", "send more batches"))
        service, reply = call.caller.service, pb.RenewBatchReply()
        serials: list[str] = []
        with self._issuing.turns.admitted(call.caller.where, call.seconds, len(message.items)) as admitted:
            for number, item in enumerate(message.items, 1):
                try:
                    pair = await admitted.turn(partial(self._issuing.pair, service, item.csr, item.etcd_csr))
                except InvalidInput as error:
                    call.refuse_part(f"item {number}: {error}")
                    reply.items.append(pb.RenewedItem(refused=problem_item(error.problems[0])))
                    continue
                serials.append(pair.serial)
                reply.items.append(pb.RenewedItem(chain=pair.chain, etcd_chain=pair.etcd_chain, expires=pair.expires))
                # Told with each: a batch that ends early has issued them all the same.
                call.tell(issued=len(serials), serials=", ".join(serials))
        reply.common.CopyFrom(self._issuing.beside(service))
        reply.common.expires = min((item.expires for item in reply.items if item.expires), default=0)
        call.tell(identity=reply.common.spiffe_id, expires=reply.common.expires or None)
        return reply

    async def _issue(
        self, service: ServiceRef, message: pb.JoinRequest | pb.RenewRequest, call: Call
    ) -> tuple[pb.IdentityReply, Pair]:
        return await self._issuing.in_turn(
            call, partial(self._issuing.identity, service, message.csr, message.etcd_csr)
        )


def tell_issued(call: Call, identity: str, leaf: bytes, expires: int) -> None:
    """For the audit: what was issued."""
    serial = x509.load_der_x509_certificate(leaf).serial_number
    call.tell(identity=identity, serial=f"{serial:x}", expires=expires)
