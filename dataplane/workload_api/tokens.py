"""[edge] JWT-SVIDs for the app: asked of a replica, kept for a while.

A token that is still good for half its life is given again: who asks for one before each request asks no replica each
time, and goes on for some minutes when none answers.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from schemas.api import mesh_pb2
from schemas.errors import Unavailable
from schemas.names import SpiffeId
from spiffe.jwt import InvalidToken, PublicKey, verify

# Audiences whose token is kept; an app calls a few others. 256 tokens are about 128 KiB.
MAX_TOKENS = 256
# A token that ends sooner than this is of no use to whoever gets it; asked for anew each time, it is refused instead.
MIN_SECONDS_LEFT = 10.0


class JwtIssuer(Protocol):
    """A replica, for this."""

    async def issue_jwt(self, audience: Sequence[str]) -> mesh_pb2.IssueJwtReply: ...


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    obtained: float
    expires: float


class Tokens:
    """`clock`: seconds since 1970. `keys`: what tokens are verified with now, by trust domain and key id."""

    def __init__(
        self,
        issuer: JwtIssuer,
        spiffe_id: SpiffeId,
        keys: Callable[[], dict[str, dict[str, PublicKey]]],
        clock: Callable[[], float],
    ) -> None:
        self._issuer = issuer
        self._spiffe_id = spiffe_id
        self._keys = keys
        self._clock = clock
        self._kept: OrderedDict[tuple[str, ...], _Token] = OrderedDict()
        self._asking = trio.CapacityLimiter(8)  # of one app; the replicas are there for all

    async def token(self, audience: Sequence[str]) -> str:
        """Raises InvalidInput for an audience that the replicas refuse, Unavailable and whatever else they say."""
        wanted = tuple(audience)
        kept = self._kept.get(wanted)
        now = self._clock()
        if kept is not None and self._good(kept, wanted, now) and now < (kept.obtained + kept.expires) / 2:
            self._kept.move_to_end(wanted)
            return kept.text
        try:
            async with self._asking:
                fresh = await self._ask(wanted)
        except Unavailable:
            now = self._clock()
            if kept is None or now + MIN_SECONDS_LEFT >= kept.expires or not self._good(kept, wanted, now):
                raise
            return kept.text
        self._kept[wanted] = fresh
        self._kept.move_to_end(wanted)
        if len(self._kept) > MAX_TOKENS:
            self._kept.popitem(last=False)
        return fresh.text

    async def _ask(self, audience: tuple[str, ...]) -> _Token:
        reply = await self._issuer.issue_jwt(audience)
        token = _Token(reply.token, self._clock(), reply.expires)
        if not self._good(token, audience, token.obtained):
            raise Unavailable("a replica gave a JWT-SVID that the trust bundle does not verify; the bundle may be late")
        return token

    def _good(self, token: _Token, audience: tuple[str, ...], now: float) -> bool:
        """Whether others would take it: it is ours, for all of the audience, and its key is still in the bundle."""
        try:
            keys = self._keys()
            return all(verify(token.text, one, keys, now).spiffe_id == self._spiffe_id for one in audience)
        except InvalidToken:
            return False
