"""Three real Envoys with compiled configuration: `web` calls `orders`, whose routes may lead to `orders-v2` too.

Both have an app that says who it is and what it saw: HTTP/1.1 with WebSocket, gRPC with streams, TCP.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import http.server
import json
import re
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
from cryptography.hazmat.primitives.serialization import Encoding

from dataplane.compile.compiler import Compiler
from dataplane.compile.workload import Credentials, GatewayHost, KeyPair, Workload
from schemas.errors import Problem
from schemas.names import ServiceRef
from schemas.objects.authorization import Rule
from schemas.objects.common import CertificateFiles
from schemas.objects.service import Service
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.envoys import FedEnvoy
from tests.states.build import (
    TRUST_DOMAIN,
    WEB,
    Item,
    bundle,
    compiled,
    identity,
    instance,
    mesh_of,
    need,
    policy,
    port,
    service,
    state,
)
from tests.support.net import free_port
from tests.support.pki import Authority

HTTP, GRPC, TCP = 8080, 9000, 7000
BOUND_HTTP, BOUND_GRPC, BOUND_TCP, PROXY = 9101, 9102, 9103, 15001
_TIMEOUT = 10.0  # seconds; answers take milliseconds
_BACKENDS = ("orders", "orders-v2")
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def seen(self) -> dict[str, Any]:
        """What the app saw: who, method, path, headers (lower case)."""
        return dict(json.loads(self.body))

    @property
    def who(self) -> str:
        return str(self.seen["who"]) if self.status == 200 else str(self.status)

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    def sent(self, name: str) -> list[str]:
        """The request's header as the app saw it."""
        return [value for key, value in self.seen["headers"] if key == name]


