"""[edge] Renews an SVID after its end, where nobody could issue when it was to be renewed: the mesh's own fault.

A replica does so once for each SVID. So the keys stay the same: who asks again, since the answer was lost or could not
be used, asks for what was granted.
"""

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import ec

from dataplane.identity.check import from_reply
from dataplane.identity.client import ReplicaClient
from dataplane.identity.material import Identity, key_to_pem, new_key, signing_request

_Keys = tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePrivateKey]


class LateRenewal:
    def __init__(self, client: ReplicaClient) -> None:
        self._client = client
        self._asked: tuple[bytes, _Keys] | None = None

    async def renew(self, expired: Identity, endpoints: Sequence[str]) -> Identity:
        """Not checked yet. endpoints: of replicas, without a client certificate.

        Raises as ReplicaClient does, and UnacceptableIdentity for an answer that can't be read.
        """
        if self._asked is None or self._asked[0] != expired.chain_pem:
            self._asked = expired.chain_pem, (new_key(), new_key())
        key, etcd_key = self._asked[1]
        reply = await self._client.join_by_expired(expired, endpoints, signing_request(key), signing_request(etcd_key))
        return from_reply(reply, key_to_pem(key), key_to_pem(etcd_key))
