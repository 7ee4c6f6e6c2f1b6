"""The path corpus, on every kind of listener and in every protocol, judged by what the app behind really saw.

One Envoy, the sidecar of `orders`, which calls itself: its app's requests go out by the proxy port or a bound port and
come in over mTLS, as those of peers do directly.
"""

from __future__ import annotations

import itertools
import re
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from authz.judge import Request, judge
from dataplane.compile.workload import Credentials, Workload
from schemas.names import SpiffeId
from schemas.objects import AuthorizationPolicy
from schemas.objects.authorization import Operation, Rule
from tests.authz.raw import TIMEOUT, Http1, Http2
from tests.authz.readings import readings
from tests.authz.recorder import Headers, Recorder, Seen, recorder
from tests.authz.rules import rules_of
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.envoys import FedEnvoy, wait_until
from tests.states.build import (
    ORDERS,
    TRUST_DOMAIN,
    bundle,
    compiled,
    identity,
    instance,
    mesh_of,
    need,
    policy,
    port,
    rule,
    service,
    state,
)
from tests.support.pki import Authority

HTTP, GRPC = port("http", 8080), port("grpc", 9000, "grpc")
PROXY, BOUND_HTTP, BOUND_GRPC = 15001, 9101, 9102
WEB = SpiffeId.parse(identity("web"))

DENIED = (
    policy("all", "ALLOW", Rule()),
    policy("secret", "DENY", rule(to=[Operation(paths=("/secret", "/secret/*"))])),
)
ALLOWED = (policy("public", "ALLOW", rule(to=[Operation(paths=("/public/*",))])),)
# Templates, suffixes, negations and gRPC methods say the same of other paths, and must say it as surely.
ALLOWED_MORE = (
    policy(
        "more",
        "ALLOW",
        rule(
            to=[
                Operation(paths=("/{*}/{**}", "/"), not_paths=("/secret", "/secret/*", "*.key")),
                Operation(paths=("*.css",)),
            ]
        ),
    ),
)

# What must get through, so that the tests can fail the other way too.
HONEST = (
    b"/public/x", b"/public/x?y=/../secret/%2f", b"/public/a;v=1/b", b"/public/caf%C3%A9", b"/public/a%20b",
    b"/public/...", b"/public/.well-known/x", b"/public/..a/b", b"/public/100%25", b"/public/a:b@c", b"/public/a%3Ab",
)  # fmt: skip

_DOTS = ("..", "%2e%2e", ".%2E", "..;", "..;a=b", "%2e%2e;", "%2e.;x", "..%3b", "%252e%252e", "%c0%ae.", "..%00", ".. ")
_SLASHES = ("/", "//", "/./", "/;x/", "%2f", "%5c", "\\", "%252f", "/.;/", "/%2e;y/", "/%20/")


_ENDS_HTTP2 = re.compile(rb"[\0-\x20\x7f]|^(?!/)")
_AT_ONCE = 64


def corpus() -> list[bytes]:
    text = (Path(__file__).parent / "corpus" / "paths.txt").read_text("ascii")
    written = [line for line in text.splitlines() if line and not line.startswith("# ")]
    around = [(one, "/") for one in _SLASHES] + [("/", one) for one in _SLASHES[1:]]
    made = [f"/public{before}{dots}{after}secret{after}x" for dots in _DOTS for before, after in around]
    spelled = (line.encode("latin-1").decode("unicode_escape").encode("latin-1") for line in written)
    return list(dict.fromkeys([*spelled, *(one.encode("latin-1") for one in made)]))


