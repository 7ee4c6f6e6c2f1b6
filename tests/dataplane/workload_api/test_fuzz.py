"""Whatever is sent to the Workload API: the identity that comes back is that of the attested caller, or none does."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trio
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.identity.material import new_key, signing_request
from dataplane.workload_api import workload_pb2 as pb
from dataplane.workload_api.callers import Facts, Selector
from dataplane.workload_api.connection import Call, ServerSettings
from dataplane.workload_api.messages import Trust
from dataplane.workload_api.peer import Doubt
from dataplane.workload_api.server import open_server
from dataplane.workload_api.service import State, WorkloadService
from dataplane.workload_api.svid import WorkloadSvid, key_to_der
from dataplane.workload_api.tokens import Tokens
from dataplane.workload_api.wire import Request, framed
from spiffe.bundle import jwt_keys
from spiffe.jwt import verify
from tests.controlplane.ca.conftest import TRUST_DOMAIN
from tests.dataplane.workload_api.asking import owner
from tests.dataplane.workload_api.raw import RawClient
from tests.dataplane.workload_api.stage import ORDERS_ID, Ca, Clock
from trio_grpc import RpcAbort, StatusCode

# Each of what the others would be for: only the facts decide.
SELECTORS = (
    Selector(uid=1000, unit="web.service"),
    Selector(gid=77),
)
REPLIES: dict[str, type[Message]] = {
    "FetchX509SVID": pb.X509SVIDResponse,
    "FetchX509Bundles": pb.X509BundlesResponse,
    "FetchJWTSVID": pb.JWTSVIDResponse,
    "FetchJWTBundles": pb.JWTBundlesResponse,
    "ValidateJWTSVID": pb.ValidateJWTSVIDResponse,
}


@dataclass(frozen=True)
class Attested:
    """A peer that is still who it was."""

    facts: Facts

    def check(self) -> None: ...


@cache
def served() -> tuple[State, Ca, WorkloadSvid]:
    async def make() -> tuple[State, Ca, WorkloadSvid]:
        clock = Clock()
        ca = await Ca.make(clock)
        key = new_key()
        reply = await ca.issue_x509(signing_request(key))
        state = State(ORDERS_ID, Trust(ca.bundle))
        state.svid = WorkloadSvid.checked(key_to_der(key), tuple(reply.chain), ORDERS_ID, ca.bundle, clock())
        return state, ca, state.svid

    return trio.run(make)


class _Enough(Exception):
    """The first message of a stream was sent."""


def ask(call: Call) -> StatusCode | None:
    """None: the call was answered."""
    state, ca, _ = served()
    return trio.run(_ask, call, state, ca)


async def _ask(call: Call, state: State, ca: Ca) -> StatusCode | None:
    state.changed()  # its event is of this run
    service = WorkloadService(state, Tokens(ca, ORDERS_ID, state.trust.jwt_keys, ca.clock), SELECTORS, ca.clock)
    try:
        await service.handle(call)
    except RpcAbort as abort:
        return abort.code
    except _Enough:
        pass
    return None


def _sender(sent: list[bytes]) -> Any:
    async def send(message: bytes) -> None:
        sent.append(message)
        raise _Enough

    return send


texts = st.one_of(
    st.sampled_from(
        ["", str(ORDERS_ID), f"{ORDERS_ID}2", f"spiffe://{TRUST_DOMAIN}/control-plane", "spiffe://other.example/x", "a"]
    ),
    st.text(max_size=20),
)
requests = st.one_of(
    st.builds(
        lambda audience, spiffe_id: pb.JWTSVIDRequest(audience=audience, spiffe_id=spiffe_id).SerializeToString(),
        st.lists(texts, max_size=3),
        texts,
    ),
    st.builds(lambda a, b: pb.ValidateJWTSVIDRequest(audience=a, svid=b).SerializeToString(), texts, texts),
    st.just(b""),
    st.binary(max_size=60),
)
paths = st.one_of(
    st.sampled_from([f"/SpiffeWorkloadAPI/{name}" for name in REPLIES]),
    st.sampled_from([f"/SpiffeWorkloadAPI/{name}" for name in REPLIES]),
    st.text(max_size=40),
)
good_header = ("workload.spiffe.io", "true")
headers = st.one_of(
    st.just((good_header,)),
    st.lists(
        st.tuples(
            st.sampled_from(["workload.spiffe.io", "spiffe-id", "x-forwarded-client-cert", ":authority", "uid"]),
            st.sampled_from(["true", "TRUE", "0", "1000", str(ORDERS_ID), ""]),
        ),
        max_size=4,
    ).map(tuple),
)
facts = st.builds(
    Facts,
    pid=st.integers(1, 100),
    uid=st.sampled_from([0, 1000, 1001]),
    gids=st.frozensets(st.sampled_from([0, 77, 1000]), max_size=3),
    unit=st.sampled_from([None, "web.service", "web.service.evil", "evil.service"]),
)


def _may(one: Facts) -> bool:
    """What `SELECTORS` say, said again."""
    return (one.uid == 1000 and one.unit == "web.service") or 77 in one.gids


@pytest.mark.fault(16)
@pytest.mark.fault(18)
@settings(max_examples=250, deadline=None)
@given(path=paths, metadata=headers, message=requests, caller=facts, doubtful=st.booleans())
def test_the_identity_is_that_of_the_attested_caller(
    path: str, metadata: tuple[tuple[str, str], ...], message: bytes, caller: Facts, doubtful: bool
) -> None:
    sent: list[bytes] = []
    peer: Any = Doubt("it is not any more who it was") if doubtful and caller.uid == 0 else Attested(caller)
    code = ask(Call(Request(path, metadata, None), message, peer, _sender(sent)))
    method = path.removeprefix("/SpiffeWorkloadAPI/")
    known = path.startswith("/SpiffeWorkloadAPI/") and method in REPLIES
    admitted = _may(caller) and not isinstance(peer, Doubt)
    if not known:
        assert code is StatusCode.UNIMPLEMENTED
    elif [value for name, value in metadata if name == "workload.spiffe.io"] != ["true"]:
        assert code is StatusCode.INVALID_ARGUMENT
    elif not admitted:
        assert code is StatusCode.PERMISSION_DENIED
    if code is not None:
        assert not sent
        return
    (answer,) = sent
    _check_answer(method, answer, message)


def _check_answer(method: str, answer: bytes, message: bytes) -> None:
    _, ca, svid = served()
    reply = REPLIES[method].FromString(answer)
    if isinstance(reply, pb.X509SVIDResponse):
        (given_svid,) = reply.svids
        assert given_svid.spiffe_id == str(ORDERS_ID) == owner(given_svid, given_svid.bundle, ca.clock())
        assert given_svid.x509_svid_key == svid.key
    elif isinstance(reply, pb.JWTSVIDResponse):
        (token,) = reply.svids
        asked = pb.JWTSVIDRequest.FromString(message)
        for audience in asked.audience:
            verified = verify(token.svid, audience, jwt_keys([ca.bundle]), ca.clock())
            assert str(verified.spiffe_id) == token.spiffe_id == str(ORDERS_ID)
        assert list(verified.claims["aud"]) == list(asked.audience)
    elif isinstance(reply, pb.ValidateJWTSVIDResponse):
        raise AssertionError("there was no token in any request")
    else:
        assert list(reply.bundles) == [f"spiffe://{TRUST_DOMAIN}"]  # type: ignore[attr-defined]  # both have bundles


# -- bytes


def _conversation() -> bytes:
    """Of a client that makes three calls, one of which it takes back."""
    pieces: list[bytes] = []

    class Wire:
        async def send_all(self, data: bytes) -> None:
            pieces.append(data)

    async def say() -> None:
        client = RawClient(Wire())  # type: ignore[arg-type]  # all of a stream that `begin` uses
        await client.begin("/echo", b"first")
        await client.begin("/echo", b"second" * 100)
        await client.begin("/echo", b"third", end=False)

    trio.run(say)
    return b"".join(pieces)


CONVERSATION = _conversation()


@st.composite
def spoiled(draw: Any) -> bytes:
    data = bytearray(CONVERSATION)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data) - 1))
        kind, byte, more = draw(st.tuples(st.integers(0, 3), st.integers(0, 255), st.binary(max_size=20)))
        if kind == 0:
            data[place] = byte
        elif kind == 1:
            del data[place:]
            data += more
        elif kind == 2:
            data[place:place] = more
        else:
            data += CONVERSATION[24 + place // 2 :]  # frames again, without the preface
        data = data or bytearray(b"x")
    return bytes(data)


@pytest.mark.fault(18)
@settings(max_examples=60, deadline=None)
@given(st.lists(spoiled(), min_size=1, max_size=3))
def test_no_bytes_harm_the_server(conversations: list[bytes]) -> None:
    """No fault of ours is reported, all is given back, and the next client is served."""
    faults: list[tuple[str, Exception]] = []

    async def echo(call: Call) -> None:
        await call.send(call.message)

    async def check(directory: str) -> None:
        settings = ServerSettings(
            Path(directory) / "s",
            echo,
            lambda _: True,
            lambda _: False,
            lambda what, error: faults.append((what, error)),
        )
        async with open_server(settings) as usage:
            for data in conversations:
                async with await trio.open_unix_socket(os.fspath(settings.socket)) as stream:
                    try:
                        await stream.send_all(data)
                        await stream.send_eof()
                        with trio.fail_after(10):
                            while await stream.receive_some(65536):
                                pass
                    except trio.BrokenResourceError:
                        pass
            async with await trio.open_unix_socket(os.fspath(settings.socket)) as stream:
                client = RawClient(stream)
                answer = await client.ended(await client.begin("/echo", b"still there"))
                assert answer.body == framed(b"still there")
            with trio.fail_after(10):
                while usage.connections or usage.streams:  # noqa: ASYNC110  (a server tells nobody of its rest)
                    await trio.sleep(0.001)

    with tempfile.TemporaryDirectory() as directory:
        trio.run(check, directory)
    assert not faults


def test_the_requests_that_are_made_here_are_ones_that_can_be_decoded_too() -> None:
    """Else the first test would only ever see refusals."""
    with pytest.raises(DecodeError):
        pb.JWTSVIDRequest.FromString(b"\xff")
    caller: Any = Attested(Facts(1, 1000, frozenset(), "web.service"))
    answered = set()
    for method in REPLIES:
        sent: list[bytes] = []
        wish = pb.JWTSVIDRequest(audience=["a"]).SerializeToString() if method == "FetchJWTSVID" else b""
        request = Request(f"/SpiffeWorkloadAPI/{method}", (good_header,), None)
        if ask(Call(request, wish, caller, _sender(sent))) is None:
            answered.add(method)
            _check_answer(method, sent[0], wish)
    assert answered == REPLIES.keys() - {"ValidateJWTSVID"}
