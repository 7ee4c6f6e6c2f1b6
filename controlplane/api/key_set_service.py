"""[edge] mesh.v1.KeySets: the keys of token issuers that replicas fetch, and how that goes."""

import json

from controlplane.api.authorize import authorize_namespaces
from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.key_sets.decide import Place
from controlplane.key_sets.follower import KeySetFollower
from schemas.api import mesh_pb2 as pb
from schemas.errors import NotFound
from schemas.key_sets import ca_digest


class KeySetService:
    def __init__(self, follower: KeySetFollower) -> None:
        self._follower = follower

    def rpcs(self) -> dict[str, Rpc]:
        return {
            "/mesh.v1.KeySets/Status": Rpc(pb.KeySetsRequest, unary=self.status),
            "/mesh.v1.KeySets/Fetch": Rpc(pb.FetchKeySetsRequest, unary=self.fetch),
        }

    async def status(self, message: pb.KeySetsRequest, call: Call) -> pb.KeySetsReply:
        """As this replica has seen them last."""
        found = self._follower.places.all()
        if message.namespace:
            found = [one for one in found if any(ref.namespace == message.namespace for ref in one.objects)]
        return pb.KeySetsReply(key_sets=[_info(one, with_keys=message.with_keys) for one in found])

    async def fetch(self, message: pb.FetchKeySetsRequest, call: Call) -> pb.KeySetsReply:
        """Now, not when it is due. That they could not be had is in the answer."""
        call.tell(uri=message.uri)
        found = [one for one in self._follower.places.all() if one.uri == message.uri and one.source is not None]
        if not found:
            raise NotFound(
                f"no RequestAuthentication names {message.uri[:200]!r} as its jwksUri: `meshadm jwks status`"
            )
        for place in found:
            authorize_namespaces(call.caller, {ref.namespace for ref in place.objects}, f"keys of {place.uri}")
        await self._follower.fetch_now(one.ref for one in found)
        after = [await self._follower.look(one.ref) for one in found]
        return pb.KeySetsReply(key_sets=[_info(one, with_keys=False) for one in after])


def _info(place: Place, *, with_keys: bool) -> pb.KeySet:
    reply = pb.KeySet(uri=place.uri, objects=[f"{ref.namespace}/{ref.name}" for ref in place.objects])
    if place.key_set is not None and place.usable:
        reply.keys = len(json.loads(place.key_set.jwks)["keys"])
        reply.since = place.key_set.fetched
        if with_keys:
            reply.jwks = place.key_set.jwks
    if place.status is not None:
        reply.tried, reply.fetched, reply.next = place.status.tried, place.status.fetched, place.status.next
        reply.failures, reply.problem, reply.by = place.status.failures, place.status.problem, place.status.by
    known = place.status or place.key_set
    if known is not None:
        reply.ca_sha256 = known.ca_sha256
    elif place.source is not None:
        reply.ca_sha256 = ca_digest(place.source.ca)
    return reply