class App:
    """Servers of one backend on 127.0.0.1. `plan`: statuses of the next answers, "reset" for a cut connection."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name = name
        self.plan: list[int | str] = []
        self.delay = 0.0
        """Seconds before each answer."""
        self.says: dict[str, str] = {}
        """Headers of HTTP answers."""
        self.requests: list[dict[str, Any]] = []
        self.ports: dict[str, int] = {}
        app = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one segment: else each answer waits 40 ms for an acknowledgement

            def _answer(self) -> None:
                headers = [(key.lower(), value) for key, value in self.headers.items()]
                seen = {"who": app.name, "method": self.command, "path": self.path, "headers": headers}
                app.requests.append(seen)
                if (protocol := self.headers.get("upgrade", "").lower()) in ("websocket", "tcp"):
                    self._upgrade(protocol)
                    return
                length = int(self.headers.get("content-length") or 0)
                self.rfile.read(length)
                status = app.plan.pop(0) if app.plan else 200
                if status == "reset":
                    self.close_connection = True
                    return
                if app.delay:
                    time.sleep(app.delay)
                body = json.dumps(seen).encode()
                self.send_response(int(status))
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-From", app.name)
                for name, value in app.says.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_OPTIONS = do_HEAD = _answer  # noqa: N815  (the base class's names)

            def _upgrade(self, protocol: str) -> None:
                """The handshake, then every byte again."""
                key = self.headers.get("sec-websocket-key", "").encode()
                accept = base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest()).decode()
                self.send_response(101)
                self.send_header("Upgrade", protocol)
                self.send_header("Connection", "Upgrade")
                self.send_header("Sec-WebSocket-Accept", accept)
                self.end_headers()
                self.wfile.flush()
                self.close_connection = True
                with contextlib.suppress(OSError):
                    while data := self.connection.recv(4096):
                        self.connection.sendall(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
                """Nothing: the tests look at answers."""

        class Line(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(app.name.encode() + b"\n")
                    for line in self.rfile:
                        self.wfile.write(line)

        for kind, make in (
            ("http", lambda: http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)),
            ("raw", lambda: socketserver.ThreadingTCPServer(("127.0.0.1", 0), Line)),
        ):
            server: socketserver.TCPServer = stack.enter_context(make())
            server.daemon_threads = True  # type: ignore[attr-defined]  # of the threading mix-in
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(server.shutdown)
            self.ports[kind] = server.server_address[1]
        calls = grpc.server(stack.enter_context(ThreadPoolExecutor(8)), handlers=[_Calls(self)])
        self.ports["grpc"] = calls.add_insecure_port(f"127.0.0.1:{free_port()}")
        calls.start()
        stack.callback(lambda: calls.stop(0).wait())


class _Calls(grpc.GenericRpcHandler):
    """Methods that end in Stream say every message again, with the name; others answer once."""

    def __init__(self, app: App) -> None:
        self._app = app

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        app = self._app
        app.requests.append({"path": details.method, "headers": list(details.invocation_metadata)})

        def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
            if app.plan:
                context.abort(grpc.StatusCode[str(app.plan.pop(0))], "as planned")
            time.sleep(app.delay)
            return app.name.encode()

        def stream(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            for one in requests:
                yield app.name.encode() + b":" + one

        if details.method.endswith("Stream"):
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


@dataclass
class Routed:
    envoys: dict[str, FedEnvoy]
    addresses: dict[str, str]
    nowhere: str
    """An address at which nobody listens."""
    apps: dict[str, App]
    authority: Authority = field(default_factory=Authority.create)
    compiler: Compiler | None = None
    gateway: GatewayHost | None = None
    """Where web listens as a gateway."""
    certificates: dict[CertificateFiles, KeyPair] = field(default_factory=dict)
    """In the files of web's host."""
    beside: tuple[Item, ...] = ()

    def __post_init__(self) -> None:
        self._leaves = {name: self.authority.issue(uri=identity(name)) for name in self.envoys}
        for name in _BACKENDS:
            self._run(name, self._items())

    def _items(self) -> tuple[Item, ...]:
        ports = (port("http", HTTP), port("grpc", GRPC, "grpc"), port("raw", TCP, "tcp"))
        needs = [
            need("orders"),
            need("orders", port=HTTP, bind=BOUND_HTTP),
            need("orders", port=GRPC, bind=BOUND_GRPC),
            need("orders", port=TCP, bind=BOUND_TCP),
        ]
        return (
            service("web", port("http", 80), needs=needs),
            *(service(name, *ports) for name in _BACKENDS),
            *(
                instance(name, "one", self.addresses[name], labels={"version": name}, http=HTTP, grpc=GRPC, raw=TCP)
                for name in _BACKENDS
            ),
            policy("all", "ALLOW", Rule()),
            bundle(1, self.authority.certificate.public_bytes(Encoding.DER)),
            *self.beside,
        )

    def services(self) -> tuple[Service, ...]:
        return tuple(one for one in self._items() if isinstance(one, Service))

    def put(self, *items: Item) -> None:
        """Services and instances as always, and `items` beside or above them; returns when web's Envoy serves that."""
        for app in self.apps.values():
            app.plan, app.delay, app.says = [], 0.0, {}
            app.requests.clear()
        self.compiler = self._run("web", (*self._items(), *items))

    @contextmanager
    def second(self, app_ports: Mapping[str, int]) -> Iterator[None]:
        """The Envoy of orders-v2 is that of another instance of orders, whose app is at these ports."""
        name = _BACKENDS[1]
        self._run(name, self._items(), of="orders", app_ports=app_ports)
        self.beside = (self.at(name, "two"),)
        try:
            yield
        finally:
            self.beside = ()
            self._run(name, self._items())

    def at(self, name: str, which: str) -> Item:
        """An instance of orders at the Envoy `name`."""
        return instance("orders", which, self.addresses[name], http=HTTP, grpc=GRPC, raw=TCP)

    def counted(self, name: str, counter: str) -> int:
        """By the Envoy `name`, of the counters whose name begins so."""
        lines = self.envoys[name].admin(f"/stats?type=Counters&filter=^{re.escape(counter)}").splitlines()
        return sum(int(line.rpartition(":")[2]) for line in lines)

    def _run(
        self, name: str, items: tuple[Item, ...], *, of: str = "", app_ports: Mapping[str, int] | None = None
    ) -> Compiler:
        """of: the service that it is an instance of, where that is another one."""
        leaf = self._leaves[of or name]
        if app_ports is None:
            app_ports = self.apps[name].ports if name in self.apps else {}
        workload = Workload(
            service=ServiceRef("shop", of or name),
            trust_domain=TRUST_DOMAIN,
            inbound_address=self.addresses[name],
            local_address=self.addresses[name],
            proxy_port=PROXY,
            app_ports=app_ports,
            gateway=self.gateway if name == "web" else None,
            certificates=self.certificates if name == "web" else {},
            access_log=str(self.envoys[name].access_log),
        )
        now = compiled(workload, mesh_of(state("now", "", *items).values), Credentials(leaf.chain_pem, leaf.key_pem))
        self.envoys[name].run(now)
        return now

    def problems(self) -> list[Problem]:
        return self.compiler.problems() if self.compiler else []

    # -- calls by web's app

    def ask(
        self, path: str = "/", method: str = "GET", *, host: str = "orders.shop", bound: bool = False, **headers: Any
    ) -> Answer:
        """Through the proxy port by Host, or through the bound port. In a header's name `_` stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request(method, path, [("Host", host), *named.items()], bound=bound)

    def request(self, method: str, path: str, headers: Iterable[tuple[str, str]], *, bound: bool = False) -> Answer:
        """`headers` as they are given, a line each."""
        at = BOUND_HTTP if bound else PROXY
        connection = http.client.HTTPConnection(self.addresses["web"], at, timeout=_TIMEOUT)
        try:
            connection.putrequest(method, path, skip_host=True)
            for name, value in headers:
                connection.putheader(name, value)
            if method in ("POST", "PUT"):
                connection.putheader("Content-Length", "0")
            connection.endheaders()
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def served(self, count: int, path: str = "/", **headers: str) -> Counter[str]:
        """How many each backend answered, on one connection; a failure counts by its status."""
        found = Counter[str]()
        connection = http.client.HTTPConnection(self.addresses["web"], PROXY, timeout=_TIMEOUT)
        try:
            for _ in range(count):
                connection.request("GET", path, headers={"Host": "orders.shop", **headers})
                answer = connection.getresponse()
                found[Answer(answer.status, answer.getheaders(), answer.read()).who] += 1
        finally:
            connection.close()
        return found

    def http2(self, path: str = "/", host: str = "orders.shop") -> Answer:
        """The same over HTTP/2 without TLS, by prior knowledge."""
        client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        with socket.create_connection((self.addresses["web"], PROXY), timeout=_TIMEOUT) as sock:
            client.initiate_connection()
            names = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", path)]
            client.send_headers(1, names, end_stream=True)
            sock.sendall(client.data_to_send())
            headers: list[tuple[str, str]] = []
            body = b""
            while True:
                for event in client.receive_data(sock.recv(65536)):
                    if isinstance(event, h2.events.ResponseReceived):
                        headers = [(str(name), str(value)) for name, value in event.headers]
                    elif isinstance(event, h2.events.DataReceived):
                        body += event.data
                    elif isinstance(event, h2.events.StreamEnded):
                        return Answer(int(dict(headers)[":status"]), headers, body)
                sock.sendall(client.data_to_send())

    def tunnelled(self, path: str = "/") -> Answer:
        """HTTP in a CONNECT, as clients do that tunnel everything."""
        host = f"orders.shop:{HTTP}"
        with socket.create_connection((self.addresses["web"], PROXY), timeout=_TIMEOUT) as sock:
            sock.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            return Answer(answer.status, answer.getheaders(), answer.read())

    def connected(self, host: str) -> int:
        """The status of a CONNECT to it at the proxy port."""
        with socket.create_connection((self.addresses["web"], PROXY), timeout=_TIMEOUT) as sock:
            sock.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            return int(sock.makefile("rb").readline().split(b" ")[1])

    def upgraded(self, protocol: str = "websocket", path: str = "/") -> tuple[str, bytes]:
        """Status line, and what came back of one message."""
        lines = (
            f"GET {path} HTTP/1.1", "Host: orders.shop", "Connection: Upgrade", f"Upgrade: {protocol}",
            "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "",
        )  # fmt: skip
        with socket.create_connection((self.addresses["web"], PROXY), timeout=_TIMEOUT) as sock:
            sock.sendall("\r\n".join(lines).encode())
            head = b""
            while b"\r\n\r\n" not in head and (part := sock.recv(4096)):
                head += part
            status = head.partition(b"\r\n")[0].decode()
            if " 101 " not in status:
                return status, b""
            sock.sendall(b"\x81\x05hello")
            return status, sock.recv(4096)

    def connect_tcp(self, *, bound: bool = False) -> str:
        """Who answers a TCP connection; "" where it is refused or cut."""
        at = BOUND_TCP if bound else PROXY
        with socket.create_connection((self.addresses["web"], at), timeout=_TIMEOUT) as sock:
            stream = sock.makefile("rwb")
            if not bound:
                stream.write(f"CONNECT orders.shop:{TCP} HTTP/1.1\r\nHost: orders.shop:{TCP}\r\n\r\n".encode())
                stream.flush()
                if b" 200 " not in stream.readline():
                    return ""
                while stream.readline() != b"\r\n":
                    pass
            with contextlib.suppress(ConnectionError):
                return stream.readline().decode().strip()
            return ""

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        # grpcio would else take its proxy from the environment of the machine.
        with grpc.insecure_channel(
            f"{self.addresses['web']}:{BOUND_GRPC}", options=[("grpc.enable_http_proxy", 0)]
        ) as channel:
            yield channel

    def call(self, method: str = "/shop.Orders/Get", **metadata: str) -> str:
        """Who answers one gRPC call, or its status."""
        with self.channel() as channel:
            try:
                return bytes(
                    channel.unary_unary(method, bytes, bytes)(b"", timeout=_TIMEOUT, metadata=tuple(metadata.items()))
                ).decode()
            except grpc.RpcError as error:
                return str(error.code().name)


@contextmanager
def routed(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Routed]:
    with ExitStack() as stack:
        names = (WEB.name, *_BACKENDS)
        apps = {name: App(name, stack) for name in _BACKENDS}
        addresses = {name: own_address() for name in names}
        yield Routed({name: envoys(name) for name in names}, addresses, own_address(), apps)
