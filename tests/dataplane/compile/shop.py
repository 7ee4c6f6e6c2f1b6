"""Two real Envoys with compiled configuration: `web`, which calls, and `orders`, which is called; and their apps."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import socket
import socketserver
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from dataplane.compile.workload import Credentials, Workload
from routing.headers import UNSERVED
from schemas.names import ServiceRef
from tests.dataplane.compile.envoys import FedEnvoy
from tests.states.build import (
    ORDERS,
    TRUST_DOMAIN,
    WEB,
    Item,
    State,
    bundle,
    compiled,
    identity,
    instance,
    mesh_of,
    need,
    port,
    service,
    state,
)
from tests.support.net import free_port
from tests.support.pki import Authority, Leaf

HTTP, GRPC, TCP = 8080, 9000, 7000  # of orders
BOUND_GRPC, BOUND_TCP, PROXY = 9101, 9102, 15001  # at web
GREETING = b"hello from orders\n"
_TIMEOUT = 10.0  # seconds; answers take milliseconds


@dataclass
class Answer:
    status: int
    body: bytes
    nearest: str | None = None
    """What `x-mesh-nearest` says."""

    @property
    def seen(self) -> dict[str, Any]:
        """What the app saw: method, path, headers."""
        return dict(json.loads(self.body))

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.seen["headers"] if key.lower() == name]


@dataclass
class Shop:
    web: FedEnvoy
    orders: FedEnvoy
    web_address: str
    orders_address: str
    app_ports: dict[str, int]
    authority: Authority = field(default_factory=Authority.create)
    items: tuple[Item, ...] = ()
    samples: str = ""
    """Of the workloads."""

    def __post_init__(self) -> None:
        self.leaves = {name: self.authority.issue(uri=identity(name)) for name in ("web", "orders", "mallory")}
        self.root = self.authority.certificate.public_bytes(Encoding.DER)
        self.set()

    # -- what is in etcd

    def set(self, *items: Item, revisions: Mapping[bytes, int] | None = None) -> None:
        """Services and instances as always, and `items` beside or above them; returns when both Envoys serve that.

        revisions: etcd's, by key; 1 where it is not said.
        """
        at_orders = instance("orders", "o1", self.orders_address, http=HTTP, grpc=GRPC, raw=TCP)
        of_orders = [port("http", HTTP), port("grpc", GRPC, "grpc"), port("raw", TCP, "tcp")]
        needs = [
            need("orders"),
            need("payments"),
            need("orders", port=GRPC, bind=BOUND_GRPC),
            need("orders", port=TCP, bind=BOUND_TCP),
        ]
        self.items = (
            service("web", port("http", 80), needs=needs),
            service("orders", *of_orders),
            at_orders,
            bundle(1, self.root),
            *items,
        )
        now = state("now", "", *self.items)
        self._run(self.web, now, WEB, self.web_address, "web", revisions)
        self._run(self.orders, now, ORDERS, self.orders_address, "orders", revisions)

    def _run(
        self,
        envoy: FedEnvoy,
        now: State,
        who: ServiceRef,
        address: str,
        name: str,
        revisions: Mapping[bytes, int] | None,
    ) -> None:
        of = Workload(
            service=who,
            trust_domain=TRUST_DOMAIN,
            inbound_address=address,
            local_address=address,
            proxy_port=PROXY,
            app_ports=self.app_ports if who == ORDERS else {},
            access_log=str(envoy.access_log),
            samples=self.samples,
        )
        leaf = self.leaves[name]
        envoy.run(compiled(of, mesh_of(now.values, revisions=revisions), Credentials(leaf.chain_pem, leaf.key_pem)))

    # -- calls by web's app, through its sidecar

    def call(self, path: str = "/", method: str = "GET", host: str = "orders.shop", **headers: str) -> Answer:
        """Through the proxy port, by Host."""
        with self.keep_alive() as connection:
            return ask(connection, path, method, {"Host": host, **headers})

    @contextmanager
    def keep_alive(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(self.web_address, PROXY, timeout=_TIMEOUT)
        try:
            yield connection
        finally:
            connection.close()

    def tunnel(self, target: str) -> tuple[bytes, bytes]:
        """CONNECT through the proxy port -> (status line, what came after an exchange of one line)."""
        with socket.create_connection((self.web_address, PROXY), timeout=_TIMEOUT) as sock:
            sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                part = sock.recv(4096)
                if not part:
                    return head.partition(b"\r\n")[0], b""
                head += part
            status, _, rest = head.partition(b"\r\n")
            return status, rest.partition(b"\r\n\r\n")[2] + exchange(sock)

    def open_tcp(self) -> socket.socket:
        """By the bound port."""
        return socket.create_connection((self.web_address, BOUND_TCP), timeout=_TIMEOUT)

    def bound_tcp(self) -> bytes:
        with self.open_tcp() as sock:
            return exchange(sock)

    def pay(self, path: str = "/shop.Payments/Pay", *metadata: tuple[str, str]) -> bytes | grpc.StatusCode:
        """A gRPC call to the bound port -> the answer, or the status."""
        # grpcio would else take its proxy from the environment of the machine.
        options = [("grpc.enable_http_proxy", 0)]
        with grpc.insecure_channel(f"{self.web_address}:{BOUND_GRPC}", options=options) as channel:
            try:
                reply: bytes = channel.unary_unary(path, bytes, bytes)(b"7 coins", timeout=_TIMEOUT, metadata=metadata)
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                return code
            return reply

    # -- a peer of its own, without a sidecar, straight to orders' inbound port

    @contextmanager
    def peer(
        self, leaf: Leaf | None, number: int = HTTP, *, alpn: Sequence[str] = (), **limits: Any
    ) -> Iterator[ssl.SSLSocket]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if alpn:
            context.set_alpn_protocols(alpn)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # here it is the server's check that is tested
        for name, value in limits.items():
            setattr(context, name, value)
        if leaf is not None:
            with _files(leaf) as (certificate, key):
                context.load_cert_chain(certificate, key)
        with socket.create_connection((self.orders_address, number), timeout=_TIMEOUT) as plain:
            with context.wrap_socket(plain) as secured:
                yield secured

    def ask_as(self, leaf: Leaf | None, path: str = "/", *lines: str, number: int = HTTP, **limits: Any) -> int | None:
        """The status of a GET by `leaf`; None: the connection was refused."""
        try:
            with self.peer(leaf, number, **limits) as sock:
                return raw_get(sock, path, *lines)
        except (ssl.SSLError, ConnectionError):
            return None


def ask(connection: http.client.HTTPConnection, path: str, method: str, headers: dict[str, str]) -> Answer:
    """One request on an open connection."""
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return Answer(answer.status, answer.read(), answer.getheader("x-mesh-nearest"))


def raw_get(sock: socket.socket, path: str, *lines: str) -> int | None:
    """Status of a GET written by hand; None where the peer closes. Reads all of it, so that another may follow."""
    head = [f"GET {path} HTTP/1.1", "Host: orders.shop", *lines, "", ""]
    sock.sendall("\r\n".join(head).encode())
    response = http.client.HTTPResponse(sock)
    try:
        response.begin()
        response.read()
    except http.client.HTTPException:
        return None
    return response.status


def exchange(sock: socket.socket, line: bytes = b"ping\n") -> bytes:
    """Send `line`, then read until it came back or the peer has closed."""
    got = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        sock.sendall(line)
        while not got.endswith(line):
            part = sock.recv(4096)
            if not part:
                break
            got += part
    return got


@contextmanager
def _files(leaf: Leaf) -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory() as directory:
        paths = leaf.write(Path(directory), "peer")
        yield paths.cert, paths.key


# -- the apps of orders


class _HttpApp(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: the second of two would wait for an acknowledgement, 40 ms

    def _answer(self) -> None:
        seen = {"method": self.command, "path": self.path, "headers": list(self.headers.items())}
        time.sleep(float(self.headers.get("x-takes", 0)))  # seconds
        body = json.dumps(seen).encode()
        self.send_response(int(self.headers.get("x-status", 200)))
        self.send_header("Content-Length", str(len(body)))
        if said := self.headers.get("x-says"):
            self.send_header(UNSERVED, said)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815  (the base class's names)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        """Nothing: the tests look at answers."""


class _TcpApp(socketserver.StreamRequestHandler):
    """Speaks first, as databases do; then says every line again."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            self.wfile.write(GREETING)
            for line in self.rfile:
                self.wfile.write(line)


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