@dataclass
class Stage:
    envoy: FedEnvoy
    address: str
    notes: Recorder = field(repr=False)
    authority: Authority = field(default_factory=Authority.create)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def set(self, policies: Sequence[AuthorizationPolicy]) -> None:
        needs = [
            need("orders", port=HTTP.port, bind=BOUND_HTTP),
            need("orders", port=GRPC.port, bind=BOUND_GRPC),
        ]
        root = bundle(1, self.authority.certificate.public_bytes(Encoding.DER))
        at = instance("orders", "o1", self.address, http=HTTP.port, grpc=GRPC.port)
        now = state("now", "", service("orders", HTTP, GRPC, needs=needs), at, root, *policies)
        of = Workload(
            service=ORDERS,
            trust_domain=TRUST_DOMAIN,
            inbound_address=self.address,
            local_address=self.address,
            proxy_port=PROXY,
            app_ports={"http": self.notes.http, "grpc": self.notes.http2},
        )
        leaf = self.authority.issue(uri=identity("orders"))
        self.envoy.run(compiled(of, mesh_of(now.values), Credentials(leaf.chain_pem, leaf.key_pem)))

    def plain(self, number: int) -> socket.socket:
        sock = socket.create_connection((self.address, number), timeout=TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def secured(self, number: int) -> socket.socket:
        return self._context.wrap_socket(self.plain(number))

    def __post_init__(self) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        with tempfile.TemporaryDirectory() as directory:
            paths = self.authority.issue(uri=str(WEB)).write(Path(directory), "web")
            self._context.load_cert_chain(paths.cert, paths.key)

    # -- the ways in; each asks for a target and says what reached the app of it

    def ways(self) -> dict[str, Callable[[bytes], list[Seen]]]:
        first, second = self._first, self._second
        return {
            "inbound": first(lambda: self.secured(HTTP.port)),
            "inbound, HTTP/2": second(lambda: self.secured(HTTP.port)),
            "inbound, gRPC": second(lambda: self.secured(GRPC.port), grpc=True),
            "proxy port": first(lambda: self.plain(PROXY)),
            "proxy port, absolute": first(lambda: self.plain(PROXY), b"http://orders.shop:8080"),
            "proxy port, HTTP/2": second(lambda: self.plain(PROXY)),
            "bound port": first(lambda: self.plain(BOUND_HTTP)),
            "bound port, gRPC": second(lambda: self.plain(BOUND_GRPC), grpc=True),
        }

    def _first(self, connect: Callable[[], socket.socket], origin: bytes = b"") -> Callable[[bytes], list[Seen]]:
        client = Http1(connect)

        def ask(target: bytes) -> list[Seen]:
            number = self._number()
            head = b"GET %s%s HTTP/1.1\r\nHost: orders.shop:8080\r\nx-number: %s\r\n\r\n" % (origin, target, number)
            client.ask(head)
            return self.notes.seen.get(number, [])

        return ask

    def http2_with(self, number: int, headers: Headers) -> Callable[[bytes], list[Seen]]:
        """Asks an inbound port, with these headers beside the needed ones."""
        return self._second(lambda: self.secured(number), grpc=number == GRPC.port, more=headers)

    def _second(
        self, connect: Callable[[], socket.socket], *, grpc: bool = False, more: Headers | None = None
    ) -> Callable[[bytes], list[Seen]]:
        client = Http2(connect)

        def ask(target: bytes) -> list[Seen]:
            number = self._number()
            host = b"orders.shop:9000" if grpc else b"orders.shop:8080"
            headers = [(b":method", b"POST" if grpc else b"GET"), (b":scheme", b"http"), (b":authority", host)]
            headers += [(b":path", target), (b"x-number", number), *(more or [])]
            client.ask(headers + ([(b"content-type", b"application/grpc"), (b"te", b"trailers")] if grpc else []))
            return self.notes.seen.get(number, [])

        return ask

    def _number(self) -> bytes:
        return b"%d" % next(self._numbers)


@pytest.fixture(scope="module")
def stage(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Stage]:
    with recorder() as notes:
        yield Stage(envoys("orders"), own_address(), notes)


def is_secret(path: str) -> bool:
    return path == "/secret" or path.startswith("/secret/")


def is_public(path: str) -> bool:
    return path.startswith("/public/")


@pytest.mark.fault(21)
@pytest.mark.fault(22)
def test_no_path_of_the_corpus_comes_past_a_deny(stage: Stage) -> None:
    stage.set(DENIED)
    reached = let_in(stage, DENIED)
    wrong = {where: seen.target for where, seen in reached if any(map(is_secret, readings(seen.target)))}
    assert wrong == {}


@pytest.mark.fault(21)
@pytest.mark.fault(22)
def test_no_path_of_the_corpus_comes_in_by_an_allow_for_others(stage: Stage) -> None:
    stage.set(ALLOWED)
    reached = let_in(stage, ALLOWED)
    wrong = {where: seen.target for where, seen in reached if not all(map(is_public, readings(seen.target)))}
    assert wrong == {}


@pytest.mark.fault(21)
def test_no_path_of_the_corpus_comes_past_templates_suffixes_and_negations(stage: Stage) -> None:
    stage.set(ALLOWED_MORE)
    reached = let_in(stage, ALLOWED_MORE)
    wrong = {
        where: seen.target
        for where, seen in reached
        if any(is_secret(one) and not one.endswith(".css") for one in readings(seen.target))
    }
    assert wrong == {}


def let_in(stage: Stage, policies: Sequence[AuthorizationPolicy]) -> list[tuple[tuple[str, bytes], Seen]]:
    """What of the corpus reached the app, by way and target. All of it is what the model lets in, too."""
    first = stage.ways()["bound port"]
    wait_until("the policies are in force", lambda: first(HONEST[0]) and not first(b"/secret/x"))
    targets = corpus()
    odd = [one for one in targets if _ENDS_HTTP2.search(one)]
    reached = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # Envoy takes a second to close the connection of who speaks no HTTP/2: these have one each, all at once.
        waiting = {(way, one): pool.submit(stage.ways()[way], one) for way in stage.ways() for one in odd}
        for way, ask in stage.ways().items():
            for target in HONEST:
                (seen,) = ask(target)
                assert seen.target == target, way
            reached += [((way, one), seen) for one in targets if one not in odd for seen in ask(one)]
        reached += [(where, seen) for where, asked in waiting.items() for seen in asked.result()]
    rules = rules_of(policies, HTTP)
    for where, seen in reached:
        again = judge(rules, HTTP, Request(WEB, "GET", seen.target.decode("latin-1")))
        assert again.allowed, (where, seen.target, again)
    return reached
