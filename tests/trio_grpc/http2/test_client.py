"""The client: on our own server, on grpcio's, and on servers that go away or say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from tests.support.pki import Authority
from tests.trio_grpc.http2.stage import METHOD, SECONDS, running
from trio_grpc import TLS, Context, Listener, RpcAbort, RpcError, ServerTLS, StatusCode, bidi_stream, serve, unary
from trio_grpc.http2 import NOT_CONNECTED, TLS_FAILED, Call, Http2Channel


def on(socket: Path, *, max_message: int = 8 << 20) -> Http2Channel:
    return Http2Channel(f"unix:{socket}", max_message=max_message)


async def echo(call: Call) -> None:
    while True:
        try:
            await call.send(await call.receive())
        except trio.EndOfChannel:
            return


async def obey(call: Call) -> None:
    """The request says what happens to it."""
    message = await call.only_message(SECONDS)
    if message == b"sleep":
        await trio.sleep_forever()
    if message == b"abort":
        raise RpcAbort(StatusCode.NOT_FOUND, "no ä")
    await call.send(message)


async def test_messages_of_any_size_both_ways(tmp_path: Path) -> None:
    async with running(tmp_path, echo) as stage:
        with on(stage.socket) as channel, channel.stream(METHOD) as stream:
            for message in (b"", b"x", b"y" * 100_000, b"z" * 3_000_000):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send, message)
                    assert await stream.receive() == [message]
        assert not stage.faults


async def test_the_end_of_a_call_is_told(tmp_path: Path) -> None:
    async with running(tmp_path, obey) as stage:
        with on(stage.socket, max_message=10) as channel:
            assert await channel.unary(METHOD, b"x", timeout=SECONDS) == b"x"
            for message, timeout, code in (
                (b"abort", SECONDS, StatusCode.NOT_FOUND),
                (b"sleep", 0.05, StatusCode.DEADLINE_EXCEEDED),
                (b"11 letters!", SECONDS, StatusCode.RESOURCE_EXHAUSTED),
            ):
                with pytest.raises(RpcError) as ended:
                    await channel.unary(METHOD, message, timeout=timeout)
                assert ended.value.code is code
            assert await channel.unary(METHOD, b"x", timeout=SECONDS) == b"x", "the connection is as good as before"
        assert stage.usage.connections.total() <= 1


async def test_whoever_reads_for_all_may_be_cancelled(tmp_path: Path) -> None:
    go = trio.Event()

    async def handler(call: Call) -> None:
        message = await call.only_message(SECONDS)
        await go.wait()
        await call.send(message)

    async with running(tmp_path, handler) as stage:
        with on(stage.socket) as channel:
            found: list[bytes] = []

            async def ask(number: int, scope: trio.CancelScope) -> None:
                with scope:
                    found.append(await channel.unary(METHOD, b"%d" % number, timeout=SECONDS))

            scopes = [trio.CancelScope() for _ in range(20)]
            async with trio.open_nursery() as nursery:
                for number, scope in enumerate(scopes):
                    nursery.start_soon(ask, number, scope)
                while stage.usage.streams.total() < 20:
                    await trio.lowlevel.checkpoint()
                for scope in scopes[::2]:
                    scope.cancel()
                go.set()
            assert sorted(map(int, found)) == list(range(1, 20, 2))


async def test_each_message_is_given_by_whoever_reads_and_what_fails_is_not_his(tmp_path: Path) -> None:
    given: list[tuple[bytes, str]] = []

    def take(message: bytes) -> None:
        given.append((message, trio.lowlevel.current_task().name))
        if message == b"bad":
            raise ValueError("what is this?")

    async with running(tmp_path, echo) as stage:
        with on(stage.socket) as channel, channel.stream(METHOD) as plain, channel.stream(METHOD) as handed:

            async def read() -> None:
                assert await plain.receive() == [b"mine"]

            async def take_each() -> None:
                with pytest.raises(ValueError, match="what is this"):
                    await handed.each(take)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, name="reader")
                await handed.send(b"before")
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(take_each, name="taker")
                await trio.testing.wait_all_tasks_blocked()
                for message in (b"good", b"bad", b"after"):
                    await handed.send(message)
                await trio.testing.wait_all_tasks_blocked()
                await plain.send(b"mine")
            assert given[1:] == [(b"good", "reader"), (b"bad", "reader")]
            assert given[0][0] == b"before"


async def test_a_stream_that_is_closed_tells_its_reader(tmp_path: Path) -> None:
    async with running(tmp_path, echo) as stage:
        with on(stage.socket) as channel, channel.stream(METHOD) as stream:

            async def read() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.receive()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                stream.close()
                stream.close()
            with pytest.raises(trio.BrokenResourceError):
                await stream.send(b"x")


async def test_a_server_that_comes_back_is_found_by_the_next_call(tmp_path: Path) -> None:
    with on(tmp_path / "s.sock") as channel:
        for _ in range(2):
            with pytest.raises(RpcError, match=NOT_CONNECTED) as ended:
                await channel.unary(METHOD, b"x", timeout=SECONDS)
            assert ended.value.code is StatusCode.UNAVAILABLE
            async with running(tmp_path, obey):
                assert await channel.unary(METHOD, b"x", timeout=SECONDS) == b"x"
            # Nobody waits now: that the connection is gone is found out before it is used.


async def test_streams_are_told_that_their_server_is_gone(tmp_path: Path) -> None:
    with on(tmp_path / "s.sock") as channel:
        async with running(tmp_path, echo):
            stream = channel.stream(METHOD)
            await stream.send(b"x")
            assert await stream.receive() == [b"x"]
        with pytest.raises(RpcError) as ended:
            await stream.receive()
        assert ended.value.code is StatusCode.UNAVAILABLE
        stream.close()


async def test_a_server_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_grpc.http2.carrier.PING_AFTER_S", 0.05)
    monkeypatch.setattr("trio_grpc.http2.carrier.PING_TIMEOUT_S", 0.05)
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(tmp_path / "s.sock"))
    listener.listen()
    with on(tmp_path / "s.sock") as channel, channel.stream(METHOD) as stream:
        with pytest.raises(RpcError, match="ping") as ended:
            await stream.receive()
        assert ended.value.code is StatusCode.UNAVAILABLE
    listener.close()


async def test_a_channel_that_is_closed_ends_its_calls(tmp_path: Path) -> None:
    async with running(tmp_path, obey) as stage:
        with on(stage.socket) as channel:

            async def ask() -> None:
                with pytest.raises(RpcError) as ended:
                    await channel.unary(METHOD, b"sleep", timeout=SECONDS)
                assert ended.value.code is StatusCode.CANCELLED

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                while not stage.usage.streams.total():
                    await trio.lowlevel.checkpoint()
                channel.close()
            await ask()


async def test_mutual_tls_with_the_server_of_grpcio() -> None:
    servers, clients, others = (Authority.create(name) for name in ("servers", "clients", "others"))
    server, client = servers.issue("s", dns=["localhost"], ip=["127.0.0.1"]), clients.issue("c", server=False)

    async def upper(request: bytes, _: Context) -> bytes:
        return request.upper()

    async def double(requests: trio.MemoryReceiveChannel[bytes], send: object, _: Context) -> None:
        assert callable(send)
        async for request in requests:
            await send(2 * request)

    methods = {"/t.S/U": unary(upper, bytes, bytes), "/t.S/D": bidi_stream(double, bytes, bytes)}
    listener = Listener("127.0.0.1:0", ServerTLS(server.chain_pem, server.key_pem, clients.pem))
    async with serve(methods, [listener], on_error=lambda *_: None) as running_server:
        port = running_server.bound_ports[0]
        tls = TLS(servers.pem, client.chain_pem, client.key_pem)
        for host in ("127.0.0.1", "localhost"):
            with Http2Channel(f"{host}:{port}", tls=tls) as channel, channel.stream("/t.S/D") as stream:
                assert await channel.unary("/t.S/U", b"abc", timeout=SECONDS) == b"ABC"
                await stream.send(b"x" * 50_000)
                assert await stream.receive() == [b"x" * 100_000]
        stranger = others.issue("c", server=False)
        for bad, words in (
            (TLS(others.pem, client.chain_pem, client.key_pem), TLS_FAILED),
            (TLS(servers.pem), "closed"),  # grpcio hangs up without a word
            (TLS(servers.pem, stranger.chain_pem, stranger.key_pem), "closed"),
        ):
            with Http2Channel(f"127.0.0.1:{port}", tls=bad) as channel, pytest.raises(RpcError) as refused:
                await channel.unary("/t.S/U", b"abc", timeout=SECONDS)
            assert refused.value.code is StatusCode.UNAVAILABLE
            assert words in refused.value.details or "lost" in refused.value.details


@pytest.mark.parametrize("target", ["", "host", ":1", "host:", "host:x"])
async def test_a_malformed_target_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="not a target"):
        Http2Channel(target)
