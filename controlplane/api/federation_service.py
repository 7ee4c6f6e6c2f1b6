"""[edge] mesh.v1.Federation: the trust bundles that there are, and how it goes with following others'."""

from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.federation.decide import Domain
from controlplane.federation.follower import Follower
from schemas.api import mesh_pb2 as pb
from schemas.errors import NotFound
from schemas.names import check_trust_domain
from spiffe.jwks import encode


class FederationService:
    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def rpcs(self) -> dict[str, Rpc]:
        return {
            "/mesh.v1.Federation/Status": Rpc(pb.FederationStatusRequest, unary=self.status),
            "/mesh.v1.Federation/Fetch": Rpc(pb.FetchBundleRequest, unary=self.fetch),
            "/mesh.v1.Federation/Bundle": Rpc(pb.BundleRequest, unary=self.bundle),
        }

    async def status(self, message: pb.FederationStatusRequest, call: Call) -> pb.FederationStatusReply:
        seen = await self._follower.look()
        return pb.FederationStatusReply(
            trust_domain=seen.own.trust_domain,
            bundle_sequence=seen.own.sequence,
            domains=[_domain(one) for one in seen.domains.values()],
        )

    async def fetch(self, message: pb.FetchBundleRequest, call: Call) -> pb.FederatedDomain:
        """Now, not when it is due. That it could not be had is in the answer."""
        trust_domain = check_trust_domain(message.trust_domain)
        call.tell(trust_domain=trust_domain)
        return _domain(await self._follower.fetch_now(trust_domain))

    async def bundle(self, message: pb.BundleRequest, call: Call) -> pb.BundleReply:
        seen = await self._follower.look()
        wanted = check_trust_domain(message.trust_domain) if message.trust_domain else seen.own.trust_domain
        domain = seen.domains.get(wanted)
        found = seen.own if wanted == seen.own.trust_domain else (domain.bundle if domain is not None else None)
        if found is None:
            raise NotFound(f"there is no bundle of {wanted} here: `meshadm federation status`")
        return pb.BundleReply(trust_domain=wanted, sequence=found.sequence, jwks=encode(found))


def _domain(domain: Domain) -> pb.FederatedDomain:
    reply = pb.FederatedDomain(trust_domain=domain.trust_domain, problem=domain.problem)
    for value, _ in domain.objects:
        reply.objects.append(value.metadata.name)
        if value.spec.bundle_endpoint is not None:
            reply.url = value.spec.bundle_endpoint.url
            reply.profile = value.spec.bundle_endpoint.profile
    if domain.bundle is not None:
        reply.has_bundle = True
        reply.sequence = domain.bundle.sequence
        reply.x509_authorities = len(domain.bundle.x509_authorities)
        reply.jwt_authorities = len(domain.bundle.jwt_authorities)
        reply.refresh_hint_seconds = domain.bundle.refresh_hint_seconds
    if domain.status is not None:
        reply.tried, reply.fetched = domain.status.tried, domain.status.fetched
        reply.next, reply.by = domain.status.next, domain.status.by
    return reply
