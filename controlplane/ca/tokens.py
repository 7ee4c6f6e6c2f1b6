"""Join tokens: one use, expiring, known to etcd by a hash only. Pure: random bytes and time are passed in.

``mjt1.<id>.<secret>``: the id is a name (it is in logs and in the etcd key), the secret is 256 random bits. A plain
SHA-256 of it suffices: what is drawn from 2^256 needs no slow hash. Consuming a token is the writer's business: one
transaction, guarded by the record's mod revision.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field

import msgspec

from schemas.errors import InvalidInput, Problem, Unauthenticated
from schemas.names import ServiceRef
from schemas.records import JoinToken

_FORM = re.compile(r"mjt1\.([0-9a-f]{16})\.([A-Za-z0-9_-]{43})", re.ASCII)
_ID_BYTES = 8
_SECRET_BYTES = 32
RANDOM_BYTES = _ID_BYTES + _SECRET_BYTES

MIN_TTL_SECONDS = 60  # below it a clock a few seconds off decides
MAX_TTL_SECONDS = 7 * 24 * 3600  # a token is for a host that joins now; a week covers a slow hand-over, not a drawer
DEFAULT_TTL_SECONDS = 3600

# Compared with when there is no such token, so that an answer takes as long as for one that exists.
_NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class Token:
    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """What the operator hands over; shown once."""
        return f"mjt1.{self.id}.{self.secret}"

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.secret.encode("ascii")).digest()


def make(random: bytes) -> Token:
    """From `RANDOM_BYTES` unpredictable bytes."""
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"{len(random)} random bytes, expected {RANDOM_BYTES}")
    secret = base64.urlsafe_b64encode(random[_ID_BYTES:]).rstrip(b"=").decode("ascii")
    return Token(random[:_ID_BYTES].hex(), secret)


def parse(text: str) -> Token:
    """Raises Unauthenticated. The text never appears in the error."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise Unauthenticated("this is not a join token; make one with `meshadm token create`")
    return Token(*found.groups())


def record(token: Token, service: ServiceRef, now: float, ttl_seconds: int, created_by: str) -> JoinToken:
    """What etcd keeps of `token`. Raises InvalidInput for a time to live out of bounds."""
    if not MIN_TTL_SECONDS <= ttl_seconds <= MAX_TTL_SECONDS:
        raise InvalidInput(
            Problem("join token", f"lives {ttl_seconds} s", remedy=f"use {MIN_TTL_SECONDS} to {MAX_TTL_SECONDS} s")
        )
    return JoinToken(
        id=token.id,
        sha256=token.sha256,
        namespace=service.namespace,
        service=service.name,
        expires=int(now) + ttl_seconds,
        created=int(now),
        created_by=created_by,
    )


def consume(presented: Token, stored: JoinToken | None, now: float, used_by: str) -> JoinToken:
    """The record to write in the same transaction as the join, if the token is good; `stored`: what etcd has of its id.

    Raises Unauthenticated. An unknown id and a wrong secret look alike; only who knows the secret learns more.
    """
    expected = stored.sha256 if stored is not None and stored.id == presented.id else _NO_HASH
    matches = hmac.compare_digest(presented.sha256, expected)
    if stored is None or not matches:
        raise Unauthenticated("unknown join token; make a new one with `meshadm token create`")
    if stored.used is not None:
        raise Unauthenticated(f"join token {stored.id} has been used; make a new one with `meshadm token create`")
    if now >= stored.expires:
        raise Unauthenticated(f"join token {stored.id} has expired; make a new one with `meshadm token create`")
    return msgspec.structs.replace(stored, used=int(now), used_by=used_by)


def service_of(token: JoinToken) -> ServiceRef:
    """The service that whoever holds the token becomes."""
    return ServiceRef(token.namespace, token.service)
