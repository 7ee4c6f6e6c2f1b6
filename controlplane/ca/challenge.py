"""Challenges that hosts sign to prove that they hold a key: given out without being kept, good once. No IO.

A challenge is random bytes, its end, and a MAC by a key that the replica makes at its start. So strangers can ask for
as many as they like at the cost of one hash each, and what was answered is remembered only until it would have ended.
A challenge is good at the replica that gave it: one that has been restarted meanwhile does not know it.
"""

import hashlib
import hmac

from schemas.errors import Unauthenticated

KEY_BYTES = 32
RANDOM_BYTES = 16
LIFE_SECONDS = 60  # signing takes milliseconds, with a hardware key a second or two
_END_BYTES = 8
_MAC_BYTES = hashlib.sha256().digest_size


class Challenges:
    """`key`: KEY_BYTES unpredictable bytes. `now`: seconds since 1970."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"{len(key)} bytes of a key, expected {KEY_BYTES}")
        self._key = key
        self._answered: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return "Challenges(key=[redacted])"

    def make(self, random: bytes, now: float) -> tuple[bytes, int]:
        """The nonce to be signed, and when it ends."""
        if len(random) != RANDOM_BYTES:
            raise ValueError(f"{len(random)} random bytes, expected {RANDOM_BYTES}")
        end = int(now) + LIFE_SECONDS
        body = random + end.to_bytes(_END_BYTES, "big")
        return body + self._mac(body), end

    def check(self, nonce: bytes, now: float) -> None:
        """That it is one of ours, in time and not answered yet. Raises Unauthenticated."""
        body, mac = nonce[:-_MAC_BYTES], nonce[-_MAC_BYTES:]
        if len(nonce) != RANDOM_BYTES + _END_BYTES + _MAC_BYTES or not hmac.compare_digest(mac, self._mac(body)):
            raise Unauthenticated("this challenge is not of this replica: ask for another one here")
        if now >= int.from_bytes(body[RANDOM_BYTES:], "big"):
            raise Unauthenticated(f"the challenge was answered after more than {LIFE_SECONDS} s: ask for another one")
        if nonce in self._answered:
            raise Unauthenticated("the challenge has been answered already: ask for another one")

    def answer(self, nonce: bytes, now: float) -> None:
        """Uses it up. Raises Unauthenticated, as `check` does."""
        self.check(nonce, now)
        self._answered = {one: end for one, end in self._answered.items() if end > now}
        self._answered[nonce] = int.from_bytes(nonce[RANDOM_BYTES : RANDOM_BYTES + _END_BYTES], "big")

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")
