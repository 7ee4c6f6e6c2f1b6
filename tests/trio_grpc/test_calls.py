"""Calls and streams between this package's client and server, over real sockets."""

import functools
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from trio_grpc import (
    BindError,
    Channel,
    Context,
    Listener,
    Method,
    RpcAbort,
    RpcError,
    Send,
    StatusCode,
    Stream,
    bidi_stream,
    serve,
    server_stream,
    unary,
)

Reported = list[tuple[str, Exception]]


def _same(payload: bytes) -> bytes:
    return payload


def _unary(handler: Callable[[bytes, Context], object]) -> Method:
    return unary(handler, _same, _same)  # type: ignore[arg-type] # tests pass async functions of bytes


@asynccontextmanager
async def serving(
    methods: dict[str, Method], reported: Reported | None = None, max_streams: int = 8
) -> AsyncIterator[Channel]:
    def on_error(path: str, failure: Exception) -> None:
        assert reported is not None, failure
        reported.append((path, failure))

    async with serve(methods, [Listener("127.0.0.1:0")], on_error=on_error, max_streams=max_streams) as server:
        with Channel(f"127.0.0.1:{server.bound_ports[0]}") as channel:
            yield channel


async def rest_of(stream: Stream) -> list[bytes]:
    """Everything up to a good end."""
    received: list[bytes] = []
    while True:
        try:
            received += await stream.receive()
        except trio.EndOfChannel:
            return received


async def test_unary_carries_bytes_metadata_and_deadline() -> None:
    seen: list[Context] = []

    async def handler(request: bytes, context: Context) -> bytes:
        seen.append(context)
        return request[::-1]

    async with serving({"/t.T/Call": _unary(handler)}) as channel:
        answer = await channel.unary("/t.T/Call", b"abc", timeout=7, metadata=[("x-who", "me")])
    assert answer == b"cba"
    (context,) = seen
    assert ("x-who", "me") in context.metadata
    assert context.peer.startswith("ipv4:127.0.0.1:")
    assert context.peer_certificate is None
    assert context.deadline is not None
    assert context.deadline - trio.current_time() == pytest.approx(7, abs=2)


async def test_stream_without_deadline_has_none() -> None:
    async def handler(request: bytes, send: Send[bytes], context: Context) -> None:
        await send(repr(context.seconds_left()).encode())

    async with serving({"/t.T/S": server_stream(handler, _same, _same)}) as channel:
        with channel.server_stream("/t.T/S", b"") as stream:
            assert await stream.receive() == [b"None"]


async def test_abort_reaches_the_caller_with_its_metadata_also_out_of_a_nursery() -> None:
    async def handler(request: bytes, context: Context) -> bytes:
        async def fail() -> None:
            raise RpcAbort(StatusCode.FAILED_PRECONDITION, "not now", [("why-bin", b"\x00\x01")])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()
        return b""

    async with serving({"/t.T/Call": _unary(handler)}) as channel:
        with pytest.raises(RpcError, match="not now") as caught:
            await channel.unary("/t.T/Call", b"", timeout=5)
    assert caught.value.code is StatusCode.FAILED_PRECONDITION
    assert ("why-bin", b"\x00\x01") in caught.value.trailing


async def test_an_exception_in_a_handler_is_reported_and_not_leaked() -> None:
    async def handler(request: bytes, context: Context) -> bytes:
        raise RuntimeError("password=hunter2")

    reported: Reported = []
    async with serving({"/t.T/Call": _unary(handler)}, reported) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary("/t.T/Call", b"", timeout=5)
    assert caught.value.code is StatusCode.INTERNAL
    assert "hunter2" not in caught.value.details
    assert [(path, str(failure)) for path, failure in reported] == [("/t.T/Call", "password=hunter2")]


async def test_unknown_method_and_malformed_request() -> None:
    async def handler(request: str, context: Context) -> str:
        return request

    method = unary(handler, lambda raw: raw.decode("ascii"), str.encode)
    async with serving({"/t.T/Call": method}) as channel:
        with pytest.raises(RpcError) as unknown:
            await channel.unary("/t.T/Other", b"", timeout=5)
        with pytest.raises(RpcError) as malformed:
            await channel.unary("/t.T/Call", b"\xff", timeout=5)
    assert unknown.value.code is StatusCode.UNIMPLEMENTED
    assert malformed.value.code is StatusCode.INVALID_ARGUMENT


async def test_bidirectional_stream_both_ends_close_well() -> None:
    async def handler(requests: trio.MemoryReceiveChannel[bytes], send: Send[bytes], context: Context) -> None:
        async for request in requests:
            await send(request.upper())
        await send(b"bye")

    async with serving({"/t.T/Chat": bidi_stream(handler, _same, _same)}) as channel:
        with channel.stream("/t.T/Chat") as stream:
            received: list[bytes] = []
            for word in (b"a", b"b", b"c"):
                await stream.send(word)
                received += await stream.receive()
            stream.done_sending()
            received += await rest_of(stream)
            assert received == [b"A", b"B", b"C", b"bye"]
            with pytest.raises(trio.BrokenResourceError):
                await stream.send(b"late")


