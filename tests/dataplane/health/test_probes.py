"""Each kind of question, to real servers and real commands."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from dataplane.health.plan import Plan
from dataplane.health.probes import Failed, probe
from schemas.objects.health import GrpcCheck, HttpCheck
from tests.support.net import eventually, free_port
from trio_grpc import Context, Listener, RpcAbort, StatusCode, serve, unary

SECONDS = 20.0  # a bound for a busy machine
PLAN = Plan("TCP", "127.0.0.1", 0, 3.0, SECONDS, 1, 1)

Handler = Callable[[trio.SocketStream], Awaitable[None]]


async def why(plan: Plan) -> str:
    with pytest.raises(Failed) as caught:
        await probe(plan)
    return str(caught.value)


async def serving(nursery: trio.Nursery, handler: Handler) -> Plan:
    listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
    return replace(PLAN, port=listeners[0].socket.getsockname()[1])


async def test_tcp(nursery: trio.Nursery) -> None:
    async def quiet(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    await probe(await serving(nursery, quiet))
    assert "no connection to 127.0.0.1 port" in await why(replace(PLAN, port=free_port()))


async def test_http(nursery: trio.Nursery) -> None:
    asked: list[bytes] = []

    async def app(stream: trio.SocketStream) -> None:
        asked.append(bytes(await stream.receive_some()))
        status = b"204 No Content" if b"GET /well?x=1 " in asked[-1] else b"500 Oh"
        await stream.send_all(b"HTTP/1.1 " + status[:2])  # in two parts
        await stream.send_all(status[2:] + b"\r\nContent-Length: 0\r\n\r\n")

    plan = replace(await serving(nursery, app), type="HTTP")
    fine = HttpCheck(path="/well?x=1", hostname="app.example", expected_statuses=(200, 204))
    await probe(replace(plan, http=fine))
    assert asked[0].startswith(b"GET /well?x=1 HTTP/1.1\r\nHost: app.example\r\n")
    assert await why(plan) == "GET / was answered with 500"
    assert f"Host: 127.0.0.1:{plan.port}\r\n".encode() in asked[1]
    assert await why(replace(plan, http=HttpCheck(path="/well?x=1"))) == "GET /well?x=1 was answered with 204"


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1\r\n", b"HTTP/1.1 abc\r\n", b"\xff" * 9000])
async def test_what_is_no_http(nursery: trio.Nursery, answer: bytes) -> None:
    async def app(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)

    said = await why(replace(await serving(nursery, app), type="HTTP"))
    assert said in ("no HTTP/1 answer to GET /", "the app closed the connection without an answer")


async def test_an_app_that_says_nothing(nursery: trio.Nursery) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    plan = await serving(nursery, silent)
    assert await why(replace(plan, type="HTTP", timeout=0.05)) == "no answer within 0.05 s"


async def test_grpc() -> None:
    async def check(request: bytes, context: Context) -> bytes:
        match request:
            case b"":
                return b"\x08\x01"  # SERVING
            case b"\x0a\x04shop":
                return b"\x08\x02"  # NOT_SERVING
        raise RpcAbort(StatusCode.NOT_FOUND, "unknown service")

    methods = {"/grpc.health.v1.Health/Check": unary(check, bytes, bytes)}
    async with serve(methods, [Listener("127.0.0.1:0")], on_error=lambda *_: None) as server:
        plan = replace(PLAN, type="GRPC", port=server.bound_ports[0])
        await probe(plan)
        assert "not serving (2)" in await why(replace(plan, grpc=GrpcCheck(service="shop")))
        assert "NOT_FOUND: unknown service" in await why(replace(plan, grpc=GrpcCheck(service="other")))
    assert "UNAVAILABLE" in await why(replace(plan, timeout=SECONDS))


async def test_command(tmp_path: Path) -> None:
    def python(text: str) -> Plan:
        return replace(PLAN, type="Command", command=(sys.executable, "-c", text))

    await probe(python("print('fine')"))
    assert (await why(python("print('oh'); print('no'); exit(3)"))).endswith("ended with 3: oh | no")
    assert "can't be run" in await why(replace(PLAN, type="Command", command=(str(tmp_path / "gone"),)))


@pytest.mark.parametrize("end", ["wait", "exit 0"])
async def test_a_command_that_does_not_end_is_ended_with_what_it_has_started(tmp_path: Path, end: str) -> None:
    """One whose child holds its output open has not ended either."""
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; {end}"
    plan = replace(PLAN, type="Command", command=("/bin/sh", "-c", script))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probe, plan)
        await eventually("it has started", pids.exists, SECONDS)
        nursery.cancel_scope.cancel()
    for pid in pids.read_text().split():
        await eventually(f"{pid} has ended", partial(_ended, int(pid)), SECONDS)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
