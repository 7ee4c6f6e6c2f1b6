"""gRPC's framing and headers, without any IO."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_grpc import RpcAbort, StatusCode
from trio_grpc.http2 import wire

POST = [(b":method", b"POST"), (b":path", b"/s/m"), (b"content-type", b"application/grpc")]


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(1, 50)))
def test_messages_are_whole_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    rest = b"".join(map(wire.framed, messages))
    reader = wire.Messages(40)
    found = []
    for cut in cuts:
        found += reader.feed(rest[:cut])
        rest = rest[cut:]
    found += reader.feed(rest)
    assert found == messages
    assert reader.whole


def test_a_message_is_refused_by_its_announced_length() -> None:
    with pytest.raises(RpcAbort) as refused:
        wire.Messages(9).feed(wire.framed(b"x" * 10)[:5])
    assert refused.value.code is StatusCode.RESOURCE_EXHAUSTED


def test_a_compressed_message_is_refused() -> None:
    with pytest.raises(RpcAbort) as refused:
        wire.Messages(9).feed(b"\1" + wire.framed(b"x")[1:])
    assert refused.value.code is StatusCode.UNIMPLEMENTED


def test_the_end_within_a_message_is_seen() -> None:
    reader = wire.Messages(9)
    reader.feed(wire.framed(b"xy")[:6])
    assert not reader.whole


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"1S", 1.0), (b"20m", 0.02), (b"3M", 180.0), (b"1H", 3600.0), (b"5u", 5e-6), (b"9n", 9e-9)]
)
def test_timeouts(value: bytes, seconds: float) -> None:
    assert wire.request_of([*POST, (b"grpc-timeout", value)]).timeout == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"1", b"S", b"-1S", b"123456789S", b"1s"])
def test_a_timeout_that_cannot_be_read_is_refused(value: bytes) -> None:
    with pytest.raises(RpcAbort) as refused:
        wire.request_of([*POST, (b"grpc-timeout", value)])
    assert refused.value.code is StatusCode.INVALID_ARGUMENT


def test_status_messages_survive_as_headers() -> None:
    [_, (name, text)] = wire.trailers(RpcAbort(StatusCode.NOT_FOUND, "50 % of ä\n"))
    assert (name, text) == (b"grpc-message", b"50 %25 of %C3%A4%0A")


@given(st.floats(1e-6, 1e9))
def test_timeouts_are_sent_as_they_are_read(seconds: float) -> None:
    field = wire.timeout_field(seconds)
    read = wire.request_of([*POST, (b"grpc-timeout", field.encode())]).timeout
    assert read is not None
    assert read == pytest.approx(min(seconds, 99_999_999), rel=0.01, abs=1e-6)


def test_outcomes_of_a_call() -> None:
    assert wire.outcome("0", "") is None
    for status, code in (("5", StatusCode.NOT_FOUND), ("99", StatusCode.UNKNOWN), ("x", StatusCode.UNKNOWN)):
        ended = wire.outcome(status, "50 %25 of %C3%A4")
        assert ended is not None
        assert (ended.code, ended.details) == (code, "50 % of ä")
