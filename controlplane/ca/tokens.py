"""Join and login tokens: counted, expiring, known to etcd by a hash only. Pure: random bytes and time are passed in.

``mjt1.<id>.<secret>`` lets hosts join, ``mlt1.<id>.<secret>`` lets an operator log in. The id is a name (it is in logs
and in the etcd key), the secret is 256 random bits. A plain SHA-256 of it suffices: what is drawn from 2^256 needs no
slow hash. Consuming a token is the writer's business: one transaction, guarded by the record's mod revision.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from schemas import codec, records
from schemas.errors import Conflict, InvalidInput, Problem, Unauthenticated
from schemas.records import JoinToken, LoginToken, TokenUse
from schemas.selectors import ANY, ServiceSelector

AnyToken = JoinToken | LoginToken

_WORDS: Mapping[str, type[AnyToken]] = {"mjt1": JoinToken, "mlt1": LoginToken}
_NAMES: Mapping[type[AnyToken], str] = {JoinToken: "join token", LoginToken: "login token"}
_FORM = re.compile(r"(mjt1|mlt1)\.([0-9a-f]{16})\.([A-Za-z0-9_-]{43})", re.ASCII)
_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_ID_BYTES = 8
_SECRET_BYTES = 32
RANDOM_BYTES = _ID_BYTES + _SECRET_BYTES

MIN_TTL_SECONDS = 60  # below it a clock a few seconds off decides
MAX_TTL_SECONDS = 7 * 24 * 3600  # a token is for a host that joins now; a week covers a slow hand-over, not a drawer
DEFAULT_TTL_SECONDS = 3600
# Each use is kept in the record, so that it can be seen who came by it; a thousand of them are 100 KB.
MAX_USES = 1000

# Compared with when there is no such token, so that an answer takes as long as for one that exists.
_NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class Token:
    kind: type[AnyToken]
    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """What the operator hands over; shown once."""
        word = next(word for word, kind in _WORDS.items() if kind is self.kind)
        return f"{word}.{self.id}.{self.secret}"

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.secret.encode("ascii")).digest()


@dataclass(frozen=True, slots=True)
class Terms:
    """How long and how often, and who says so. `now`: seconds since 1970. `epoch`: id of the store it is kept in."""

    now: float
    ttl_seconds: int
    created_by: str
    epoch: str
    uses: int = 1


def make(random: bytes, kind: type[AnyToken] = JoinToken) -> Token:
    """From `RANDOM_BYTES` unpredictable bytes."""
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"{len(random)} random bytes, expected {RANDOM_BYTES}")
    secret = base64.urlsafe_b64encode(random[_ID_BYTES:]).rstrip(b"=").decode("ascii")
    return Token(kind, random[:_ID_BYTES].hex(), secret)


def parse(text: str, kind: type[AnyToken]) -> Token:
    """Raises Unauthenticated. The text never appears in the error."""
    found = _FORM.fullmatch(text)
    if found is None or _WORDS[found[1]] is not kind:
        raise Unauthenticated(f"this is not a {_NAMES[kind]}; {_REMEDY}")
    return Token(kind, found[2], found[3])


def check_id(text: str) -> str:
    """Raises InvalidInput. A whole token in its place is not repeated."""
    if not _ID.fullmatch(text):
        raise InvalidInput(Problem("token", "this is no id of a token", "id", "`meshadm token list` shows them"))
    return text


def join_record(token: Token, selector: ServiceSelector, terms: Terms) -> JoinToken:
    """What etcd keeps of `token`. Raises InvalidInput for terms out of bounds."""
    return JoinToken(**_common(token, terms), namespace=selector.namespace, service=selector.name or ANY)


def login_record(token: Token, operator: str, terms: Terms) -> LoginToken:
    """What etcd keeps of `token`. Raises InvalidInput for terms out of bounds."""
    if terms.uses != 1:
        raise InvalidInput(Problem("login token", f"{terms.uses} uses", "uses", "one: make one for each device"))
    return LoginToken(**_common(token, terms), operator=operator)


def _common(token: Token, terms: Terms) -> dict[str, Any]:
    what, low, high = _NAMES[token.kind], MIN_TTL_SECONDS, MAX_TTL_SECONDS
    if not low <= terms.ttl_seconds <= high:
        raise InvalidInput(Problem(what, f"lives {terms.ttl_seconds} s", remedy=f"use {low} to {high} s"))
    if not 1 <= terms.uses <= MAX_USES:
        raise InvalidInput(Problem(what, f"{terms.uses} uses", remedy=f"use 1 to {MAX_USES}"))
    return {
        "id": token.id,
        "sha256": token.sha256,
        "epoch": terms.epoch,
        "expires": int(terms.now) + terms.ttl_seconds,
        "created": int(terms.now),
        "created_by": terms.created_by,
        "uses": terms.uses,
    }


def decode(data: bytes, subject: str) -> AnyToken:
    """Raises Corrupt."""
    return codec.decode(data, JoinToken | LoginToken, subject)  # type: ignore[arg-type]  # a union is no type


def check(presented: Token, stored: records.Token | None, epoch: str, now: float) -> None:
    """That `presented` may be used now; `stored`: what etcd has of its id; `epoch`: of the store at present.

    Raises Unauthenticated. An unknown id and a wrong secret look alike; only who knows the secret learns more.
    """
    expected = stored.sha256 if type(stored) is presented.kind and stored.id == presented.id else _NO_HASH
    matches = hmac.compare_digest(presented.sha256, expected)
    if stored is None or not matches:
        raise Unauthenticated(f"unknown {_NAMES[presented.kind]}; {_REMEDY}")
    why = _spent(stored, epoch, now)
    if why:
        raise Unauthenticated(f"{_NAMES[presented.kind]} {stored.id} {why}; {_REMEDY}")


def consume(stored: AnyToken, use: TokenUse) -> AnyToken:
    """The record to write in the same transaction as that for which a token that `check` has passed is used."""
    return msgspec.structs.replace(stored, used=(*stored.used, use))


def revoke(stored: AnyToken, now: float, by: str) -> AnyToken:
    """Raises Conflict where that has been done."""
    if stored.revoked is not None:
        raise Conflict(f"token {stored.id} was revoked already, by {stored.revoked_by}")
    return msgspec.structs.replace(stored, revoked=int(now), revoked_by=by)


def uses_left(stored: records.Token, epoch: str, now: float) -> int:
    return 0 if _spent(stored, epoch, now) else stored.uses - len(stored.used)


def selector_of(token: JoinToken) -> ServiceSelector:
    """What whoever holds the token may become."""
    return ServiceSelector.of(token.namespace, token.service)


_REMEDY = "make a new one with `meshadm token create`"


def _spent(stored: records.Token, epoch: str, now: float) -> str:
    """Why it can't be used any more; empty: it can."""
    if stored.revoked is not None:
        return "was revoked"
    if stored.epoch != epoch:
        return "was made before etcd was restored from a backup, so nobody knows whether it was used since"
    if len(stored.used) >= stored.uses:
        return "has been used" if stored.uses == 1 else f"has been used {stored.uses} times"
    return "has expired" if now >= stored.expires else ""
