"""A gRPC server whose handlers are async functions in trio.

grpcio's pool thread, one a call            trio, one task a call
────────────────────────────────            ─────────────────────
bytes ▸ decode ──────── start ────────────▶ handler(request, context)
waits ◀──────────────── Outbox ──────────── send(response), end or abort
reader thread (bidi) ── Inbox ────────────▶ requests channel
client gone ─────────── callback ─────────▶ the handler's cancel scope
"""

import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import trio

from .background import background_nursery
from .bridge import post
from .calls import Call
from .client import ChannelOptions
from .errors import BindError
from .methods import Kind, Method
from .tls import ReloadableTLS, ServerTLS

MAX_UNARY = 64  # calls at once; more are refused with RESOURCE_EXHAUSTED, which clients retry
MAX_STREAMS = 64  # streams at once; each holds one thread, a bidirectional one two
GRACE_S = 5.0  # how long unary calls in flight may go on when the server ends in good order


@dataclass(frozen=True, slots=True)
class Listener:
    """Where to listen: "host:port" (port 0: the kernel chooses) or "unix:/path".

    `tls` None is plaintext. `mode` sets a Unix socket's permission bits, from the moment it exists.
    """

    address: str
    tls: ServerTLS | ReloadableTLS | None = None
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `bound_ports` follows the order of the listeners; 0 for a Unix socket."""

    bound_ports: tuple[int, ...]


@asynccontextmanager
async def serve(
    methods: Mapping[str, Method],
    listeners: Sequence[Listener],
    *,
    on_error: Callable[[str, Exception], None],
    max_unary: int = MAX_UNARY,
    max_streams: int = MAX_STREAMS,
    grace: float = GRACE_S,
    options: ChannelOptions = (),
) -> AsyncIterator[Server]:
    """Serve `methods` (full path, "/package.Service/Method") for the body of the `async with`.

    Leaving the body: no new calls, streams are cancelled at once, unary calls get `grace` seconds. Cancelling it: all
    are cancelled at once. Either way callers see UNAVAILABLE and no thread is left.
    `on_error(path, exception)` is told what a handler raised (the caller sees INTERNAL without a word of it); it runs
    in trio and must not raise. Raises BindError when an address can't be had.
    """
    runtime = _Runtime(methods, on_error, max_streams)
    pool = ThreadPoolExecutor(max_unary + max_streams, thread_name_prefix="trio_grpc-server")
    try:
        server = grpc.server(
            pool,
            handlers=[runtime],
            # Two servers must not share a port unnoticed.
            options=[("grpc.so_reuseport", 0), *options],
            maximum_concurrent_rpcs=max_unary + max_streams,
        )
        ports = tuple(_bind(server, listener) for listener in listeners)
        async with background_nursery() as nursery:
            runtime.open(nursery)
            server.start()
            patience: float | None = None
            try:
                yield Server(ports)
                patience = grace
            finally:
                await _stop(server, runtime, patience)
    finally:
        with trio.CancelScope(shield=True):
            # Every handler has ended, so every thread that waited for one ends now.
            await trio.to_thread.run_sync(_join, pool, runtime.readers, limiter=trio.CapacityLimiter(1))


async def _stop(server: grpc.Server, runtime: "_Runtime", patience: float | None) -> None:
    runtime.close()
    stopped = server.stop(patience)
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(stopped.wait, (patience or 0) + 5, limiter=trio.CapacityLimiter(1))


def _join(pool: ThreadPoolExecutor, readers: set[threading.Thread]) -> None:
    pool.shutdown(wait=True)
    for reader in list(readers):
        reader.join(5)


def _bind(server: grpc.Server, listener: Listener) -> int:
    tls = listener.tls
    if isinstance(tls, ServerTLS):
        tls = ReloadableTLS(tls)
    # The mask is process-wide: held only for the one system call that makes the socket.
    mask = None if listener.mode is None else os.umask(0o777 & ~listener.mode)
    try:
        if tls is None:
            port = server.add_insecure_port(listener.address)
        else:
            port = server.add_secure_port(listener.address, tls.credentials())
    except RuntimeError as failure:
        raise BindError(
            f"can't listen on {listener.address}: {failure}; is it in use, or is the path missing?"
        ) from None
    finally:
        if mask is not None:
            os.umask(mask)
    return 0 if listener.address.startswith("unix:") else port


class _Runtime(grpc.GenericRpcHandler):
    """Turns grpcio's calls in pool threads into tasks of one nursery."""

    def __init__(
        self, methods: Mapping[str, Method], on_error: Callable[[str, Exception], None], max_streams: int
    ) -> None:
        self._methods = dict(methods)
        self._on_error = on_error
        self._token = trio.lowlevel.current_trio_token()
        self._nursery: trio.Nursery | None = None
        self._calls: set[Call] = set()
        self._stream_slots = threading.Semaphore(max_streams)
        self.readers: set[threading.Thread] = set()

    def open(self, nursery: trio.Nursery) -> None:
        """From now on calls become tasks."""
        self._nursery = nursery

    def close(self) -> None:
        """Refuse what comes, cancel the streams; unary calls go on."""
        self._nursery = None
        for call in self._calls:
            if call.method.kind is not Kind.UNARY:
                call.cancel("the server is shutting down")

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":  # subscriptable in its stubs only
        method = self._methods.get(details.method)
        if method is None:
            return None  # grpcio answers UNIMPLEMENTED

        # Codecs stay out of grpcio, which would log a caller's bytes and answer INTERNAL for the caller's mistake.
        if method.kind is Kind.UNARY:
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: self._unary(Call(details.method, method, context, self._token), request)
            )
        if method.kind is Kind.SERVER_STREAM:
            return grpc.unary_stream_rpc_method_handler(
                lambda request, context: self._stream(Call(details.method, method, context, self._token), request)
            )
        return grpc.stream_stream_rpc_method_handler(
            lambda requests, context: self._bidi(Call(details.method, method, context, self._token), requests)
        )

    # Pool threads, from here on.

    def _unary(self, call: Call, payload: bytes) -> bytes:
        call.decode_request(payload)
        self._launch(call)
        for response in call.responses():
            return response
        raise AssertionError("a unary call ended well without a response")

    def _stream(self, call: Call, payload: bytes) -> Any:
        with self._stream_slot(call):
            call.decode_request(payload)
            self._launch(call)
            yield from call.responses()

    def _bidi(self, call: Call, requests: Any) -> Any:
        with self._stream_slot(call):
            reader = threading.Thread(target=self._read, args=(call, requests), name="trio_grpc-reader", daemon=True)
            self.readers.add(reader)
            self._launch(call)
            reader.start()
            yield from call.responses()

    def _read(self, call: Call, requests: Any) -> None:
        try:
            call.read_requests(requests)
        finally:
            self.readers.discard(threading.current_thread())

    def _stream_slot(self, call: Call) -> "_Slot":
        if not self._stream_slots.acquire(blocking=False):
            call.refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams on this server: try again later")
        return _Slot(self._stream_slots)

    def _launch(self, call: Call) -> None:
        if not post(self._token, self._start, call):
            call.refuse(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")

    # trio, from here on.

    def _start(self, call: Call) -> None:
        if self._nursery is None:
            call.never_ran("the server is shutting down")
        else:
            self._calls.add(call)
            self._nursery.start_soon(self._run, call, name=call.path)

    async def _run(self, call: Call) -> None:
        try:
            await call.run(self._on_error)
        finally:
            self._calls.discard(call)


class _Slot:
    """Gives a stream's slot back when its thread leaves the call."""

    def __init__(self, slots: threading.Semaphore) -> None:
        self._slots = slots

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._slots.release()
