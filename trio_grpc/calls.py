"""One call at the server: its pool thread's side and its task's side."""

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc
import trio

from .bridge import Inbox, Outbox, post
from .errors import RpcAbort, find_abort
from .methods import Context, Kind, Method

SEND_MESSAGES = 16  # responses queued before `send` waits: small, because what is queued can't be coalesced any more
RECEIVE_MESSAGES = 16  # requests of one stream held before gRPC's flow control stops the client
RECEIVE_BYTES = 8 << 20  # the same in bytes: two of gRPC's largest messages (4 MiB by default)
_NO_DEADLINE_S = 10 * 365 * 86400  # gRPC core spells "no deadline" as a time centuries away


class Call:
    """Made in a pool thread, run as a task, answered through the outbox in that same pool thread."""

    def __init__(
        self, path: str, method: Method, servicer: grpc.ServicerContext, token: trio.lowlevel.TrioToken
    ) -> None:
        self.path = path
        self.method = method
        self._servicer = servicer
        self._token = token
        self._scope = trio.CancelScope()
        self._outbox: Outbox[bytes | RpcAbort] = Outbox(token, SEND_MESSAGES)
        self._inbox: Inbox[Any] | None = None
        self._request: Any = None
        self._ended = False
        # Until somebody else cancels, only the deadline can.
        self._cancelled_as = RpcAbort(grpc.StatusCode.DEADLINE_EXCEEDED, "the caller's deadline has passed")
        if method.kind is Kind.BIDI_STREAM:
            self._inbox = Inbox(token, RECEIVE_MESSAGES, RECEIVE_BYTES)

    # In the pool thread.

    def refuse(self, code: grpc.StatusCode, message: str) -> NoReturn:
        """End the call with this status; raises, as grpcio wants it."""
        self._servicer.abort(code, message)

    def decode_request(self, payload: bytes) -> None:
        """Decode the one request; a malformed one is the caller's mistake and is answered as such."""
        try:
            self._request = self.method.decode(payload)
        except Exception:  # any decoder, any exception: all mean the same
            self.refuse(grpc.StatusCode.INVALID_ARGUMENT, f"the request of {self.path} could not be decoded")

    def responses(self) -> Iterator[bytes]:
        """Encoded responses until the task has ended; raises (through grpcio) when it ended with an abort."""
        if not self._servicer.add_callback(self._client_gone):
            self._client_gone()
        while (item := self._outbox.get()) is not None:
            if isinstance(item, RpcAbort):
                if self._servicer.is_active():
                    self._servicer.set_trailing_metadata(item.trailing)
                    self._servicer.abort(item.code, item.message)
                return
            yield item

    def read_requests(self, requests: Iterator[bytes]) -> None:
        """In the reader thread: everything that the client sends, decoded, with back-pressure."""
        assert self._inbox is not None  # noqa: S101 - made by __init__ for the only kind that reads
        end: Exception = trio.EndOfChannel()
        try:
            for payload in requests:
                try:
                    request = self.method.decode(payload)
                except Exception:  # as above
                    message = f"a request of {self.path} could not be decoded"
                    end = RpcAbort(grpc.StatusCode.INVALID_ARGUMENT, message)
                    break
                if not self._inbox.put(request, len(payload)):
                    break
        except Exception:  # grpcio raises a bare Exception when the client has cancelled; the task is told by callback
            end = trio.ClosedResourceError()
        finally:
            self._inbox.finish(end)

    def _client_gone(self) -> None:
        # grpcio calls this at the end of every call; after a good end there is nothing left to cancel.
        if not self._ended:
            post(self._token, self.cancel, "the client went away")

    # In trio.

    def cancel(self, reason: str) -> None:
        """Cancel the handler; `reason` is what a client that still listens is told."""
        self._cancelled_as = RpcAbort(grpc.StatusCode.UNAVAILABLE, reason)
        self._scope.cancel()

    def never_ran(self, reason: str) -> None:
        """Answer instead of running."""
        self._finish(RpcAbort(grpc.StatusCode.UNAVAILABLE, reason))

    async def run(self, on_error: Callable[[str, Exception], None]) -> None:
        """Run the handler and end the call, whatever happens; what the handler raises stops here."""
        outcome: RpcAbort | None = RpcAbort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        try:
            with self._scope:
                await self._handle()
                outcome = None
            if self._scope.cancelled_caught:
                outcome = self._cancelled_as
        except Exception as failure:  # the boundary: no handler may take the server down
            abort = find_abort(failure)
            if abort is None:
                on_error(self.path, failure)
                abort = RpcAbort(grpc.StatusCode.INTERNAL, "internal error; it has been reported on the server")
            outcome = abort
        finally:
            self._finish(outcome)

    def _finish(self, outcome: RpcAbort | None) -> None:
        self._ended = True
        if self._inbox is not None:
            self._inbox.close()
        if outcome is not None:
            self._outbox.put_last(outcome)
        self._outbox.end()

    async def _handle(self) -> None:
        context = self._context()
        if context.deadline is not None:
            self._scope.deadline = context.deadline
        if self.method.kind is Kind.UNARY:
            # Not by `send`: nothing can be in its way, and a checkpoint would only delay the end.
            self._outbox.put_nowait(self.method.encode(await self.method.handler(self._request, context)))
        elif self.method.kind is Kind.SERVER_STREAM:
            await self.method.handler(self._request, self._send, context)
        else:
            await self._handle_bidi(context)

    async def _handle_bidi(self, context: Context) -> None:
        sender, requests = trio.open_memory_channel[Any](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, sender)
            with requests:
                await self.method.handler(requests, self._send, context)
            nursery.cancel_scope.cancel()

    async def _pump(self, sender: trio.MemorySendChannel[Any]) -> None:
        assert self._inbox is not None  # noqa: S101 - as in read_requests
        with sender:
            try:
                while True:
                    for request in await self._inbox.take():
                        await sender.send(request)
            except (trio.EndOfChannel, trio.BrokenResourceError):
                return  # the client half-closed, or the handler reads no more
            except trio.ClosedResourceError:
                await trio.sleep_forever()  # the client is gone: the callback cancels us

    async def _send(self, response: Any) -> None:
        await self._outbox.put(self.method.encode(response))

    def _context(self) -> Context:
        servicer = self._servicer
        left: float | None = servicer.time_remaining()
        if left is not None and left > _NO_DEADLINE_S:
            left = None
        return Context(
            method=self.path,
            peer=servicer.peer(),
            metadata=tuple((pair[0], pair[1]) for pair in servicer.invocation_metadata()),
            auth={key: tuple(values) for key, values in servicer.auth_context().items()},  # type: ignore[arg-type] # the stubs say bytes, grpcio gives lists of bytes
            deadline=None if left is None else trio.current_time() + left,
        )
