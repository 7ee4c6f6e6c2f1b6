"""Requests that are no good HTTP, or claim to be somebody's: what of them reaches the app, and as whose."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from authz.judge import Outcome, Request, judge
from schemas.objects.authorization import Operation, Rule
from tests.authz.raw import Http1, Http2
from tests.authz.recorder import Seen
from tests.authz.rules import rules_of
from tests.authz.test_path_corpus import DENIED, GRPC, HTTP, PROXY, WEB, Stage, stage
from tests.dataplane.compile.envoys import wait_until
from tests.states.build import identity, policy, rule

__all__ = ["stage"]

HIDDEN = b"GET /secret/hidden HTTP/1.1\r\nHost: orders.shop:8080\r\nx-number: hidden\r\n\r\n"
SPOOF = identity("admin").encode()

_SMUGGLING = {
    "both lengths": (b"Content-Length: 4\r\nTransfer-Encoding: chunked", b"0\r\n\r\n" + HIDDEN),
    "both lengths, the other way": (b"Transfer-Encoding: chunked\r\nContent-Length: 200", b"0\r\n\r\n" + HIDDEN),
    "two lengths": (b"Content-Length: 0\r\nContent-Length: %d" % len(HIDDEN), HIDDEN),
    "a list of lengths": (b"Content-Length: 0, %d" % len(HIDDEN), HIDDEN),
    "a signed length": (b"Content-Length: +%d" % len(HIDDEN), HIDDEN),
    "a length in hex": (b"Content-Length: 0x%x" % len(HIDDEN), HIDDEN),
    "no length": (b"Content-Length: ", HIDDEN),
    "a space before the colon": (b"Content-Length : %d" % len(HIDDEN), HIDDEN),
    "a coding nobody knows": (b"Transfer-Encoding: xchunked\r\nContent-Length: %d" % len(HIDDEN), HIDDEN),
    "two codings": (b"Transfer-Encoding: chunked, identity", b"0\r\n\r\n" + HIDDEN),
    "two lines of coding": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"0\r\n\r\n" + HIDDEN),
    "a tab before the coding": (b"Transfer-Encoding:\tchunked\r\nContent-Length: 4", b"0\r\n\r\n" + HIDDEN),
    "an underscore": (b"Transfer_Encoding: chunked\r\nContent-Length: %d" % len(HIDDEN), HIDDEN),
    "a folded line": (b"x-a: b\r\n Content-Length: %d" % len(HIDDEN), HIDDEN),
    "a chunk of a huge size": (b"Transfer-Encoding: chunked", b"ffffffffffffffff0\r\n" + HIDDEN),
    "a chunk extension with a line end": (b"Transfer-Encoding: chunked", b"0;a=\n\r\n" + HIDDEN),
    "a trailer": (b"Transfer-Encoding: chunked\r\nTrailer: Content-Length", b"0\r\nContent-Length: 9\r\n\r\n" + HIDDEN),
    "an upgrade": (b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", HIDDEN),
    "a websocket": (b"Connection: Upgrade\r\nUpgrade: websocket", HIDDEN),
}  # fmt: skip

_HEADS = {
    "no host": b"GET /public/x HTTP/1.1\r\n",
    "HTTP/1.0": b"GET /public/x HTTP/1.0\r\nHost: orders.shop:8080\r\n",
    "HTTP/0.9": b"GET /secret/x\r\n",
    "HTTP/3": b"GET /public/x HTTP/3.0\r\nHost: orders.shop:8080\r\n",
    "a name with a space": b"GET /public/x HTTP/1.1\r\nHost: orders.shop:8080\r\nx a: b\r\n",
    "a zero byte": b"GET /public/x HTTP/1.1\r\nHost: orders.shop:8080\r\nx-a: b\x00c\r\n",
    "no name": b"GET /public/x HTTP/1.1\r\nHost: orders.shop:8080\r\n: b\r\n",
    "two spaces": b"GET  /secret/x HTTP/1.1\r\nHost: orders.shop:8080\r\n",
    "a target with a space": b"GET /public/x /secret/x HTTP/1.1\r\nHost: orders.shop:8080\r\n",
    "too large": b"GET /public/x HTTP/1.1\r\nHost: orders.shop:8080\r\nx-a: " + b"b" * 70_000 + b"\r\n",
    "too many": b"GET /public/x HTTP/1.1\r\nHost: orders.shop:8080\r\n" + b"x-a: b\r\n" * 101,
}  # fmt: skip


def say(connect: Callable[[], socket.socket], text: bytes) -> bytes:
    """All that is answered until the peer closes."""
    got = b""
    with connect() as sock, contextlib.suppress(ConnectionError):
        sock.sendall(text)
        while part := sock.recv(65536):
            got += part
    return got


def say_all(asked: Sequence[tuple[bytes, Callable[[], socket.socket], bytes]]) -> dict[bytes, bytes]:
    """All at once, each on a connection of its own: Envoy takes a second to close that of who speaks no HTTP."""
    with ThreadPoolExecutor(32) as pool:
        waiting = {number: pool.submit(say, connect, text) for number, connect, text in asked}
        return {number: one.result() for number, one in waiting.items()}


@pytest.fixture(scope="module")
def ready(stage: Stage) -> Stage:
    stage.set(DENIED)
    return stage


@pytest.mark.fault(22)
def test_nothing_is_smuggled(ready: Stage) -> None:
    """Behind a request that may pass stands one that may not, and whose end is a matter of taste."""
    ways = {"inbound": lambda: ready.secured(HTTP.port), "proxy port": lambda: ready.plain(PROXY)}
    end = b"GET /public/end HTTP/1.1\r\nHost: orders.shop:8080\r\nConnection: close\r\n\r\n"
    asked = []
    for (name, (lines, body)), (way, connect) in itertools.product(_SMUGGLING.items(), ways.items()):
        number = f"{name} {way}".encode()
        head = b"POST /public/x HTTP/1.1\r\nHost: orders.shop:8080\r\nx-number: %s\r\n" % number
        asked.append((number, connect, head + lines + b"\r\n\r\n" + body + end))
    for number, _ in say_all(asked).items():
        for seen in ready.notes.seen.get(number, []):
            assert seen.target == b"/public/x", number
    assert ready.notes.seen.get(b"hidden", []) == []


@pytest.mark.fault(22)
def test_what_is_no_request_reaches_nobody(ready: Stage) -> None:
    ways = {"inbound": lambda: ready.secured(HTTP.port), "proxy port": lambda: ready.plain(PROXY)}
    asked = []
    for (name, head), (way, connect) in itertools.product(_HEADS.items(), ways.items()):
        number = f"{name} {way}".encode()
        asked.append((number, connect, head + b"x-number: %s\r\nConnection: close\r\n\r\n" % number))
    reached = {}
    for number, answer in say_all(asked).items():
        if number in ready.notes.seen:
            reached[number] = ready.notes.seen[number]
        assert answer.startswith(b"HTTP/1.1 4"), (number, answer)
    assert reached == {}


@pytest.mark.fault(22)
def test_what_is_odd_is_put_right(ready: Stage) -> None:
    """A second Host is part of the one that is judged; a line has no other end than its own."""
    head = b"GET /public/x HTTP/1.1\r\nHost: orders.shop:8080\r\nx-number: odd\r\nConnection: close\r\n"
    say(lambda: ready.secured(HTTP.port), head + b"Host: other\r\nx-a: b\rx-b: c\r\n\r\n")
    (seen,) = ready.notes.seen[b"odd"]
    assert seen.all_of(b"host") == [b"orders.shop:8080,other"]
    assert seen.all_of(b"x-a") == [b"bx-b: c"]


@pytest.mark.fault(22)
def test_who_calls_is_what_mtls_has_proved(ready: Stage) -> None:
    """Whatever a caller says of itself, in which spelling, and however it tries to have the truth taken out."""
    claims = (
        [(b"X-Forwarded-Client-Cert", b"URI=" + SPOOF)],
        [(b"x-forwarded-client-cert", b"URI=" + SPOOF), (b"X-FORWARDED-CLIENT-CERT", b"By=a;URI=" + SPOOF)],
        [(b"Connection", b"x-forwarded-client-cert")],
        [(b"Connection", b"close, X-Forwarded-Client-Cert, x-request-id")],
        [(b"x-envoy-original-path", b"/secret/x"), (b"x-envoy-original-dst-host", b"127.0.0.1:1")],
        [(b"x-envoy-internal", b"true"), (b"x-envoy-external-address", b"10.0.0.1"), (b"x-envoy-ip-tags", b"a")],
        [(b"x-envoy-upstream-rq-timeout-ms", b"1"), (b"x-envoy-retry-on", b"5xx"), (b"x-envoy-max-retries", b"9")],
    )  # fmt: skip
    ways = {
        "inbound": (lambda: ready.secured(HTTP.port), str(WEB)),
        "proxy port": (lambda: ready.plain(PROXY), identity("orders")),
    }
    for (index, claim), (way, (connect, caller)) in itertools.product(enumerate(claims), ways.items()):
        number = f"claim {index} {way}".encode()
        lines = b"".join(b"%s: %s\r\n" % one for one in claim)
        close = b"" if b"Connection" in dict(claim) else b"Connection: close\r\n"
        head = b"GET /public/x HTTP/1.1\r\nHost: orders.shop:8080\r\nx-number: %s\r\n" % number
        tail = b"GET /public/end HTTP/1.1\r\nHost: orders.shop:8080\r\nConnection: close\r\n\r\n"
        say(connect, head + lines + close + b"\r\n" + (b"" if close else tail))
        (seen,) = ready.notes.seen[number]
        said = told(seen)
        assert said["URI"] == caller, (claim, way)
        assert said["By"] == identity("orders")
        steering = [name for name, _ in seen.headers if name.lower().startswith(b"x-envoy-")]
        assert [one for one in steering if one.lower() not in _OURS] == [], (claim, way)


# The caller's address, of Envoy's own making; and what steers clusters of a kind that takes it, which we have none of.
_OURS = (b"x-envoy-external-address", b"x-envoy-original-dst-host")


def told(seen: Seen) -> dict[str, str]:
    (value,) = seen.all_of(b"x-forwarded-client-cert")
    assert b"," not in value
    return dict(part.split("=", 1) for part in value.decode().split(";"))


@pytest.mark.fault(22)
def test_who_calls_over_grpc_and_http2(ready: Stage) -> None:
    for number in (HTTP.port, GRPC.port):
        ask = ready.http2_with(number, [(b"x-forwarded-client-cert", b"URI=" + SPOOF)])
        (seen,) = ask(b"/public/x")
        assert told(seen)["URI"] == str(WEB)
        for bad in ([(b"x_forwarded_client_cert", b"URI=" + SPOOF)], [(b"connection", b"keep-alive")], [(b"te", b"x")]):
            assert all(told(one)["URI"] == str(WEB) for one in ready.http2_with(number, bad)(b"/public/x")), bad
        assert ready.http2_with(number, [(b"x_user", b"anna")])(b"/public/x") == []


NO_DELETE = (policy("all", "ALLOW", Rule()), policy("no", "DENY", rule(to=[Operation(methods=("DELETE",))])))
# Case-sensitive they are (RFC 9110, 9.1), and yet some apps fold it; the long s (U+017F) then becomes an S.
_METHODS = (b"delete", b"Delete", b"DELETe", b"get", b"connect", b"po\xc5\xbft")


@pytest.mark.fault(22)
def test_a_method_in_lower_case_reaches_nobody(stage: Stage) -> None:
    """In no protocol: a DENY of DELETE is one of `delete` too, for whoever takes it for that."""
    stage.set(NO_DELETE)
    ways = {
        "inbound": (lambda: stage.secured(HTTP.port), b"orders.shop:8080"),
        "inbound, gRPC": (lambda: stage.secured(GRPC.port), b"orders.shop:9000"),
        "proxy port": (lambda: stage.plain(PROXY), b"orders.shop:8080"),
    }
    http2 = {way: Http2(connect) for way, (connect, _) in ways.items()}
    http1 = Http1(ways["inbound"][0])

    def over_http2(way: str, method: bytes, number: bytes) -> int | None:
        host = ways[way][1]
        headers = [(b":method", method), (b":scheme", b"http"), (b":authority", host), (b":path", b"/")]
        return http2[way].ask([*headers, (b"x-number", number)])

    wait_until("the policies are in force", lambda: over_http2("inbound", b"DELETE", b"ready") == 403)
    rules = rules_of(NO_DELETE, HTTP)
    for method in _METHODS:
        number = b"method " + method.hex().encode()
        asked = [*ways] if method.isalpha() else ["inbound"]  # of what is no token Envoy takes a second to close
        answers = {over_http2(way, method, number) for way in asked}
        head = b"%s / HTTP/1.1\r\nHost: orders.shop:8080\r\nx-number: %s\r\n\r\n" % (method, number)
        assert http1.ask(head) == 400, method
        assert answers == ({400} if method.isalpha() else {None}), (method, answers)
        assert stage.notes.seen.get(number) is None, method
        verdict = judge(rules, HTTP, Request(WEB, method.decode("latin-1")))
        assert verdict.outcome is Outcome.REFUSED, method
    for way in ways:  # what must get through
        assert over_http2(way, b"M-SEARCH", b"honest") is not None
    assert len(stage.notes.seen[b"honest"]) == len(ways)
