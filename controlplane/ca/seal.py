"""CA keys at rest: sealed under a key-encryption key that never enters etcd. Pure.

`KeyEncryption` is what a KMS or a PKCS#11 token would fit: it is asynchronous, keeps its key to itself, and chooses its
own nonces. `LocalKey` is the one that needs nothing: 32 bytes from a file, AES-256-GCM (NIST SP 800-38D).
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from controlplane.ca.errors import NoAuthority
from controlplane.ca.sign import Issuer
from controlplane.ca.states import Role
from schemas.errors import Corrupt, Problem
from schemas.records import SealedKey
from spiffe.x509 import UNREADABLE

KEY_BYTES = 32
_NONCE_BYTES = 12  # SP 800-38D, 8.2: 96 bits; drawn at random, safe for 2^32 keys under one key-encryption key


@dataclass(frozen=True, slots=True)
class Sealed:
    nonce: bytes
    ciphertext: bytes


class CannotUnseal(Exception):
    """The ciphertext, its associated data or the key is another than when it was sealed."""


class KeyEncryption(Protocol):
    """Seals small secrets. Implementations that reach out raise `schemas.errors.Unavailable` when nothing answers."""

    @property
    def id(self) -> str:
        """Names the key without revealing it; stored beside what it sealed."""

    async def seal(self, plaintext: bytes, associated: bytes) -> Sealed: ...

    async def unseal(self, sealed: Sealed, associated: bytes) -> bytes:
        """Raises CannotUnseal."""


class LocalKey:
    """AES-256-GCM under 32 bytes held in memory. `random(n)` gives n unpredictable bytes."""

    def __init__(self, key: bytes, random: Callable[[int], bytes]) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key-encryption key has {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = AESGCM(key)
        self._random = random
        self.id = hmac.new(key, b"hostmesh key-encryption key id", hashlib.sha256).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"LocalKey(id={self.id!r}, key=[redacted])"

    async def seal(self, plaintext: bytes, associated: bytes) -> Sealed:
        nonce = self._random(_NONCE_BYTES)
        return Sealed(nonce, self._cipher.encrypt(nonce, plaintext, associated))

    async def unseal(self, sealed: Sealed, associated: bytes) -> bytes:
        try:
            return self._cipher.decrypt(sealed.nonce, sealed.ciphertext, associated)
        except (InvalidTag, ValueError) as error:
            raise CannotUnseal from error


class KeyRing:
    """Several key-encryption keys, while one takes the place of another: the first seals, each opens its own."""

    def __init__(self, *keys: KeyEncryption) -> None:
        self.keys = keys

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(key.id for key in self.keys)})"

    @property
    def id(self) -> str:
        return self.keys[0].id

    async def seal(self, plaintext: bytes, associated: bytes) -> Sealed:
        return await self.keys[0].seal(plaintext, associated)

    async def unseal(self, sealed: Sealed, associated: bytes) -> bytes:
        """`check_kek` chooses among the keys before; this is the first one's."""
        return await self.keys[0].unseal(sealed, associated)


async def seal_key(key_id: str, role: Role, issuer: Issuer, kek: KeyEncryption) -> SealedKey:
    """An active key as etcd holds it. Its id and role are bound into the seal, so records can't trade places."""
    sealed = await seal_secret(key_id, role, issuer.key, kek)
    return SealedKey(
        id=key_id,
        role=role,
        state="active",
        chain=(issuer.certificate.public_bytes(Encoding.DER),),
        kek_id=kek.id,
        nonce=sealed.nonce,
        sealed=sealed.ciphertext,
        not_after=int(issuer.certificate.not_valid_after_utc.timestamp()),
    )


async def unseal_key(record: SealedKey, kek: KeyEncryption) -> Issuer:
    """The key with its certificate.

    Raises NoAuthority when it was sealed under another key-encryption key; Corrupt when it was changed since, or when
    certificate and key don't belong together.
    """
    check_kek(record, kek)
    certificate = certificate_of(record)
    key = await unseal_secret(record, kek)
    if _public(key) != certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise _corrupt(record, "its certificate is of another key")
    return Issuer(certificate, key)


async def seal_secret(key_id: str, role: Role, key: ec.EllipticCurvePrivateKey, kek: KeyEncryption) -> Sealed:
    return await kek.seal(
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), _associated(key_id, role)
    )


async def unseal_secret(record: SealedKey, kek: KeyEncryption) -> ec.EllipticCurvePrivateKey:
    """Raises NoAuthority and Corrupt, as `unseal_key` does."""
    kek = check_kek(record, kek)
    try:
        secret = await kek.unseal(Sealed(record.nonce, record.sealed), _associated(record.id, record.role))
        key = load_der_private_key(secret, password=None)
    except (CannotUnseal, ValueError, UnsupportedAlgorithm) as error:
        raise _corrupt(record, "can't be unsealed: it was changed since, or belongs to another record") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _corrupt(record, "holds no key on an elliptic curve")
    return key


def check_kek(record: SealedKey, kek: KeyEncryption) -> KeyEncryption:
    """The one that opens it. Raises NoAuthority when it was sealed under another key-encryption key."""
    for one in kek.keys if isinstance(kek, KeyRing) else (kek,):
        if record.kek_id == one.id:
            return one
    if not record.sealed:
        raise NoAuthority(f"the key {record.id} is held by an external CA, not by the mesh")
    raise NoAuthority(
        f"the key {record.id} was sealed under key-encryption key {record.kek_id}, this host has {kek.id}; "
        "copy the kek of the host where `meshadm init` ran"
    )


def certificate_of(record: SealedKey) -> x509.Certificate:
    """The key's own certificate. Raises Corrupt."""
    try:
        return x509.load_der_x509_certificate(record.chain[0])
    except (IndexError, *UNREADABLE) as error:
        raise _corrupt(record, "has no certificate") from error


def _associated(key_id: str, role: str) -> bytes:
    # The state is left out: it changes while the sealed key stays as it is. NUL is in neither, so no two pairs collide.
    return b"hostmesh SealedKey\0" + key_id.encode() + b"\0" + role.encode()


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _corrupt(record: SealedKey, why: str) -> Corrupt:
    return Corrupt(Problem(f"CA key {record.id} ({record.role})", why, remedy="restore control/ca/ from a backup"))
