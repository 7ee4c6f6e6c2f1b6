"""A real Envoy as the sidecar of `orders`, asked thousands of times: what it makes of a request, by compiled rules.

Authorization is the compiled one to the byte. Behind it Envoy answers by itself, so that no app is in the way; and a
host of its own says which configuration is in force, so that none is judged by the one before.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2

from dataplane.compile.inbound import ALLOW
from dataplane.compile.resources import LISTENER, ROUTES, Resource, ResourceKey
from dataplane.compile.tls import BYTES_ALPN, packed
from dataplane.compile.workload import Credentials, Workload
from schemas.names import SpiffeId
from tests.authz.raw import Http2
from tests.authz.rules import OTHER_DOMAIN
from tests.dataplane.compile.envoys import FedEnvoy, wait_until
from tests.states.build import ORDERS, TRUST_DOMAIN, Item, bundle, compiled, identity, mesh_of, state
from tests.support.pki import Authority

APP = 299  # no Envoy filter answers with it: the request has reached what stands for the app
_IN_FORCE = 298
_TIMEOUT = 20.0  # seconds; answers take milliseconds
HEAD = b"GET / HTTP/1.1\r\nHost: orders.shop\r\n\r\n"


@dataclass
class JudgeEnvoy:
    envoy: FedEnvoy
    address: str
    authorities: dict[str, Authority] = field(
        default_factory=lambda: {one: Authority.create() for one in (TRUST_DOMAIN, OTHER_DOMAIN)}
    )
    app_ports: Mapping[str, int] = field(default_factory=dict)
    """On 127.0.0.1, by the port's name: of apps that are there."""
    _number: int = 0
    _contexts: dict[tuple[SpiffeId, str], ssl.SSLContext] = field(default_factory=dict)
    _streams: dict[tuple[SpiffeId | None, int, str], _Stream] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._leaf = self.authorities[TRUST_DOMAIN].issue(uri=identity("orders"))
        self._resources: Mapping[ResourceKey, Resource] = {}
        self._head = b""

    def roots(self) -> list[Item]:
        """The bundles of both trust domains, as in etcd."""
        return [
            bundle(1, one.certificate.public_bytes(Encoding.DER), trust_domain=domain)
            for domain, one in self.authorities.items()
        ]

    def run(self, *items: Item, ports: Sequence[int]) -> None:
        """The sidecar of orders with `items` in etcd; returns when it judges by them."""
        of = Workload(
            service=ORDERS, trust_domain=TRUST_DOMAIN, inbound_address=self.address, app_ports=dict(self.app_ports)
        )
        credentials = Credentials(self._leaf.chain_pem, self._leaf.key_pem)
        self._number += 1
        made = compiled(of, mesh_of(state("now", "", *self.roots(), *items).values), credentials).resources()
        resources = {key: self._answering(one) if key.type_url == ROUTES else one for key, one in made.items()}
        others = {key: one.version for key, one in resources.items() if key.type_url != ROUTES}
        if others != {key: one.version for key, one in self._resources.items() if key.type_url != ROUTES}:
            self.envoy.give(resources)
        else:
            self.envoy.feed.give(resources)
            self.envoy.feed.wait_settled()
        self._resources = resources
        head = f"GET / HTTP/1.1\r\nHost: configuration-{self._number}.test\r\n\r\n".encode()
        web = SpiffeId.parse(identity("web"))
        for port in ports:
            wait_until("the new rules judge", partial(self._says, web, port, head))

    def _says(self, caller: SpiffeId, port: int, head: bytes) -> bool:
        return self.ask(caller, port, head) == _IN_FORCE

    def _answering(self, resource: Resource) -> Resource:
        configuration = route_pb2.RouteConfiguration.FromString(resource.body)
        for route in configuration.virtual_hosts[0].routes:
            route.ClearField("route")
            route.direct_response.status = APP
        marker = configuration.virtual_hosts.add(name="in force", domains=[f"configuration-{self._number}.test"])
        marker.routes.add(
            match=route_components_pb2.RouteMatch(prefix="/"),
            direct_response=route_components_pb2.DirectResponseAction(status=_IN_FORCE),
        )
        marker.typed_per_filter_config[ALLOW].CopyFrom(packed(http_rbac_pb2.RBACPerRoute()))  # which is off, here
        return Resource.of(ROUTES, configuration.name, configuration)

    def ask(self, caller: SpiffeId | None, port: int, head: bytes, address: str = "127.0.0.1") -> int:
        """The status of a request, written as it goes over the wire; on one connection kept open between calls.

        caller: None: in plaintext. address: that the caller comes from.
        """
        stream = self._streams.pop((caller, port, address), None) or self._connect(caller, port, address)
        status = stream.ask(head)
        self._head = stream.head
        if stream.ended or head.startswith(b"CONNECT "):
            stream.close()  # after a CONNECT it would be a tunnel
        else:
            self._streams[caller, port, address] = stream
        return status

    def told(self, header: str) -> str:
        """Its value in what was answered last; empty where it is not there."""
        lines = (line.partition(b": ") for line in self._head.split(b"\r\n"))
        return next((value.decode() for name, _, value in lines if name == header.encode()), "")

    def connect_by_http2(self, caller: SpiffeId, port: int, address: str) -> int | None:
        """What a CONNECT over HTTP/2 is answered, on a connection of its own."""
        client = Http2(lambda: self._secured(caller, port, address))
        status = client.ask([(b":method", b"CONNECT"), (b":authority", b"orders.shop")])
        client.close()
        return status

    def passes_bytes(self, caller: SpiffeId, port: int, address: str) -> bool:
        """Whether the app answers a byte, to a peer that asks for bytes."""
        with self._secured(caller, port, address, BYTES_ALPN) as sock:
            try:
                sock.sendall(b"x")
                return sock.recv(1) == b"x"
            except (ssl.SSLError, ConnectionError):
                return False

    def ports_that_pass_bytes(self) -> set[str]:
        """By their names: those that now have a chain for it."""
        bodies = (one.body for key, one in self._resources.items() if key.type_url == LISTENER)
        listeners = map(listener_pb2.Listener.FromString, bodies)
        return {
            one.name.removeprefix("inbound|")
            for one in listeners
            if any(chain.name == "bytes" for chain in one.filter_chains)
        }

    def head(self, caller: SpiffeId | None, port: int, head: bytes) -> bytes:
        """All that is answered to a request on a connection of its own, up to the body."""
        stream = self._connect(caller, port, "127.0.0.1")
        stream.ask(head)
        stream.close()
        return stream.head

    def _connect(self, caller: SpiffeId | None, port: int, address: str) -> _Stream:
        return _Stream(self._plain(port, address) if caller is None else self._secured(caller, port, address))

    def _plain(self, port: int, address: str) -> socket.socket:
        plain = socket.create_connection((self.address, port), timeout=_TIMEOUT, source_address=(address, 0))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return plain

    def _secured(self, caller: SpiffeId, port: int, address: str, alpn: str = "") -> ssl.SSLSocket:
        if (caller, alpn) not in self._contexts:
            self._contexts[caller, alpn] = self._context(caller)
            if alpn:
                self._contexts[caller, alpn].set_alpn_protocols([alpn])
        return self._contexts[caller, alpn].wrap_socket(self._plain(port, address))

    def _context(self, caller: SpiffeId) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # it is Envoy's check of the caller that counts here
        leaf = self.authorities[caller.trust_domain].issue(uri=str(caller))
        with tempfile.TemporaryDirectory() as directory:
            paths = leaf.write(Path(directory), "caller")
            context.load_cert_chain(paths.cert, paths.key)
        return context

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()


class _Stream:
    """One connection, one request at a time: Envoy drops pipelined ones where it answers by itself."""

    def __init__(self, sock: socket.socket) -> None:
        self.ended = False
        self.head = b""
        self._sock = sock
        self._buffer = b""

    def ask(self, head: bytes) -> int:
        """Envoy may close the connection after it, as it does after a bad one."""
        self._sock.sendall(head)
        return self._answer()

    def _answer(self) -> int:
        while b"\r\n\r\n" not in self._buffer:
            self._read()
        self.head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = self.head.lower().split(b"\r\n")
        length = next((int(one.partition(b":")[2]) for one in lines if one.startswith(b"content-length:")), 0)
        while len(self._buffer) < length:
            self._read()
        self._buffer = self._buffer[length:]
        self.ended |= b"connection: close" in lines
        return int(lines[0].split(b" ")[1])

    def _read(self) -> None:
        part = self._sock.recv(65536)
        if not part:
            raise ConnectionError("closed")
        self._buffer += part

    def close(self) -> None:
        self._sock.close()


@contextmanager
def judge_envoy(envoy: FedEnvoy, address: str) -> Iterator[JudgeEnvoy]:
    with closing(JudgeEnvoy(envoy, address)) as made:
        yield made
