"""A small OTLP receiver, by gRPC and by HTTP, that keeps the spans it is sent."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass(frozen=True, slots=True)
class Span:
    service: str
    """``service.name`` of the resource."""
    name: str
    kind: int
    """2: server, 3: client (OTLP, SpanKind)."""
    trace_id: str
    span_id: str
    parent: str
    tags: dict[str, str]


@dataclass
class Collector:
    """`grpc_port` and `http_port` are on 127.0.0.1."""

    grpc_port: int = 0
    http_port: int = 0
    received: list[Span] = field(default_factory=list)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Of HTTP: host, path and content type."""

    def take(self, body: bytes) -> None:
        for resource in _request(body).resource_spans:
            about = _tags(resource.resource.attributes)
            # The field's name in the messages that are installed; today's is scope_spans, with the same number.
            for scope in resource.instrumentation_library_spans:
                for one in scope.spans:
                    ids = one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex()
                    self.received.append(Span(about["service.name"], one.name, one.kind, *ids, _tags(one.attributes)))

    def of_path(self, path: str) -> list[Span]:
        """Spans of requests to `path`: clients first, then servers."""
        found = [one for one in list(self.received) if one.tags.get("url.path") == path]
        return sorted(found, key=lambda one: -one.kind)


def _request(body: bytes) -> Any:
    return getattr(trace_service_pb2, "ExportTraceServiceRequest").FromString(body)  # noqa: B009  (the module has no types)


def _tags(attributes: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in attributes}


class _Grpc(grpc.GenericRpcHandler):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if details.method != EXPORT:
            return None
        return grpc.unary_unary_rpc_method_handler(self._take)

    def _take(self, body: bytes, _: grpc.ServicerContext) -> bytes:
        self._collector.take(body)
        return b""  # an ExportTraceServiceResponse with nothing to say


@contextmanager
def collector() -> Iterator[Collector]:
    one = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b"".join(_chunks(self.rfile))
            one.requests.append((self.headers.get("Host", ""), self.path, self.headers.get("Content-Type", "")))
            one.take(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
            """Nothing: the tests look at spans."""

    with ExitStack() as stack:
        server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        stack.callback(server.shutdown)
        one.http_port = server.server_address[1]
        app = grpc.server(stack.enter_context(ThreadPoolExecutor(2)), handlers=[_Grpc(one)])
        one.grpc_port = app.add_insecure_port("127.0.0.1:0")
        app.start()
        stack.callback(lambda: app.stop(0).wait())
        yield one


def _chunks(stream: Any) -> Iterator[bytes]:
    """Of HTTP/1.1's chunked coding (RFC 9112, 7.1)."""
    while size := int(stream.readline().partition(b";")[0], 16):
        yield stream.read(size)
        stream.readline()
    stream.readline()
