"""The server on a Unix socket: as gRPC's own client meets it, and as nobody should."""

from __future__ import annotations

import stat
from pathlib import Path

import h2.events
import pytest
import trio
from h2.errors import ErrorCodes

from tests.trio_grpc.http2.stage import METHOD, SECONDS, Raw, raw, running
from trio_grpc import BindError, RpcAbort, RpcError, StatusCode
from trio_grpc.http2 import Call, Limits, wire


async def echo(call: Call) -> None:
    while True:
        try:
            await call.send(await call.receive())
        except trio.EndOfChannel:
            return


async def test_messages_of_any_size_both_ways(tmp_path: Path) -> None:
    messages = [b"", b"x", b"y" * 100_000, b"z" * 3_000_000, b"end"]  # windows are 64 KiB at first
    async with running(tmp_path, echo) as stage:
        with stage.channel() as channel, channel.stream(METHOD) as stream:
            found: list[bytes] = []
            for message in messages:
                await stream.send(message)
                while len(found) < 1 or found[-1] != message:
                    found += await stream.receive()
            stream.done_sending()
            with pytest.raises(trio.EndOfChannel):
                await stream.receive()
        assert found == messages
        assert not stage.faults
    assert not stage.socket.exists()


async def test_one_request_one_response(tmp_path: Path) -> None:
    async def handler(call: Call) -> None:
        await call.send((await call.only_message(SECONDS))[::-1])

    async with running(tmp_path, handler) as stage:
        with stage.channel() as channel:
            assert await channel.unary(METHOD, b"abc", timeout=SECONDS) == b"cba"


async def test_a_second_message_where_one_is_expected(tmp_path: Path) -> None:
    async def handler(call: Call) -> None:
        await call.only_message(SECONDS)

    async with running(tmp_path, handler) as stage:
        with stage.channel() as channel, channel.stream(METHOD) as stream:
            await stream.send(b"1")
            await stream.send(b"2")
            stream.done_sending()
            with pytest.raises(RpcError, match="exactly one"):
                await stream.receive()


async def test_aborts_faults_and_deadlines_have_their_status(tmp_path: Path) -> None:
    async def handler(call: Call) -> None:
        match await call.only_message(SECONDS):
            case b"abort":
                async with trio.open_nursery():  # a group around it says nothing more
                    raise RpcAbort(StatusCode.NOT_FOUND, "no ä")
            case b"fault":
                raise ValueError("secret")
            case _:
                await trio.sleep_forever()

    async with running(tmp_path, handler) as stage:
        with stage.channel() as channel:
            for message, timeout, code in (
                (b"abort", SECONDS, StatusCode.NOT_FOUND),
                (b"fault", SECONDS, StatusCode.INTERNAL),
                (b"sleep", 0.05, StatusCode.DEADLINE_EXCEEDED),
            ):
                with pytest.raises(RpcError) as ended:
                    await channel.unary(METHOD, message, timeout=timeout)
                assert ended.value.code is code
                assert "secret" not in ended.value.details
        assert [(path, str(error)) for path, error in stage.faults] == [(METHOD, "secret")]


async def test_a_client_that_goes_away_cancels_its_calls(tmp_path: Path) -> None:
    begun, cancelled = trio.Event(), trio.Event()

    async def handler(call: Call) -> None:
        try:
            begun.set()
            await trio.sleep_forever()
        finally:
            cancelled.set()
            with pytest.raises(trio.BrokenResourceError):
                call.send_nowait(b"late")

    async with running(tmp_path, handler) as stage:
        with stage.channel() as channel, channel.stream(METHOD):
            await begun.wait()
        with trio.fail_after(SECONDS):
            await cancelled.wait()
        assert not stage.faults


async def test_a_handler_that_reads_nothing_holds_its_client_back(tmp_path: Path) -> None:
    limits, go = Limits(messages=2), trio.Event()
    total = 0

    async def handler(call: Call) -> None:
        nonlocal total
        await go.wait()
        while True:
            try:
                total += len(await call.receive())
            except trio.EndOfChannel:
                return

    async with running(tmp_path, handler, limits) as stage, raw(stage) as client:
        number = await client.begin()
        await client.hear(h2.events.RemoteSettingsChanged)
        sent, message = 0, wire.framed(b"x" * 1000)
        while client.h2.local_flow_control_window(number) >= len(message):
            client.h2.send_data(number, message)
            await client.flush()
            sent += 1000
        assert sent < 70_000, "nothing is released while nothing is taken"
        go.set()
        while sent < 300_000:  # and all of it once it is
            while client.h2.local_flow_control_window(number) < len(message):
                await client.hear(h2.events.WindowUpdated)
            client.h2.send_data(number, message)
            await client.flush()
            sent += 1000
        client.h2.end_stream(number)
        await client.flush()
        await client.hear(h2.events.StreamEnded)
        assert total == sent


