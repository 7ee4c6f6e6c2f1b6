"""[edge] Sees to it that the mesh has a key for JWT-SVIDs: `meshadm init` makes one, older meshes have none."""

import logging

import msgspec
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.api.issuing import Issuing
from controlplane.ca.jwt_key import new_signer, seal_signer
from controlplane.ca.seal import KeyEncryption
from controlplane.log import event
from controlplane.rotation.events import CaEvent, tell
from controlplane.store.etcd import Store
from controlplane.store.ops import KeyGuard, PrefixGuard, Put
from schemas import codec
from schemas.errors import Conflict, MeshError, NotFound
from schemas.records import SealedKey, TrustBundle

RETRY_SECONDS = 5.0  # between two attempts; until then tokens are refused as unavailable, which callers try again

logger = logging.getLogger(__name__)


async def make_jwt_key(store: Store, kek: KeyEncryption, issuing: Issuing) -> None:
    """Returns once there is one, whoever made it."""
    while True:
        try:
            revision = await _make(store, kek, issuing)
        except MeshError as error:
            event(logger, logging.WARNING, "no JWT key made yet", why=str(error))
            await trio.sleep(RETRY_SECONDS)
        else:
            if revision:
                tell(CaEvent.JWT_KEY_MADE, logging.INFO, who="automatic", where="this replica", revision=revision)
            return


async def _make(store: Store, kek: KeyEncryption, issuing: Issuing) -> int:
    """Key and bundle in one transaction; the revision of it, 0 where there is a key. Raises Conflict for a race lost.

    An outcome that is unknown needs no care: the next look finds what came of it.
    """
    keys = await store.list(store.keyspace.ca())
    if any(codec.decode(kv.value, SealedKey, kv.key.decode()).role == "mesh-jwt" for kv in keys.kvs):
        return 0
    trust_key = store.keyspace.trust_bundle(issuing.current().authority.trust_domain)
    trust = await store.get(trust_key)
    if trust is None:
        raise NotFound(f"{trust_key.decode()}: there is no trust bundle")
    before = codec.decode(trust.value, TrustBundle, trust_key.decode())
    signer = new_signer(ec.generate_private_key(ec.SECP256R1()), issuing.now(), issuing.random)
    after = msgspec.structs.replace(
        before, sequence=before.sequence + 1, jwt_authorities=(*before.jwt_authorities, signer.authority)
    )
    revision = await store.transact(
        (KeyGuard(trust_key, trust.mod_revision), PrefixGuard(store.keyspace.ca(), keys.revision)),
        (
            Put(store.keyspace.ca_key(signer.kid), codec.encode(await seal_signer(signer, kek))),
            Put(trust_key, codec.encode_over(trust.value, after)),
        ),
    )
    if revision is None:
        raise Conflict("the CA's keys or the trust bundle have just been changed by somebody else")
    return revision