async def test_malformed_message_in_a_stream_is_the_callers_fault() -> None:
    async def handler(requests: trio.MemoryReceiveChannel[str], send: Send[str], context: Context) -> None:
        async for request in requests:
            await send(request)

    method = bidi_stream(handler, lambda raw: raw.decode("ascii"), str.encode)
    async with serving({"/t.T/Chat": method}) as channel:
        with channel.stream("/t.T/Chat") as stream:
            await stream.send(b"fine")
            assert await stream.receive() == [b"fine"]
            await stream.send(b"\xff")
            with pytest.raises(RpcError) as caught:
                await stream.receive()
    assert caught.value.code is StatusCode.INVALID_ARGUMENT


async def test_cancelling_a_unary_call_cancels_its_handler() -> None:
    started, cancelled = trio.Event(), trio.Event()

    async def handler(request: bytes, context: Context) -> bytes:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        return b""

    async with serving({"/t.T/Call": _unary(handler)}) as channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(channel.unary, "/t.T/Call", b"", timeout=60))
            await started.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await cancelled.wait()


@pytest.mark.parametrize("kind", ["server", "bidi"])
async def test_closing_a_stream_cancels_its_handler(kind: str) -> None:
    cancelled = trio.Event()

    async def server_handler(request: bytes, send: Send[bytes], context: Context) -> None:
        await send(b"started")
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async def bidi_handler(requests: trio.MemoryReceiveChannel[bytes], send: Send[bytes], context: Context) -> None:
        await server_handler(b"", send, context)

    methods = {
        "/t.T/server": server_stream(server_handler, _same, _same),
        "/t.T/bidi": bidi_stream(bidi_handler, _same, _same),
    }
    async with serving(methods) as channel:
        opened = channel.stream("/t.T/bidi") if kind == "bidi" else channel.server_stream("/t.T/server", b"")
        with opened as stream:
            assert await stream.receive() == [b"started"]
        with trio.fail_after(5):
            await cancelled.wait()


async def test_a_deadline_that_passes_cancels_the_handler() -> None:
    cancelled = trio.Event()

    async def handler(request: bytes, context: Context) -> bytes:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        return b""

    async with serving({"/t.T/Call": _unary(handler)}) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary("/t.T/Call", b"", timeout=0.05)
        assert caught.value.code is StatusCode.DEADLINE_EXCEEDED
        with trio.fail_after(5):
            await cancelled.wait()


async def test_a_slow_receiver_holds_the_server_back_and_loses_nothing() -> None:
    total, size = 600, 100_000  # 60 MB: more than all the buffers between the two together
    sent = 0

    async def handler(request: bytes, send: Send[bytes], context: Context) -> None:
        nonlocal sent
        for number in range(total):
            await send(number.to_bytes(4, "big") + bytes(size))
            sent = number + 1

    async with serving({"/t.T/S": server_stream(handler, _same, _same)}) as channel:
        with channel.server_stream("/t.T/S", b"") as stream:
            before, still = -1, 0
            while still < 5:  # the sender has come to rest when five looks in a row see no progress
                await trio.sleep(0.05)
                before, still = sent, still + 1 if sent == before else 0
            assert 0 < sent < total
            received = [int.from_bytes(message[:4], "big") for message in await rest_of(stream)]
    assert received == list(range(total))


async def test_a_handler_that_does_not_read_holds_the_client_back() -> None:
    release = trio.Event()

    async def handler(requests: trio.MemoryReceiveChannel[bytes], send: Send[bytes], context: Context) -> None:
        await release.wait()
        count = 0
        async for _ in requests:
            count += 1
        await send(str(count).encode())

    async with serving({"/t.T/Chat": bidi_stream(handler, _same, _same)}) as channel:
        with channel.stream("/t.T/Chat") as stream:
            sent = 0
            while True:
                with trio.move_on_after(0.5) as patience:
                    await stream.send(bytes(100_000))
                    sent += 1
                if patience.cancelled_caught:
                    break
                assert sent < 1000, "nothing held the client back"
            release.set()
            stream.done_sending()
            assert await stream.receive() == [str(sent).encode()]


