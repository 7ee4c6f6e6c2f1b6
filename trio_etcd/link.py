"""Whether a stream is up, since when, and when the server was last heard: what a follower needs to report staleness."""

from dataclasses import dataclass

import trio

from .errors import EtcdError


@dataclass(frozen=True, slots=True)
class LinkState:
    """`connected`: the server has answered on the stream that is open now. `since` is a trio clock time.

    `error` says why it is down, None before the first attempt has failed.
    """

    connected: bool
    endpoint: str
    since: float
    error: EtcdError | None = None


class Link:
    """The state of one stream; changed only by its owner."""

    def __init__(self) -> None:
        self._state = LinkState(False, "", trio.current_time())
        self._changed = trio.Event()
        self._last_heard: float | None = None

    @property
    def state(self) -> LinkState:
        """The current state."""
        return self._state

    @property
    def last_heard(self) -> float | None:
        """trio clock time of the last message from the server, None before the first."""
        return self._last_heard

    def seconds_silent(self) -> float | None:
        """How long ago the server was last heard; None: never."""
        return None if self._last_heard is None else trio.current_time() - self._last_heard

    async def wait_change(self, seen: LinkState) -> LinkState:
        """Return as soon as the state differs from `seen`."""
        while self._state == seen:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
        return self._state

    def heard(self, endpoint: str) -> None:
        """For the owner: a message has arrived."""
        self._last_heard = trio.current_time()
        if not self._state.connected or self._state.endpoint != endpoint:
            self._set(LinkState(True, endpoint, self._last_heard))

    def lost(self, endpoint: str, error: EtcdError | None) -> None:
        """For the owner: the stream has ended, or could not be opened."""
        since = trio.current_time() if self._state.connected else self._state.since
        self._set(LinkState(False, endpoint, since, error))

    def _set(self, state: LinkState) -> None:
        self._state = state
        self._changed.set()
        self._changed = trio.Event()
