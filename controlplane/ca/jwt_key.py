"""The key that signs JWT-SVIDs: made, sealed, opened, published. Pure: the key and the time are passed in.

A bare key, without a certificate: what vouches for it is the trust bundle that names it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controlplane.ca.errors import AuthorityExpired
from controlplane.ca.seal import KeyEncryption, seal_secret, unseal_secret
from controlplane.ca.states import active_key
from controlplane.ca.template import ROOT_SECONDS
from schemas.names import SpiffeId
from schemas.records import JwtAuthority, SealedKey
from spiffe import jwt

# A token is shown to others, who could show it on: it lives for as long as a call or two may take.
JWT_SECONDS = 300
# It stands in the bundle beside the roots and is an anchor as they are: what ends it is rotation, not its date.
KEY_SECONDS = ROOT_SECONDS
_ID_BYTES = 8  # ids have only to differ from each other


@dataclass(frozen=True, slots=True)
class JwtSigner:
    """`not_after`: seconds since 1970; no token signed with the key lives longer."""

    kid: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    not_after: int

    @property
    def authority(self) -> JwtAuthority:
        """What the trust bundle says of it."""
        public = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return JwtAuthority(kid=self.kid, public_key=public, not_after=self.not_after)

    def issue(self, spiffe_id: SpiffeId, audience: list[str], now: float) -> tuple[str, int]:
        """A JWT-SVID and its end in seconds since 1970. Raises AuthorityExpired."""
        issued, expires = int(now), int(now) + JWT_SECONDS
        if expires > self.not_after:
            raise AuthorityExpired(f"the JWT key {self.kid} has expired or is about to; a new one has to be made")
        return jwt.sign(spiffe_id, audience, issued=issued, expires=expires, kid=self.kid, key=self.key), expires


def new_signer(key: ec.EllipticCurvePrivateKey, now: float, random: Callable[[int], bytes]) -> JwtSigner:
    """`random(n)`: n unpredictable bytes."""
    return JwtSigner(f"mesh-jwt-{random(_ID_BYTES).hex()}", key, int(now) + KEY_SECONDS)


async def seal_signer(signer: JwtSigner, kek: KeyEncryption) -> SealedKey:
    sealed = await seal_secret(signer.kid, "mesh-jwt", signer.key, kek)
    return SealedKey(
        id=signer.kid,
        role="mesh-jwt",
        state="active",
        chain=(),
        kek_id=kek.id,
        nonce=sealed.nonce,
        sealed=sealed.ciphertext,
        not_after=signer.not_after,
        leaf_seconds=JWT_SECONDS,
    )


async def open_signer(records: Iterable[SealedKey], kek: KeyEncryption) -> JwtSigner | None:
    """The active one of all records under ``control/ca/``; None where the mesh has no JWT key yet.

    Raises NoAuthority, TwoActiveKeys and Corrupt.
    """
    of_jwt = [record for record in records if record.role == "mesh-jwt"]
    if not of_jwt:
        return None
    record = active_key(of_jwt, "mesh-jwt")
    return JwtSigner(record.id, await unseal_secret(record, kek), record.not_after)
