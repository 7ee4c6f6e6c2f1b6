"""Unary calls: a deadline on each; reads are retried within it, writes are never repeated unless surely not done."""

import random
from typing import TypeVar

import trio
from google.protobuf.message import Message

from trio_grpc import RpcError

from .backoff import Backoff
from .endpoints import Connection, Endpoints
from .errors import CredentialsRefused, DeadlineExceeded, EtcdError, Unavailable, from_rpc

ATTEMPT_S = 2.0  # one attempt of a read where other endpoints remain: a frozen member must leave time for the next
RETRY_FIRST_S = 0.02
RETRY_MOST_S = 0.5

R = TypeVar("R", bound=Message)


class Calls:
    """Sends one request, decodes one response, chooses the endpoint, translates errors."""

    def __init__(self, endpoints: Endpoints, default_timeout: float, rng: random.Random) -> None:
        self.endpoints = endpoints
        self.rng = rng
        self._default_timeout = default_timeout

    def seconds(self, timeout: float | None) -> float:
        """The call's timeout. Raises ValueError unless it is positive."""
        seconds = self._default_timeout if timeout is None else timeout
        if not seconds > 0:
            raise ValueError(f"timeout must be above 0 seconds, not {seconds}")
        return seconds

    async def read(self, path: str, request: Message, response: type[R], timeout: float | None = None) -> R:
        """Repeated on other endpoints until `timeout`; safe only for what changes nothing."""
        deadline = trio.current_time() + self.seconds(timeout)
        backoff = Backoff(RETRY_FIRST_S, RETRY_MOST_S, self.rng)
        refused = 0
        while True:
            left = max(deadline - trio.current_time(), 0.001)
            attempt = left if len(self.endpoints) == 1 else min(left, max(ATTEMPT_S, left / len(self.endpoints)))
            try:
                return await self._once(path, request, response, attempt, write=False)
            except CredentialsRefused:
                refused += 1
                if refused >= len(self.endpoints):  # every member says the same: trying on would hide it
                    raise
            except Unavailable as failure:
                pause = backoff.pause()
                if trio.current_time() + pause >= deadline:
                    raise
                if not isinstance(failure, DeadlineExceeded):
                    await trio.sleep(pause)

    async def write(self, path: str, request: Message, response: type[R], timeout: float | None = None) -> R:
        """Sent once; again only when etcd surely did nothing. Else the error says `maybe_applied`."""
        deadline = trio.current_time() + self.seconds(timeout)
        backoff = Backoff(RETRY_FIRST_S, RETRY_MOST_S, self.rng)
        while True:
            try:
                return await self._once(path, request, response, max(deadline - trio.current_time(), 0.001), write=True)
            except EtcdError as failure:
                pause = backoff.pause()
                if not failure.retryable or trio.current_time() + pause >= deadline:
                    raise
                await trio.sleep(pause)

    async def at(self, connection: Connection, path: str, request: Message, response: type[R], timeout: float) -> R:
        """One attempt of a read at one given member."""
        with connection.used():
            try:
                raw = await connection.transport.unary(path, request.SerializeToString(), timeout=timeout)
            except RpcError as failure:
                raise from_rpc(failure, what=path, endpoint=connection.endpoint, write=False) from None
        return response.FromString(raw)

    async def _once(self, path: str, request: Message, response: type[R], timeout: float, *, write: bool) -> R:
        with self.endpoints.current().used() as connection:
            try:
                raw = await connection.transport.unary(path, request.SerializeToString(), timeout=timeout)
            except RpcError as failure:
                error = from_rpc(failure, what=path, endpoint=connection.endpoint, write=write)
                if isinstance(error, Unavailable | CredentialsRefused):
                    self.endpoints.failed(connection)
                raise error from None
        return response.FromString(raw)
