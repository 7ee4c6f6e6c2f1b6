"""(f) A thousand sidecars renew at the same moment: how much of the time that each has left has gone by then.

Each calls as a sidecar does, with its code for calls and for retries, a key and a certificate of its own, and its own
connection by mTLS. What a thousand hosts do each for itself is done before (requests) and after (checking the answers):
here it would hold back what is to be a storm. The replica is a real process beside a real etcd. SVIDs live one minute,
the shortest that a mesh may set, so at half-life there is half a minute, not half an hour; who comes too late is
refused by TLS itself. That deadline is the baseline: the figure is the slowest's share of its own.
"""

import math
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from dataplane.identity.check import check, from_reply
from dataplane.identity.client import ReplicaClient
from dataplane.identity.material import Identity, key_to_pem, new_key, roots_pem, signing_request
from dataplane.identity.renewal import JITTER, Attempts
from schemas.api import mesh_pb2 as pb
from schemas.errors import Unavailable
from schemas.names import CONTROL_PLANE_SERVER_NAME
from tests.bench.harness import Figure, Target, figure
from tests.bench.issuing import SERVICE, join, open_mesh
from trio_grpc import TLS, Channel

SIDECARS = 1000
BATCH = 50
TTL_S = 60  # `Mesh.spec.svidTtlSeconds`: the least that it may be
CALL_S = 30.0
ROUNDS = 2
MESH = """
apiVersion: mesh/v1
kind: Mesh
metadata: {{name: mesh, namespace: mesh-system}}
spec: {{trustDomain: {trust_domain}, svidTtlSeconds: {ttl}}}
"""


class Sidecar:
    """`dice`: random numbers in [0, 1), of its own."""

    def __init__(self, identity: Identity, dice: random.Random) -> None:
        self.identity = identity
        self.refused = 0
        self.renewed_at = math.inf
        self._keys = new_key(), new_key()
        self._csr, self._etcd_csr = map(signing_request, self._keys)
        self._dice = dice
        self._client = ReplicaClient(fraction=dice.random)
        self._client.use(identity)
        self._reply: pb.IdentityReply | None = None

    async def renew(self) -> None:
        """Until it has, or its certificate has ended."""
        attempts = Attempts()
        with trio.move_on_after(max(0.0, self.identity.usable_until - time.time())):
            while self._reply is None:
                try:
                    self._reply = await self._client.renew(self._csr, self._etcd_csr)
                except Unavailable as error:
                    self.refused += 1
                    attempts = attempts.failed(time.time(), error)
                    await trio.sleep(attempts.delay(self._dice.random()))
            self.renewed_at = time.time()

    def close(self) -> None:
        """Raises UnacceptableIdentity for an answer that a sidecar would not take."""
        self._client.close()
        if self._reply is not None:
            renewed = from_reply(self._reply, *map(key_to_pem, self._keys))
            check(renewed, self.identity.spiffe_id, time.time())


async def issue(first: Identity, count: int) -> list[Identity]:
    """So many identities of the same service, each with its own keys."""
    tls = TLS(roots_pem(first.bundle), first.chain_pem, first.key_pem)
    made: list[Identity] = []
    with Channel(first.api_endpoints[0], tls=tls, server_name=CONTROL_PLANE_SERVER_NAME) as channel:
        while len(made) < count:
            keys = [(new_key(), new_key()) for _ in range(BATCH)]
            items = [pb.RenewRequest(csr=signing_request(key), etcd_csr=signing_request(other)) for key, other in keys]
            payload = pb.RenewBatchRequest(items=items).SerializeToString()
            reply = pb.RenewBatchReply.FromString(
                await channel.unary("/mesh.v1.Identity/RenewBatch", payload, timeout=CALL_S)
            )
            for (key, etcd_key), item in zip(keys, reply.items, strict=True):
                whole = pb.IdentityReply()
                whole.CopyFrom(reply.common)
                whole.chain.extend(item.chain)
                whole.etcd_chain.extend(item.etcd_chain)
                made.append(from_reply(whole, key_to_pem(key), key_to_pem(etcd_key)))
    return made[:count]


async def storm(identities: Sequence[Identity], seed: int) -> list[tuple[float, float]]:
    """(seconds until renewed, seconds that it had), a sidecar."""
    sidecars = [Sidecar(one, random.Random(f"{seed} {number}")) for number, one in enumerate(identities)]
    due = max(one.not_before + (one.usable_until - one.not_before) * (0.5 + JITTER) for one in identities)
    await trio.sleep(max(0.0, due - time.time()))
    started = time.time()
    async with trio.open_nursery() as nursery:
        for sidecar in sidecars:
            nursery.start_soon(sidecar.renew)
    for sidecar in sidecars:
        sidecar.close()
    refused = sum(sidecar.refused for sidecar in sidecars)
    print(f"storm: {refused} refusals before {len(sidecars)} renewals", file=sys.stderr, flush=True)
    return [(sidecar.renewed_at - started, sidecar.identity.usable_until - started) for sidecar in sidecars]


async def measure(directory: Path) -> list[Figure]:
    async with open_mesh(directory) as mesh:
        first = await join(mesh, SERVICE)
        manifest = directory / "mesh.yaml"
        manifest.write_text(MESH.format(trust_domain=first.spiffe_id.trust_domain, ttl=TTL_S))
        await mesh.meshadm("apply", "-f", str(manifest))
        rounds = [await storm(await issue(first, SIDECARS), number) for number in range(ROUNDS)]
    # Of all rounds together, since a median would hide a bad one.
    everybody = [one for sidecars in rounds for one in sidecars]
    within = sum(taken <= left for taken, left in everybody)
    slowest = max(everybody, key=lambda one: one[0] / one[1])
    what = f"of {ROUNDS} times {SIDECARS:,} sidecars that renew at once, those in time"
    share = "the slowest of them, as a share of the time that it had"
    return [
        figure("renewal_storm", what, [(within, len(everybody))], "sidecars", Target(">=", 1.0)),
        figure("renewal_storm_slowest", share, [slowest], "s", Target("<=", 1.0)),
    ]


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory:
        return trio.run(measure, Path(directory))
