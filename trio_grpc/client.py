"""gRPC calls as trio functions: raw bytes in, raw bytes out; encoding belongs to the caller.

grpcio runs one thread a channel that completes unary calls, and up to two a stream (one reads, one writes). They meet
trio only through `bridge`.
"""

import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import trio

from .bridge import Inbox, Outbox, post
from .errors import Metadata, RpcError
from .tls import TLS

ChannelOptions = Sequence[tuple[str, str | int]]

RECEIVE_MESSAGES = 256  # held of one stream before gRPC's flow control stops the peer
RECEIVE_BYTES = 16 << 20  # the same in bytes: eight of etcd's largest watch fragments
SEND_MESSAGES = 64  # queued on one stream before `send` waits


class Channel:
    """One gRPC channel (one connection to one target, made on demand and remade by grpcio).

    `target`: "host:port", "unix:/path" or any gRPC name. `tls=None` is plaintext. `server_name` replaces the name that
    the server's certificate must carry. `options` are gRPC channel arguments: who wants a dead peer noticed soon
    passes keep-alive times here. Must be made inside a trio run; `close` (or `with`) ends its threads.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: TLS | None = None,
        server_name: str | None = None,
        options: ChannelOptions = (),
    ) -> None:
        arguments: list[tuple[str, str | int]] = list(options)
        if server_name is not None:
            arguments.append(("grpc.ssl_target_name_override", server_name))
        if tls is None:
            self._channel = grpc.insecure_channel(target, arguments)
        else:
            self._channel = grpc.secure_channel(target, tls.credentials(), arguments)
        self.target = target
        self._token = trio.lowlevel.current_trio_token()
        self._methods: dict[tuple[str, str], Any] = {}

    def _method(self, kind: str, path: str) -> Any:
        found = self._methods.get((kind, path))
        if found is None:
            # None for both codecs: messages stay bytes.
            found = self._methods[kind, path] = getattr(self._channel, kind)(path, None, None)
        return found

    async def unary(self, path: str, payload: bytes, *, timeout: float, metadata: Metadata = ()) -> bytes:
        """One request, one response. `timeout` in seconds, counted by gRPC and sent to the server as the deadline.

        Cancelling the task cancels the call. Raises RpcError; after a cancelled or failed call it is unknown whether
        the server acted on it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()
        waiting = True

        def wake() -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                trio.lowlevel.reschedule(task)

        def cancel(_: object) -> trio.lowlevel.Abort:
            nonlocal waiting
            waiting = False
            call.cancel()
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            call = self._method("unary_unary", path).future(payload, timeout=timeout, metadata=tuple(metadata))
        except ValueError as closed:  # grpcio's answer to a call on a closed channel
            raise RpcError(grpc.StatusCode.CANCELLED, f"{path} on {self.target}: {closed}") from None
        call.add_done_callback(lambda _: post(self._token, wake))  # runs on the channel's thread
        await trio.lowlevel.wait_task_rescheduled(cancel)
        if call.code() is grpc.StatusCode.OK:
            response: bytes = call.result()
            return response
        raise RpcError.of_call(call)

    def stream(self, path: str, *, metadata: Metadata = (), timeout: float | None = None) -> "Stream":
        """A stream in both directions; returns at once, what goes wrong is raised by `receive`. Use it in `with`."""
        outbox: Outbox[bytes] = Outbox(self._token, SEND_MESSAGES)
        call = self._invoke("stream_stream", path, iter(outbox.get, None), metadata, timeout)
        return Stream(call, self._token, outbox)

    def server_stream(
        self, path: str, payload: bytes, *, metadata: Metadata = (), timeout: float | None = None
    ) -> "Stream":
        """One request, a stream of responses. `send` does not exist on it."""
        return Stream(self._invoke("unary_stream", path, payload, metadata, timeout), self._token, None)

    def _invoke(
        self, kind: str, path: str, request: bytes | Iterator[bytes], metadata: Metadata, timeout: float | None
    ) -> Any:
        try:
            return self._method(kind, path)(request, metadata=tuple(metadata), timeout=timeout)
        except ValueError as closed:
            raise RpcError(grpc.StatusCode.CANCELLED, f"{path} on {self.target}: {closed}") from None

    def close(self) -> None:
        """End the connection; calls in flight fail with CANCELLED."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Stream:
    """An open stream. One task receives; any tasks send. Leaving `with` (or `close`) cancels it at the server.

    Also known as BidiStream. Bounded both ways: `send` waits while 64 messages are queued; when 256 messages or 16 MiB
    wait to be received, gRPC's flow control holds the server back.
    """

    def __init__(self, call: Any, token: trio.lowlevel.TrioToken, outbox: Outbox[bytes] | None) -> None:
        self._call = call
        self._outbox = outbox
        self._inbox: Inbox[bytes] = Inbox(token, RECEIVE_MESSAGES, RECEIVE_BYTES)
        self._reader = threading.Thread(target=self._read, name="trio_grpc-stream-reader", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        end: Exception = RpcError(grpc.StatusCode.UNKNOWN, "the reader of this stream failed")
        try:
            for message in self._call:
                if not self._inbox.put(message, len(message)):
                    break
            end = trio.EndOfChannel("the server ended the stream with OK")
        except grpc.RpcError as failure:
            end = RpcError.of_call(failure)
        finally:
            self._inbox.finish(end)
            if self._outbox is not None:
                self._outbox.end_from_thread()  # grpcio's writer thread waits on it and must end too

    async def send(self, payload: bytes) -> None:
        """Queue one message. Raises trio.BrokenResourceError when the stream has ended (`receive` says why)."""
        await self._sending().put(payload)

    def send_nowait(self, payload: bytes) -> None:
        """Queue one message at once. Raises trio.WouldBlock when full, trio.BrokenResourceError when ended."""
        self._sending().put_nowait(payload)

    def done_sending(self) -> None:
        """Half-close: the server sees the end of the requests."""
        self._sending().end()

    def _sending(self) -> Outbox[bytes]:
        if self._outbox is None:
            raise TypeError("a server stream takes no messages after its request")
        return self._outbox

    async def receive(self) -> list[bytes]:
        """All messages that have arrived, at least one, in order.

        Raises trio.EndOfChannel when the server ended the stream with OK, RpcError when with anything else.
        """
        return await self._inbox.take()

    def close(self) -> None:
        """Cancel the stream and let its threads end; safe to call twice."""
        self._call.cancel()
        self._inbox.close()
        if self._outbox is not None:
            self._outbox.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


BidiStream = Stream
