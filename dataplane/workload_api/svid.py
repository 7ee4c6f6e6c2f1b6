"""The app's own X.509-SVID: the sidecar's identity with a key that only the app gets. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from dataplane.identity.renewal import Validity
from schemas.errors import MeshError
from schemas.names import SpiffeId
from schemas.records import TrustBundle
from spiffe.bundle import by_trust_domain
from spiffe.key_ids import authority_key_id
from spiffe.x509 import parse_chain, verify_chain


class UnacceptableSvid(MeshError):
    """What a replica gave, or the disk kept, is no SVID that the app could use."""


@dataclass(frozen=True, slots=True, repr=False)
class WorkloadSvid:
    """`key`: PKCS#8 DER, not encrypted. `chain`: DER, leaf first, without the root. Times: seconds since 1970."""

    spiffe_id: SpiffeId
    key: bytes
    chain: tuple[bytes, ...]
    not_before: int
    expires: int
    issuer: str
    """Authority key identifier (hex) that the leaf names."""

    def __repr__(self) -> str:
        return f"WorkloadSvid({self.spiffe_id}, expires={self.expires}, key=[redacted])"

    @property
    def validity(self) -> Validity:
        return Validity(self.not_before, self.expires)

    @classmethod
    def checked(cls, key: bytes, chain: Sequence[bytes], expected: SpiffeId, bundle: TrustBundle, now: float) -> Self:
        """Raises UnacceptableSvid unless it is `expected`'s by `bundle`, valid now, and the key is its own."""
        try:
            certificates = parse_chain(chain)
            proven = verify_chain(certificates, by_trust_domain([bundle]), now)
            public = load_der_private_key(key, password=None).public_key()
        except (MeshError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise UnacceptableSvid(f"the app's SVID can't be used: {error}") from error
        leaf = certificates[0]
        if proven != expected:
            raise UnacceptableSvid(f"the app's SVID is {proven}'s, it should be {expected}'s")
        spki = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        if public.public_bytes(*spki) != leaf.public_key().public_bytes(*spki):
            raise UnacceptableSvid("the private key of the app's SVID does not belong to its certificate")
        begins, ends = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        return cls(proven, key, tuple(chain), int(begins), int(ends), authority_key_id(leaf))


def key_to_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


# -- on disk


class _File(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="WorkloadSvid", tag_field="kind"):
    api_version: str = "mesh/v1"
    key: bytes
    chain: tuple[bytes, ...]


def encode(svid: WorkloadSvid) -> bytes:
    """Secret: it holds the private key."""
    return msgspec.msgpack.encode(_File(key=svid.key, chain=svid.chain))


def decode(data: bytes, expected: SpiffeId, bundle: TrustBundle, now: float) -> WorkloadSvid:
    """Raises UnacceptableSvid, for any bytes."""
    try:
        file = msgspec.msgpack.decode(data, type=_File)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UnacceptableSvid("the kept SVID of the app can't be read") from error
    return WorkloadSvid.checked(file.key, file.chain, expected, bundle, now)
