"""The least delta ADS server that can feed an Envoy, and note what it refuses and what it reports.

Not the product's: what these tests find is then the compiler's doing alone. Envoys are told apart by node id; each
gets all that it asks for, parents before children, and a child again when its parent has changed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.discovery.v3 import discovery_pb2

from dataplane.compile.open_streams import OpenStream, reported
from dataplane.compile.resources import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    RUNTIME,
    SECRET,
    Resource,
    ResourceKey,
)

_ORDER = (RUNTIME, CLUSTER, ENDPOINTS, LISTENER, ROUTES, EXTENSION, SECRET)
_WILDCARD = {CLUSTER, LISTENER}
_CHILD_OF = {CLUSTER: ENDPOINTS, LISTENER: ROUTES}  # of the same name
_SETTLED_SECONDS = 15.0  # Envoy answers in milliseconds; a bound for a busy machine


@dataclass
class Feed:
    """What one Envoy is to run, and what it said about it."""

    wanted: dict[ResourceKey, Resource] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    _sent: dict[ResourceKey, str] = field(default_factory=dict)
    _asked: dict[str, set[str]] = field(default_factory=dict)
    _open: dict[str, str] = field(default_factory=dict)
    """Nonces without an answer, and what they carried."""
    _greeted: set[str] = field(default_factory=set)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _nonce: int = 0

    def give(self, resources: Mapping[ResourceKey, Resource]) -> None:
        """From now on this is the whole configuration. Returns at once; then `wait_settled`."""
        with self._changed:
            self.wanted = dict(resources)
            self._changed.notify_all()

    def wait_settled(self, names: set[str] | None = None) -> None:
        """Return when Envoy has answered to everything. Raises AssertionError with its words if it refused any.

        Everything of a parent kind and, by `names`, the children that must have been asked for.
        """
        with self._changed:
            done = self._changed.wait_for(lambda: self.refused or self._is_settled(names or set()), _SETTLED_SECONDS)
            assert not self.refused, "Envoy refused:\n" + "\n".join(self.refused)
            assert done, f"Envoy has not answered to {list(self._open.values())}; it has {sorted(self._sent)}"

    def _is_settled(self, names: set[str]) -> bool:
        have = {key.name for key in self._sent}
        return self._asked.keys() >= _WILDCARD and not self._open and not self._due() and names <= have

    def _due(self) -> dict[str, tuple[list[Resource], list[str]]]:
        """By type: what to send, and what to take away."""
        due = {}
        for kind in _ORDER:
            asked = self._asked.get(kind)
            if asked is None:
                continue
            mine = {
                key: one
                for key, one in self.wanted.items()
                if key.type_url == kind and (kind in _WILDCARD or key.name in asked)
            }
            send = [one for key, one in mine.items() if self._sent.get(key) != one.version]
            gone = [key.name for key in self._sent if key.type_url == kind and key not in self.wanted]
            # The first answer to a wildcard comes even when it is empty: Envoy waits for it before it goes on.
            if send or gone or (kind in _WILDCARD and kind not in self._greeted):
                due[kind] = (send, gone)
        return due

    # -- in the stream's two threads

    def take(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        kind = request.type_url
        with self._changed:
            if request.response_nonce:
                carried = self._open.pop(request.response_nonce, "?")
                if request.HasField("error_detail"):
                    self.refused.append(f"{kind.rpartition('.')[2]} {carried}: {request.error_detail.message}")
            asked = self._asked.setdefault(kind, set())
            asked.update(request.resource_names_subscribe)
            asked.difference_update(request.resource_names_unsubscribe)
            for name in (*request.resource_names_subscribe, *request.resource_names_unsubscribe):
                self._sent.pop(ResourceKey(kind, name), None)  # asked anew: it wants to hear it again
            self._changed.notify_all()

    def start_over(self) -> None:
        """A new stream: it has been told nothing, and has asked for nothing."""
        with self._changed:
            self._sent.clear()
            self._asked.clear()
            self._open.clear()
            self._greeted.clear()

    def responses(self, live: threading.Event) -> Iterator[discovery_pb2.DeltaDiscoveryResponse]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due() or not live.is_set())
                if not live.is_set():
                    return
                made = [self._response(kind, send, gone) for kind, (send, gone) in self._due().items()]
                self._changed.notify_all()
            yield from made

    def end(self, live: threading.Event) -> None:
        with self._changed:
            live.clear()
            self._changed.notify_all()

    def _response(self, kind: str, send: list[Resource], gone: list[str]) -> discovery_pb2.DeltaDiscoveryResponse:
        self._nonce += 1
        self._greeted.add(kind)
        nonce = str(self._nonce)
        response = discovery_pb2.DeltaDiscoveryResponse(type_url=kind, nonce=nonce, removed_resources=gone)
        for one in send:
            added = response.resources.add(name=one.key.name, version=one.version)
            added.resource.type_url, added.resource.value = kind, one.body
            self._sent[one.key] = one.version
            if kind in _CHILD_OF:
                self._sent.pop(ResourceKey(_CHILD_OF[kind], one.key.name), None)
        for name in gone:
            self._sent.pop(ResourceKey(kind, name), None)  # its parent, sent just now, may have dropped it
        self._open[nonce] = ", ".join([*(one.key.name for one in send), *(f"-{name}" for name in gone)])
        return response


class FeedServer(grpc.GenericRpcHandler):
    """Feeds by node id on one Unix socket."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.feeds: dict[str, Feed] = {}
        self.reports: list[OpenStream] = []
        """What Envoys, each of them, have told of what is open."""
        self._pool = ThreadPoolExecutor(32, thread_name_prefix="feed")
        self._server = grpc.server(self._pool, handlers=[self])
        self._server.add_insecure_port(f"unix:{socket}")
        self._streams: list[tuple[threading.Event, Feed]] = []

    def __enter__(self) -> FeedServer:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for live, feed in self._streams:
            feed.end(live)
        self._server.stop(0).wait()
        self._pool.shutdown()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if details.method == "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs":
            return grpc.stream_unary_rpc_method_handler(
                self._reports, request_deserializer=als_pb2.StreamAccessLogsMessage.FromString
            )
        if details.method != "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources":
            return None
        return grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString,
            response_serializer=discovery_pb2.DeltaDiscoveryResponse.SerializeToString,
        )

    def _reports(self, messages: Iterator[als_pb2.StreamAccessLogsMessage], context: grpc.ServicerContext) -> bytes:
        try:
            for message in messages:
                self.reports.extend(reported(message))
        except grpc.RpcError:
            pass  # the stream has ended
        return b""

    def _stream(
        self, requests: Iterator[discovery_pb2.DeltaDiscoveryRequest], context: grpc.ServicerContext
    ) -> Iterator[discovery_pb2.DeltaDiscoveryResponse]:
        first = next(requests)
        feed = self.feeds[first.node.id]
        live = threading.Event()
        live.set()
        self._streams.append((live, feed))
        context.add_callback(lambda: feed.end(live))
        feed.start_over()

        def read() -> None:
            try:
                feed.take(first)
                for request in requests:
                    feed.take(request)
            except grpc.RpcError:
                pass  # the stream has ended

        threading.Thread(target=read, daemon=True).start()
        yield from feed.responses(live)
