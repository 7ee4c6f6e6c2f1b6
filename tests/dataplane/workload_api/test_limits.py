"""Ten thousand calls, hostile and broken clients: bounded, descriptors flat, honest callers unharmed."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

import pytest
import trio

from dataplane.config import WorkloadApiCaller as Caller
from dataplane.workload_api import workload_pb2 as pb
from dataplane.workload_api.limits import Limits
from dataplane.workload_api.wire import framed
from tests.dataplane.workload_api.asking import raw_client
from tests.dataplane.workload_api.other_process import connected
from tests.dataplane.workload_api.raw import Ended
from tests.dataplane.workload_api.stage import ME, ORDERS_ID, Stage, running
from tests.support.net import eventually
from trio_grpc import StatusCode

SVID = "/SpiffeWorkloadAPI/FetchX509SVID"


def descriptors() -> int:
    """Sockets and pidfds: all that a connection takes."""
    found = 0
    for one in os.listdir("/proc/self/fd"):
        try:
            kind = os.readlink(f"/proc/self/fd/{one}")
        except FileNotFoundError:  # that of the directory itself
            continue
        found += kind.startswith(("socket:", "anon_inode:[pidfd]", "pidfd:"))
    return found


async def _at_rest(stage: Stage) -> None:
    await eventually("nothing is in use", lambda: not (stage.usage.connections or stage.usage.streams))


# -- a client of bytes alone: ten thousand calls of a library would take it minutes

_DATA, _HEADERS = 0, 1
_END_STREAM, _END_HEADERS = 1, 4
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """RFC 7541, 6.2.2: without indexing, so that each call has the same bytes."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


_BLOCK = b"".join(
    _literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", SVID.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"workload.spiffe.io", b"true"),
    )
)


def _calls(first: int, count: int) -> bytes:
    numbers = range(first, first + 2 * count, 2)
    return b"".join(
        _frame(_HEADERS, _END_HEADERS, one, _BLOCK) + _frame(0, _END_STREAM, one, framed(b"")) for one in numbers
    )


async def _settled_calls(stream: trio.SocketStream, wanted: int) -> Counter[str]:
    """How many of `wanted` calls have ended, and how many go on with a first message, once nothing more comes."""
    data, settled = b"", Counter[str]()
    while settled.total() < wanted:
        with trio.move_on_after(20) as waited:
            more = await stream.receive_some(65536)
        if waited.cancelled_caught or not more:
            break
        data += more
        while len(data) >= 9 and len(data) >= (end := 9 + int.from_bytes(data[:3], "big")):
            settled["ended"] += data[3] == _HEADERS and bool(data[4] & _END_STREAM)
            settled["open"] += data[3] == _DATA
            data = data[end:]
    return +settled


