"""[edge] One call to any of several replicas: failover, a bound on the whole, gRPC's statuses as our errors."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio
from google.protobuf.message import DecodeError, Message

from schemas.api import mesh_pb2
from schemas.errors import (
    Conflict,
    InvalidInput,
    MeshError,
    NotFound,
    Overloaded,
    PermissionDenied,
    Problem,
    Unauthenticated,
    Unavailable,
)
from trio_grpc import TLS, Channel, RpcError, StatusCode

PROBLEMS_KEY = "mesh-problems-bin"  # trailing metadata: a ProblemList
RETRY_AFTER_KEY = "grpc-retry-pushback-ms"  # the same: milliseconds (gRFC A6)

MAX_RETRY_AFTER_MS = 30_000  # whatever a replica says: with its jitter a minute, as any other retry

ATTEMPT_SECONDS = 4.0  # for one replica: of the ten of a call, two black-holed ones leave time for a third

_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.enable_http_proxy", 0),  # the proxy variable of the host's applications leads to the sidecar itself
    ("grpc.use_local_subchannel_pool", 1),  # a new identity means a new connection
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # the caller has its own backoff; gRPC's default is two minutes
)

# The next replica may answer where this one did not. Everything else is an answer.
_TRY_NEXT = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)

# gRPC's words when no connection came about; any other failure may have come after the request was read.
_NEVER_SENT = "failed to connect"


@dataclass(slots=True)
class Replicas:
    """Channels to all replicas with one set of credentials; the one that answered last is asked first."""

    endpoints: Sequence[str]
    tls: TLS
    server_name: str
    start: float
    """Fraction in [0, 1): where in `endpoints` to begin."""
    _channels: dict[str, Channel] = field(default_factory=dict)
    _first: int = field(init=False)
    _in_flight: int = 0
    _retired: bool = False

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise InvalidInput(Problem("replicas", "no endpoint is known", remedy="make a new join file"))
        self._first = int(self.start * len(self.endpoints)) % len(self.endpoints)

    async def call(self, path: str, request: Message, timeout: float) -> bytes:
        self._in_flight += 1
        try:
            return await self._call(path, request.SerializeToString(), trio.current_time() + timeout)
        finally:
            self._in_flight -= 1
            self._close_if_done()

    async def _call(self, path: str, payload: bytes, deadline: float) -> bytes:
        failures: list[str] = []
        outcome_unknown = False
        count = len(self.endpoints)
        for step in range(count):
            index = (self._first + step) % count
            endpoint = self.endpoints[index]
            remaining = deadline - trio.current_time()
            if remaining <= 0:
                break
            # The last one may use all the time that is left.
            attempt = remaining if step == count - 1 else min(remaining, ATTEMPT_SECONDS)
            try:
                reply = await self._channel(endpoint).unary(path, payload, timeout=attempt)
            except RpcError as error:
                if error.code not in _TRY_NEXT:
                    # One with too much to do says when to come again; not to the next one at once, or a replica that
                    # is overrun would take all others with it.
                    self._first = (index + (error.code is StatusCode.RESOURCE_EXHAUSTED)) % count
                    raise as_mesh_error(error, f"replica {endpoint}") from error
                failures.append(f"{endpoint}: {error.details}")
                outcome_unknown |= _NEVER_SENT not in error.details
                self._drop(endpoint)
            else:
                self._first = index
                return reply
        self._first = (self._first + 1) % count
        raise Unavailable(
            f"no replica answered {path} ({'; '.join(failures) or 'no time was left'})",
            outcome_unknown=outcome_unknown,
        )

    def _channel(self, endpoint: str) -> Channel:
        channel = self._channels.get(endpoint)
        if channel is None:
            channel = Channel(endpoint, tls=self.tls, server_name=self.server_name, options=_OPTIONS)
            self._channels[endpoint] = channel
        return channel

    def _drop(self, endpoint: str) -> None:
        """Forget a channel that failed, unless other calls are on it: the next call connects at once."""
        if self._in_flight == 1 and (channel := self._channels.pop(endpoint, None)):
            channel.close()

    def retire(self) -> None:
        self._retired = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._retired and not self._in_flight:
            for channel in self._channels.values():
                channel.close()
            self._channels.clear()


def as_mesh_error(error: RpcError, who: str) -> MeshError:
    """A replica's refusal as the error that it stands for; `who` says which replica."""
    text = f"{who}: {error.details}"
    match error.code:
        case StatusCode.INVALID_ARGUMENT:
            return InvalidInput(*_problems(error) or (Problem(who, error.details),))
        case StatusCode.NOT_FOUND:
            return NotFound(text)
        case StatusCode.ABORTED:
            return Conflict(text)
        case StatusCode.PERMISSION_DENIED:
            return PermissionDenied(text)
        case StatusCode.UNAUTHENTICATED:
            return Unauthenticated(text)
        case StatusCode.RESOURCE_EXHAUSTED:  # refused before anything was done
            return Overloaded(text, retry_after=_retry_after(error))
    return Unavailable(f"{who}: {error}", outcome_unknown=True)


def _retry_after(error: RpcError) -> float:
    """Seconds; 0 where the replica does not say."""
    for key, value in error.trailing:
        if key == RETRY_AFTER_KEY and isinstance(value, str) and value.isascii() and value.isdecimal():
            return min(int(value[:9]), MAX_RETRY_AFTER_MS) / 1000
    return 0.0


def _problems(error: RpcError) -> tuple[Problem, ...]:
    for key, value in error.trailing:
        if key == PROBLEMS_KEY and isinstance(value, bytes):
            try:
                items = mesh_pb2.ProblemList.FromString(value).problems
            except DecodeError:
                return ()
            return tuple(Problem(one.subject, one.message, one.path, one.remedy) for one in items)
    return ()