class _GrpcApp(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if details.method != "/shop.Payments/Pay":
            return None  # UNIMPLEMENTED
        peer = dict(details.invocation_metadata).get("x-forwarded-client-cert", "nobody")
        who = peer.encode() if isinstance(peer, str) else peer
        return grpc.unary_unary_rpc_method_handler(lambda request, context: who + b" sent " + request)


@contextmanager
def apps() -> Iterator[dict[str, int]]:
    """Ports of the three apps on 127.0.0.1, by the name of the service port."""
    with ExitStack() as stack:
        ports = {}
        web: tuple[tuple[str, Callable[[], socketserver.TCPServer]], ...] = (
            ("http", lambda: http.server.ThreadingHTTPServer(("127.0.0.1", 0), _HttpApp)),
            ("raw", lambda: _TcpServer(("127.0.0.1", 0), _TcpApp)),
        )
        for name, make in web:
            server = stack.enter_context(make())
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(server.shutdown)
            ports[name] = server.server_address[1]
        pool = stack.enter_context(ThreadPoolExecutor(8))
        app = grpc.server(pool, handlers=[_GrpcApp()])
        ports["grpc"] = app.add_insecure_port(f"127.0.0.1:{free_port()}")
        app.start()
        stack.callback(lambda: app.stop(0).wait())
        yield ports