@pytest.mark.fault(18)
@pytest.mark.parametrize(("somebody_else", "calls"), [(1, 2_000), (0, 10_000)], ids=["stranger", "admitted"])
async def test_ten_thousand_streams(somebody_else: int, calls: int, tmp_path: Path) -> None:
    """Of a stranger each is refused; who is admitted has so many open, and no more. Descriptors are as before."""
    limits = Limits()
    async with running(tmp_path, callers=[Caller(uid=os.getuid() + somebody_else)]) as stage:
        await stage.served()
        before = descriptors()
        count, each = 16, 16  # connections, and calls at once on each: with what stays open no more than is announced
        done = Counter[str]()
        most = 0

        async def client(turn: _Countdown, last: _Countdown) -> None:
            nonlocal most
            async with await trio.open_unix_socket(os.fspath(stage.socket)) as stream:
                await stream.send_all(_GREETING)
                for first in range(0, calls // count, each):
                    number = min(each, calls // count - first)
                    await stream.send_all(_calls(1 + 2 * first, number))
                    done.update(await _settled_calls(stream, number))
                    most = max(most, stage.usage.streams.total())
                    if not first:  # what may stay open is shared evenly
                        turn.release_one()
                        await turn.wait()
                last.release_one()
                await last.wait()

        async with trio.open_nursery() as nursery:
            turn, last = _Countdown(count), _Countdown(count)
            for _ in range(count):
                nursery.start_soon(client, turn, last)
        admitted = 0 if somebody_else else limits.streams_per_uid
        assert done == +Counter({"ended": calls - admitted, "open": admitted})
        assert most <= limits.streams_per_uid
        await _at_rest(stage)
        assert descriptors() == before
        assert stage.ca.calls == ["x509"]


@pytest.mark.fault(18)
async def test_open_streams_of_one_user_are_bounded_and_so_are_its_connections(tmp_path: Path) -> None:
    limits = Limits(connections=12, connections_per_uid=10, streams_per_connection=8, streams_per_uid=50)
    async with running(tmp_path, limits=limits) as stage:
        await stage.served()
        before = descriptors()
        codes = Counter[str]()
        async with trio.open_nursery() as nursery:

            async def client() -> None:
                try:
                    async with raw_client(stage) as client:
                        answers = [await client.begin(SVID) for _ in range(8)]
                        for answer in answers:
                            await client.news(answer)
                            codes[str(answer.code)] += 1
                        held.release_one()
                        await trio.sleep_forever()
                except (Ended, trio.BrokenResourceError):
                    codes["closed"] += 1
                    held.release_one()

            held = _Countdown(20)
            for _ in range(20):
                nursery.start_soon(client)
            await held.wait()
            assert codes["closed"] == 10
            assert codes["None"] == 50  # they have their SVID
            assert codes[str(StatusCode.RESOURCE_EXHAUSTED)] == 30
            assert stage.usage.streams.total() == 50
            assert stage.usage.connections.total() == 10
            nursery.cancel_scope.cancel()
        await _at_rest(stage)
        assert descriptors() == before
        async with raw_client(stage) as honest:
            await honest.message(await honest.begin(SVID), pb.X509SVIDResponse)


class _Countdown:
    def __init__(self, count: int) -> None:
        self._left = count
        self._done = trio.Event()

    def release_one(self) -> None:
        self._left -= 1
        if not self._left:
            self._done.set()

    async def wait(self) -> None:
        with trio.fail_after(60):
            await self._done.wait()


@pytest.mark.fault(18)
async def test_strangers_take_no_room_of_callers(tmp_path: Path) -> None:
    """All connections that there are, asked for by callers that no selector admits."""
    limits = Limits(connections=8, connections_per_uid=8, strangers=3)
    sleep = os.path.realpath("/bin/sleep")  # noqa: ASYNC240  (of the base system)
    async with running(tmp_path, callers=[Caller(executable=sleep)], limits=limits) as stage:
        await stage.served()
        async with raw_client(stage) as first, raw_client(stage) as second, raw_client(stage) as third:
            for client in (first, second, third):
                answer = await client.ended(await client.begin(SVID))
                assert answer.code is StatusCode.PERMISSION_DENIED
            assert (stage.usage.strangers, stage.usage.connections.total()) == (3, 3)
            async with raw_client(stage) as fourth:
                await fourth.closed()
        await _at_rest(stage)
        assert stage.usage.strangers == 0


@pytest.mark.fault(18)
async def test_a_client_that_takes_its_calls_back_again_and_again_is_sent_away(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(resets=20)) as stage:
        await stage.served()
        async with await trio.open_unix_socket(os.fspath(stage.socket)) as stream:
            reset = b"".join(_calls(one, 1) + _frame(3, 0, one, b"\0\0\0\x08") for one in range(1, 400, 2))
            await stream.send_all(_GREETING + reset)
            with trio.fail_after(10):
                while await stream.receive_some(65536):
                    pass  # to its end
        await _at_rest(stage)


async def test_who_says_nothing_or_nothing_whole_is_not_waited_for(tmp_path: Path) -> None:
    limits = Limits(handshake=1, request=0.2, idle=0.2)
    async with running(tmp_path, limits=limits) as stage:
        await stage.served()
        async with await trio.open_unix_socket(os.fspath(stage.socket)) as silent:
            with trio.fail_after(10):
                while await silent.receive_some(65536):
                    pass
        async with raw_client(stage) as half:
            answer = await half.ended(await half.begin(SVID, body=framed(b"12345")[:7], end=False))
            assert answer.code is StatusCode.DEADLINE_EXCEEDED
            await half.closed()  # idle by now
            assert half.goaway == 0
        await _at_rest(stage)


async def test_a_client_that_takes_nothing_is_sent_away(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(send=0.2)) as stage:
        await stage.served()
        async with await trio.open_unix_socket(os.fspath(stage.socket)) as stream:
            with trio.move_on_after(10) as waited:
                try:
                    await stream.send_all(_GREETING)
                    while True:  # a ping is answered by a ping, and nobody reads them
                        await stream.send_all(_frame(6, 0, 0, b"12345678") * 500)
                except trio.BrokenResourceError:
                    pass
            assert not waited.cancelled_caught
        await _at_rest(stage)


async def test_a_request_that_is_too_long_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(request_bytes=1000)) as stage:
        await stage.served()
        async with raw_client(stage) as client:
            answer = await client.ended(await client.begin(SVID, b"x" * 1001))
            assert answer.code is StatusCode.RESOURCE_EXHAUSTED
            answer = await client.begin(SVID)
            await client.message(answer, pb.X509SVIDResponse)


async def test_plain_http_is_told_what_is_expected(tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        await stage.served()
        async with raw_client(stage) as client:
            assert (await client.ended(await client.begin(SVID, headers={":method": "PUT"}))).http_status == "405"
            other = {"content-type": "application/json"}
            assert (await client.ended(await client.begin(SVID, headers=other))).http_status == "415"
            packed = await client.ended(await client.begin(SVID, headers={"grpc-encoding": "gzip"}))
            assert packed.code is StatusCode.UNIMPLEMENTED
            flagged = await client.ended(await client.begin(SVID, body=b"\1\0\0\0\0"))
            assert flagged.code is StatusCode.UNIMPLEMENTED
            two = await client.ended(await client.begin(SVID, body=framed(b"") * 2))
            assert two.code is StatusCode.INVALID_ARGUMENT
            late = await client.ended(await client.begin(SVID, headers={"grpc-timeout": "50m"}))
            assert late.code is StatusCode.DEADLINE_EXCEEDED
            assert [one.svids[0].spiffe_id for one in late.messages(pb.X509SVIDResponse)] == [str(ORDERS_ID)]


async def test_one_client_that_breaks_the_protocol_harms_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with running(tmp_path, callers=[ME]) as stage:
        await stage.served()
        async with raw_client(stage) as honest:
            answer = await honest.begin(SVID)
            await honest.message(answer, pb.X509SVIDResponse)
            for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", _GREETING + b"\xff" * 100, b"\0" * 65536):
                async with await trio.open_unix_socket(os.fspath(stage.socket)) as stream:
                    await stream.send_all(nonsense)
            async with connected(stage.socket) as other:
                await other.end()
            await stage.other_trust()
            await honest.message(answer, pb.X509SVIDResponse, 2)
        await _at_rest(stage)
        assert not caplog.messages