async def test_a_client_that_takes_nothing_is_given_up(tmp_path: Path) -> None:
    raised: list[RpcAbort] = []
    ended = trio.Event()

    async def handler(call: Call) -> None:
        try:
            await call.send(b"x" * 200_000)  # the window is 64 KiB
        except RpcAbort as abort:
            raised.append(abort)
            ended.set()
            raise

    async with running(tmp_path, handler, Limits(send=0.05)) as stage, raw(stage) as client:
        await client.begin()
        await ended.wait()
        assert [abort.code for abort in raised] == [StatusCode.CANCELLED]


async def test_a_message_above_the_limit_ends_its_call_only(tmp_path: Path) -> None:
    async with running(tmp_path, echo, Limits(message_bytes=1000)) as stage:
        with stage.channel() as channel, channel.stream(METHOD) as large, channel.stream(METHOD) as small:
            await large.send(b"x" * 1001)
            with pytest.raises(RpcError) as refused:
                await large.receive()
            assert refused.value.code is StatusCode.RESOURCE_EXHAUSTED
            await small.send(b"x" * 1000)
            assert await small.receive() == [b"x" * 1000]


@pytest.mark.parametrize(("method", "kind", "status"), [("GET", "application/grpc", "405"), ("POST", "text/x", "415")])
async def test_plain_http_is_answered_as_such(tmp_path: Path, method: str, kind: str, status: str) -> None:
    async with running(tmp_path, echo) as stage, raw(stage) as client:
        await client.begin(method=method, kind=kind)
        answer = await client.hear(h2.events.ResponseReceived)
        assert isinstance(answer, h2.events.ResponseReceived)
        assert (":status", status) in [(str(name), str(value)) for name, value in answer.headers or []]


async def test_rubbish_and_silence_are_hung_up_on(tmp_path: Path) -> None:
    async with running(tmp_path, echo, Limits(handshake=0.05)) as stage:
        for first in (b"GET / HTTP/1.1\r\n\r\n", b""):
            async with await trio.open_unix_socket(stage.socket) as stream:
                if first:
                    await stream.send_all(first)
                with trio.fail_after(SECONDS):
                    while await stream.receive_some():
                        pass
        assert not stage.faults


async def begin_and_take_back(client: Raw, times: int) -> None:
    for _ in range(times):
        client.h2.reset_stream(await client.begin())
        await client.flush()
    await client.hear(h2.events.DataReceived)


async def test_many_calls_taken_back_are_an_attack(tmp_path: Path) -> None:
    async with running(tmp_path, echo, Limits(resets=5)) as stage, raw(stage) as client:
        with pytest.raises(trio.EndOfChannel):
            await begin_and_take_back(client, 50)
        assert stage.usage.streams.total() == 0


async def test_calls_of_a_connection_and_connections_are_bounded(tmp_path: Path) -> None:
    limits = Limits(streams_per_connection=1, connections=1)
    async with running(tmp_path, echo, limits) as stage, raw(stage) as client:
        await client.begin()
        second = await client.begin()
        refused = await client.hear(h2.events.StreamReset)
        assert isinstance(refused, h2.events.StreamReset)
        assert (refused.stream_id, refused.error_code) == (second, ErrorCodes.REFUSED_STREAM)
        async with raw(stage) as other:
            with pytest.raises(trio.EndOfChannel):
                await other.hear(h2.events.RemoteSettingsChanged)


async def test_the_socket_has_its_mode_and_replaces_a_dead_one(tmp_path: Path) -> None:
    dead = trio.socket.socket(trio.socket.AF_UNIX)
    await dead.bind(str(tmp_path / "s.sock"))
    dead.close()
    async with running(tmp_path, echo) as stage:
        assert stat.S_IMODE(stage.socket.stat().st_mode) == 0o600
        with stage.channel() as channel, channel.stream(METHOD) as stream:
            await stream.send(b"x")
            assert await stream.receive() == [b"x"]


async def test_a_file_at_the_path_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s.sock").write_text("precious")
    with pytest.raises(BindError, match="is no socket"):
        async with running(tmp_path, echo):
            pass
    assert (tmp_path / "s.sock").read_text() == "precious"
