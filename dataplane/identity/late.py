"""[edge] Renews an SVID after its end, where nobody could issue when it was to be renewed: the mesh's own fault.

A replica does so once for each SVID. So the keys stay the same, on the disk too: who asks again, since the answer was
lost or could not be used, or since the agent was killed meanwhile, asks for what was granted.
"""

import hashlib
import logging
from collections.abc import Sequence

import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dataplane.identity.check import from_reply
from dataplane.identity.client import ReplicaClient
from dataplane.identity.material import Identity, key_to_pem, new_key, signing_request
from dataplane.identity.store import Asked, IdentityStore
from schemas.errors import MeshError, Unavailable

log = logging.getLogger("mesh.identity")


class LateRenewal:
    def __init__(self, client: ReplicaClient, store: IdentityStore) -> None:
        self._client = client
        self._store = store
        self._asked: Asked | None = None

    async def renew(self, expired: Identity, endpoints: Sequence[str]) -> Identity:
        """Not checked yet. endpoints: of replicas, without a client certificate.

        Raises as ReplicaClient does, and UnacceptableIdentity for an answer that can't be read.
        """
        asked = await self._keys_for(hashlib.sha256(expired.chain_pem).hexdigest())
        csr, etcd_csr = (signing_request(_key(pem)) for pem in (asked.key_pem, asked.etcd_key_pem))
        reply = await self._client.join_by_expired(expired, endpoints, csr, etcd_csr)
        return from_reply(reply, asked.key_pem, asked.etcd_key_pem)

    async def done(self, granted: Identity) -> None:
        """The keys are needed no more, if the disk has taken what was granted."""
        try:
            if await trio.to_thread.run_sync(self._store.load) == granted:
                await trio.to_thread.run_sync(self._store.forget_asked)
                self._asked = None
        except MeshError as error:
            log.error("%s", error)

    async def _keys_for(self, fingerprint: str) -> Asked:
        if self._asked is not None and self._asked.fingerprint == fingerprint:
            return self._asked
        asked = await self._kept_for(fingerprint)
        if asked is None:
            asked = Asked(fingerprint, key_to_pem(new_key()), key_to_pem(new_key()))
            try:
                await trio.to_thread.run_sync(self._store.save_asked, asked)
            except Unavailable as error:
                log.error("%s", error)  # in memory they are good all the same
        self._asked = asked
        return asked

    async def _kept_for(self, fingerprint: str) -> Asked | None:
        try:
            asked = await trio.to_thread.run_sync(self._store.load_asked)
        except Unavailable as error:
            log.error("%s", error)
            return None
        return asked if asked is not None and asked.fingerprint == fingerprint and _are_keys(asked) else None


def _are_keys(asked: Asked) -> bool:
    try:
        return all(_key(pem) for pem in (asked.key_pem, asked.etcd_key_pem))
    except Unavailable:
        return False


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises Unavailable, without what the disk holds."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Unavailable("a key that was kept can't be read")
    return key
