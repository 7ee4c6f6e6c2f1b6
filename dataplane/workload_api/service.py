"""The RPCs of the Workload API: who may ask, what is answered, when something new is sent.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_Endpoint.md (sections 4 to 6) for header and codes.
Which identity a caller gets depends on who it is and on nothing that it sends.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio
from google.protobuf.message import DecodeError, Message

from dataplane.workload_api import messages
from dataplane.workload_api import workload_pb2 as pb
from dataplane.workload_api.callers import Facts, Selector, admitted, hash_decides
from dataplane.workload_api.connection import Call
from dataplane.workload_api.messages import Trust
from dataplane.workload_api.peer import Doubt
from dataplane.workload_api.svid import WorkloadSvid
from dataplane.workload_api.tokens import Tokens
from dataplane.workload_api.told import Told
from schemas.errors import InvalidInput, MeshError, PermissionDenied
from schemas.names import SpiffeId
from spiffe.jwt import InvalidToken, verify
from trio_grpc import RpcAbort, StatusCode

SERVICE = "/SpiffeWorkloadAPI/"
SECURITY_HEADER = ("workload.spiffe.io", "true")

M = TypeVar("M", bound=Message)


class State:
    """What there is to serve; `wait_change` returns after each change of it."""

    def __init__(self, spiffe_id: SpiffeId, trust: Trust) -> None:
        self.spiffe_id = spiffe_id
        self.trust = trust
        self.svid: WorkloadSvid | None = None
        self._news = trio.Event()

    def changed(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    @property
    def news(self) -> trio.Event:
        """Set at the next change after this was read."""
        return self._news


class WorkloadService:
    """`clock`: seconds since 1970."""

    def __init__(self, state: State, tokens: Tokens, selectors: Sequence[Selector], clock: Callable[[], float]) -> None:
        self._state = state
        self._tokens = tokens
        self._selectors = selectors
        self._clock = clock
        self._refusals = Told(clock, logging.WARNING, "refused a call")
        self._grants = Told(clock, logging.INFO, "gave an identity")
        self._rpcs: dict[str, Callable[[Call], Awaitable[None]]] = {
            f"{SERVICE}FetchX509SVID": self._fetch_x509_svid,
            f"{SERVICE}FetchX509Bundles": self._fetch_x509_bundles,
            f"{SERVICE}FetchJWTSVID": self._fetch_jwt_svid,
            f"{SERVICE}FetchJWTBundles": self._fetch_jwt_bundles,
            f"{SERVICE}ValidateJWTSVID": self._validate_jwt_svid,
        }

    def knows(self, facts: Facts) -> bool:
        return admitted(self._selectors, facts)

    def hash_decides(self, facts: Facts) -> bool:
        return hash_decides(self._selectors, facts)

    async def handle(self, call: Call) -> None:
        """Raises RpcAbort."""
        rpc = self._rpcs.get(call.request.path)
        if rpc is None:
            raise RpcAbort(StatusCode.UNIMPLEMENTED, "the Workload API has no such method here")
        name, value = SECURITY_HEADER
        if call.request.values(name) != (value,):
            raise RpcAbort(StatusCode.INVALID_ARGUMENT, f"the metadata {name}: {value} is missing")
        self._admit(call)
        await rpc(call)

    def _admit(self, call: Call) -> None:
        """Before every message: who was admitted may be somebody else by now."""
        try:
            if isinstance(call.peer, Doubt):
                raise call.peer
            if not self.knows(call.peer.facts):
                self._refused(call, f"no selector admits {call.peer.facts}")
                raise RpcAbort(StatusCode.PERMISSION_DENIED, f"there is no identity for {call.peer.facts}")
            call.peer.check()
        except Doubt as doubt:
            self._refused(call, str(doubt))
            raise RpcAbort(StatusCode.PERMISSION_DENIED, str(doubt)) from None

    def _refused(self, call: Call, why: str) -> None:
        self._refusals.say(f"{call.request.path[:80]}: {why}")

    def _gave(self, call: Call, what: str) -> None:
        if not isinstance(call.peer, Doubt):
            self._grants.say(f"{what} of {self._state.spiffe_id} to {call.peer.facts}")

    # -- streams

    async def _fetch_x509_svid(self, call: Call) -> None:
        parse(pb.X509SVIDRequest(), call.message)
        await self._follow(call, self._x509_svids, lambda: self._gave(call, "the X.509-SVID"))

    async def _fetch_x509_bundles(self, call: Call) -> None:
        parse(pb.X509BundlesRequest(), call.message)
        await self._follow(call, lambda: messages.x509_bundles(self._state.trust))

    async def _fetch_jwt_bundles(self, call: Call) -> None:
        parse(pb.JWTBundlesRequest(), call.message)
        await self._follow(call, lambda: messages.jwt_bundles(self._state.trust))

    def _x509_svids(self) -> pb.X509SVIDResponse:
        svid = self._state.svid
        if svid is None or self._clock() >= svid.expires:
            raise RpcAbort(
                StatusCode.UNAVAILABLE, "there is no SVID yet, or its time is over: no replica has given one"
            )
        return messages.x509_svids(svid, self._state.trust)

    async def _follow(
        self, call: Call, current: Callable[[], Message], first_sent: Callable[[], None] = lambda: None
    ) -> None:
        """The first message at once, then one at each change. Ends with what `current` raises."""
        sent: Message | None = None
        while True:
            news = self._state.news
            message = current()
            if message != sent:
                self._admit(call)
                await call.send(message.SerializeToString())
                if sent is None:
                    first_sent()
                sent = message
            await news.wait()

    # -- tokens

    async def _fetch_jwt_svid(self, call: Call) -> None:
        request = parse(pb.JWTSVIDRequest(), call.message)
        if not request.audience or not all(request.audience):
            raise RpcAbort(StatusCode.INVALID_ARGUMENT, "audience is missing or empty")
        own = self._state.spiffe_id
        if request.spiffe_id and _spiffe_id(request.spiffe_id) != own:
            raise RpcAbort(StatusCode.PERMISSION_DENIED, "this caller has no such identity")
        try:
            token = await self._tokens.token(request.audience)
        except MeshError as error:
            raise RpcAbort(_status_of(error), str(error)) from error
        self._admit(call)  # asking took a while
        await call.send(messages.jwt_svid(own, token).SerializeToString())
        self._gave(call, f"a JWT-SVID for {', '.join(request.audience)[:80]!r}")

    async def _validate_jwt_svid(self, call: Call) -> None:
        request = parse(pb.ValidateJWTSVIDRequest(), call.message)
        if not request.audience or not request.svid:
            raise RpcAbort(StatusCode.INVALID_ARGUMENT, "audience or svid is missing")
        try:
            verified = verify(request.svid, request.audience, self._state.trust.jwt_keys(), self._clock())
            reply = messages.validated(verified)
        except InvalidToken as error:
            raise RpcAbort(StatusCode.INVALID_ARGUMENT, str(error)) from error
        await call.send(reply.SerializeToString())


def parse(message: M, data: bytes) -> M:
    """Raises RpcAbort."""
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise RpcAbort(StatusCode.INVALID_ARGUMENT, "the request can't be decoded") from error
    return message


def _spiffe_id(text: str) -> SpiffeId:
    try:
        return SpiffeId.parse(text)
    except InvalidInput as error:
        raise RpcAbort(StatusCode.INVALID_ARGUMENT, str(error)) from error


def _status_of(error: MeshError) -> StatusCode:
    match error:
        case InvalidInput():
            return StatusCode.INVALID_ARGUMENT
        case PermissionDenied():
            return StatusCode.PERMISSION_DENIED
    return StatusCode.UNAVAILABLE
