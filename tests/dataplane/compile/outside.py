"""Servers outside of the mesh, and a real Envoy, `web`, that calls them with compiled configuration."""

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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from dataplane.compile.compiler import Compiler
from dataplane.compile.workload import Credentials, KeyPair, Workload
from schemas.objects.common import CertificateFiles
from tests.dataplane.compile.envoys import FedEnvoy
from tests.states.build import TRUST_DOMAIN, WEB, Item, bundle, compiled, identity, mesh_of, state
from tests.support.net import free_port
from tests.support.pki import Authority, Leaf

PROXY = 15001
_TIMEOUT = 10.0  # seconds; answers take milliseconds


class _Server(socketserver.ThreadingTCPServer):
    """Handshakes take place in the connection's own thread; one that fails is noted."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, owner: Outsider, handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._owner = owner

    def finish_request(self, request: Any, client_address: Any) -> None:
        context = self._owner.context
        if context is not None:
            try:
                request = context.wrap_socket(request, server_side=True)
            except (ssl.SSLError, OSError) as error:
                self._owner.failures.append(str(error))
                return
            self._owner.peers.append(request.getpeercert() or {})
            self._owner.versions.append(request.version())
        with contextlib.suppress(OSError):
            super().finish_request(request, client_address)


@dataclass
class Outsider:
    """An HTTP server and one that says every line again, with TLS where a leaf is given."""

    name: str
    stack: ExitStack
    leaf: Leaf | None = None
    clients: Authority | None = None
    """Who must have signed the client's certificate."""
    requests: list[dict[str, str]] = field(default_factory=list)
    """Headers of each, lower case."""
    failures: list[str] = field(default_factory=list)
    peers: list[dict[str, Any]] = field(default_factory=list)
    versions: list[str | None] = field(default_factory=list)
    asked_for: list[str | None] = field(default_factory=list)
    """Names in the handshakes (SNI)."""
    says: dict[str, str] = field(default_factory=dict)
    """Headers of answers."""
    context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        if self.leaf is not None:
            self.context = self._tls(self.leaf)
        outsider = self

        class Web(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def _answer(self) -> None:
                outsider.requests.append({key.lower(): value for key, value in self.headers.items()})
                body = outsider.name.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                for name, value in outsider.says.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = _answer  # noqa: N815  (the base class's names)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
                """Nothing: the tests look at answers."""

        class Line(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(outsider.name.encode() + b"\n")
                for line in self.rfile:
                    self.wfile.write(line)

        self.http, self.tcp = self._serve(Web), self._serve(Line)

    def _serve(self, handler: type[socketserver.BaseRequestHandler]) -> int:
        server = self.stack.enter_context(_Server(self, handler))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.stack.callback(server.shutdown)
        return int(server.server_address[1])

    def _tls(self, leaf: Leaf) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as directory:
            files = leaf.write(Path(directory), "server")
            context.load_cert_chain(files.cert, files.key)
        if self.clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self.clients.pem.decode())

        def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
            self.asked_for.append(name)

        context.sni_callback = note
        return context


@dataclass
class Outside:
    """`web`, and what it is told."""

    envoy: FedEnvoy
    address: str
    system_ca: str
    authority: Authority = field(default_factory=Authority.create)
    """Of the mesh."""
    compiler: Compiler | None = None
    certificates: dict[CertificateFiles, KeyPair] = field(default_factory=dict)
    """In the files of its host."""

    def __post_init__(self) -> None:
        self._leaf = self.authority.issue(uri=identity("web"))

    def put(self, *items: Item, system_ca: str | None = None) -> None:
        """The whole state of the mesh; returns when Envoy serves it."""
        of = Workload(
            service=WEB,
            trust_domain=TRUST_DOMAIN,
            inbound_address=self.address,
            local_address=self.address,
            proxy_port=PROXY,
            access_log=str(self.envoy.access_log),
            certificates=self.certificates,
            system_ca=self.system_ca if system_ca is None else system_ca,
        )
        root = bundle(1, self.authority.certificate.public_bytes(Encoding.DER))
        credentials = Credentials(self._leaf.chain_pem, self._leaf.key_pem)
        self.compiler = compiled(of, mesh_of(state("now", "", root, *items).values), credentials)
        self.envoy.run(self.compiler)

    def problems(self) -> list[str]:
        return [str(one) for one in self.compiler.problems()] if self.compiler else []

    def get(
        self, host: str, headers: Mapping[str, str] | None = None, *, port: int = PROXY, method: str = "GET"
    ) -> tuple[int, str]:
        """Status and body."""
        connection = http.client.HTTPConnection(self.address, port, timeout=_TIMEOUT)
        try:
            connection.request(method, "/", headers={"Host": host, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    @contextmanager
    def tunnel(self, host: str) -> Iterator[socket.socket]:
        """What a CONNECT leads to. Raises ConnectionRefusedError with the answer."""
        with socket.create_connection((self.address, PROXY), timeout=_TIMEOUT) as sock:
            sock.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head and (part := sock.recv(1)):
                head += part
            if b" 200 " not in head.partition(b"\r\n")[0]:
                rest = b"" if b"\r\n\r\n" not in head else sock.recv(4096)
                raise ConnectionRefusedError((head + rest).decode())
            yield sock

    def bound_line(self, port: int) -> str:
        """The first line that comes from a bound port; "" where it is cut."""
        with socket.create_connection((self.address, port), timeout=_TIMEOUT) as sock:
            with contextlib.suppress(ConnectionError):
                return sock.makefile().readline().strip()
            return ""


@contextmanager
def grpc_outsider(leaf: Leaf) -> Iterator[int]:
    """A gRPC server with TLS that answers every call with its path; its port."""

    class Calls(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
            def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
                return json.dumps({"path": details.method, "said": request.decode()}).encode()

            return grpc.unary_unary_rpc_method_handler(unary)

    credentials = grpc.ssl_server_credentials([(leaf.key_pem, leaf.chain_pem)])
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=[Calls()])
        port = server.add_secure_port(f"127.0.0.1:{free_port()}", credentials)
        server.start()
        try:
            yield port
        finally:
            server.stop(0).wait()


@contextmanager
def outside(envoy: FedEnvoy, own_address: Callable[[], str], system_ca: bytes) -> Iterator[Outside]:
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(system_ca)
        file.flush()
        yield Outside(envoy, own_address(), file.name)