async def test_streams_and_calls_above_the_limits_are_refused_and_slots_come_back() -> None:
    async def stream_handler(request: bytes, send: Send[bytes], context: Context) -> None:
        await send(b"in")
        await trio.sleep_forever()

    async with serving({"/t.T/S": server_stream(stream_handler, _same, _same)}, max_streams=1) as channel:
        with channel.server_stream("/t.T/S", b"") as first:
            assert await first.receive() == [b"in"]
            with channel.server_stream("/t.T/S", b"") as second:
                with pytest.raises(RpcError) as caught:
                    await second.receive()
            assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
        with trio.fail_after(5):
            while True:
                with channel.server_stream("/t.T/S", b"") as third:
                    try:
                        assert await third.receive() == [b"in"]
                    except RpcError:
                        continue  # the first one's slot is on its way back
                    break


async def test_leaving_the_server_cancels_streams_and_lets_unary_calls_finish() -> None:
    started, finish = trio.Event(), trio.Event()
    outcome: list[object] = []

    async def slow(request: bytes, context: Context) -> bytes:
        started.set()
        await finish.wait()
        return b"done"

    async def endless(request: bytes, send: Send[bytes], context: Context) -> None:
        await send(b"in")
        await trio.sleep_forever()

    methods = {"/t.T/Slow": _unary(slow), "/t.T/S": server_stream(endless, _same, _same)}
    async with trio.open_nursery() as nursery:
        async with serve(methods, [Listener("127.0.0.1:0")], on_error=lambda *_: None) as server:
            channel = Channel(f"127.0.0.1:{server.bound_ports[0]}")
            stream = channel.server_stream("/t.T/S", b"")
            assert await stream.receive() == [b"in"]

            async def call() -> None:
                outcome.append(await channel.unary("/t.T/Slow", b"", timeout=30))

            async def watch_stream() -> None:
                try:
                    await stream.receive()
                except RpcError as failure:
                    outcome.append(failure.code)
                finish.set()  # the stream ended while the unary call still ran

            nursery.start_soon(call)
            await started.wait()
            nursery.start_soon(watch_stream)
    stream.close()
    channel.close()
    assert outcome == [StatusCode.UNAVAILABLE, b"done"]


def _own_threads() -> list[str]:
    return sorted(
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith(("trio_grpc", "Thread-", "ThreadPool"))
    )


async def test_no_thread_is_left_when_client_and_server_are_cancelled() -> None:
    async def handler(requests: trio.MemoryReceiveChannel[bytes], send: Send[bytes], context: Context) -> None:
        async for request in requests:
            await send(request)

    async def echo(request: bytes, context: Context) -> bytes:
        return request

    before = _own_threads()
    methods = {"/t.T/Chat": bidi_stream(handler, _same, _same), "/t.T/Call": _unary(echo)}
    with trio.CancelScope() as scope:
        async with serving(methods) as channel:
            await channel.unary("/t.T/Call", b"", timeout=5)
            with channel.stream("/t.T/Chat") as one, channel.stream("/t.T/Chat") as two:
                for stream in (one, two):
                    await stream.send(b"x")
                    assert await stream.receive() == [b"x"]
                assert len(_own_threads()) > len(before)
                scope.cancel()
                await trio.sleep_forever()
    with trio.fail_after(5):
        while _own_threads() != before:  # noqa: ASYNC110 - a foreign thread's end wakes nobody
            await trio.sleep(0.01)


async def test_unix_socket_with_mode(tmp_path: Path) -> None:
    async def echo(request: bytes, context: Context) -> bytes:
        return context.peer.encode()

    path = tmp_path / "s.sock"
    listeners = [Listener(f"unix:{path}", mode=0o600)]
    async with serve({"/t.T/Call": _unary(echo)}, listeners, on_error=lambda *_: None) as server:
        assert server.bound_ports == (0,)
        assert path.stat().st_mode & 0o777 == 0o600
        with Channel(f"unix:{path}") as channel:
            assert (await channel.unary("/t.T/Call", b"", timeout=5)).startswith(b"unix:")


async def test_an_address_in_use_is_one_clear_error() -> None:
    async with serve({}, [Listener("127.0.0.1:0")], on_error=lambda *_: None) as server:
        address = f"127.0.0.1:{server.bound_ports[0]}"
        with pytest.raises(BindError, match=address):
            async with serve({}, [Listener(address)], on_error=lambda *_: None):
                pass


async def test_nobody_listens() -> None:
    with socket_that_refuses() as port, Channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary("/t.T/Call", b"", timeout=5)
        assert caught.value.code is StatusCode.UNAVAILABLE
        with channel.stream("/t.T/S") as stream:
            with pytest.raises(RpcError) as ended:
                await stream.receive()
        assert ended.value.code is StatusCode.UNAVAILABLE


def socket_that_refuses() -> "_Refusing":
    return _Refusing()


class _Refusing:
    """A bound port that nobody listens on, kept so that no one else gets it."""

    def __enter__(self) -> int:
        import socket

        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        port: int = self._socket.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._socket.close()
