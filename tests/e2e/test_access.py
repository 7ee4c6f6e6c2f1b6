"""Who may do what: enforced at the server's sidecar, on connections that are open already, too."""

from __future__ import annotations

from queue import SimpleQueue

import grpc
import pytest
import trio

from schemas.objects import AuthorizationPolicy
from schemas.objects.authorization import Operation, Rule, Source
from tests.e2e.app import GREETING, GRPC, HTTP, TCP
from tests.e2e.mesh import REPORTS_ID, WEB_ID, WEB_MAY, E2eMesh, caller
from tests.states.build import policy, rule

DENY_ALL = policy("closed", "DENY", Rule(), on=["api"])


def allow(*sources: Source, to: list[Operation] | None = None) -> AuthorizationPolicy:
    return policy("more", "ALLOW", rule(*sources, to=to), on=["api"])


async def tcp_greeting(mesh: E2eMesh, by: str = "web-1") -> bytes:
    """What the TCP app says first to whoever gets through by CONNECT; else the refusal's status line."""
    async with await trio.open_tcp_stream(mesh.instances[by].local, 15001) as stream:
        await stream.send_all(f"CONNECT api.shop:{TCP} HTTP/1.1\r\nHost: api.shop:{TCP}\r\n\r\n".encode())
        got = b""
        with trio.fail_after(10):
            while GREETING.encode() not in got and b" 403 " not in got:
                part = await stream.receive_some()
                if not part:
                    break
                got += part
        return got


def unary(channel: grpc.Channel, path: str = "/e2e.Echo/Unary") -> grpc.StatusCode:
    try:
        channel.unary_unary(path, bytes, bytes)(b"x", timeout=10)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


async def test_nobody_is_let_in_whom_no_policy_allows(mesh: E2eMesh) -> None:
    assert await mesh.status(by="reports-1") == 403
    assert GREETING.encode() not in await tcp_greeting(mesh, "reports-1")
    async with mesh.http("reports-1") as client:
        answer = await client.post(
            f"http://api.shop:{GRPC}/e2e.Echo/Unary", headers={"content-type": "application/grpc"}
        )
    assert answer.status_code == 403 or answer.headers.get("grpc-status") == "7"
    assert await mesh.status() == 200  # web may, at the same time


async def test_without_any_policy_nobody_is_let_in(mesh: E2eMesh) -> None:
    try:
        await mesh.delete(WEB_MAY.ref)
        assert await mesh.status() == 403
        assert GREETING.encode() not in await tcp_greeting(mesh)
        with mesh.grpc() as channel:
            assert await trio.to_thread.run_sync(unary, channel) is grpc.StatusCode.PERMISSION_DENIED
    finally:
        await mesh.apply(WEB_MAY)
    assert await mesh.status() == 200


async def test_by_method_path_and_port(mesh: E2eMesh) -> None:
    operations = [Operation(methods=("GET",), paths=("/public/*", "/exact"), ports=(HTTP,))]
    async with mesh.applied(allow(caller(REPORTS_ID), to=operations)):
        by = "reports-1"
        assert await mesh.status("/public/1", by=by) == 200
        assert await mesh.status("/exact", by=by) == 200
        assert await mesh.status("/exact/1", by=by) == 403
        assert await mesh.status("/publicity", by=by) == 403
        assert await mesh.status("/public/../private", by=by) == 403
        assert await mesh.status("/public/1", by=by, method="DELETE") == 403
        assert await mesh.status("/public/1", by=by, host="api.shop:8081") == 403


async def test_by_namespace(mesh: E2eMesh) -> None:
    async with mesh.applied(allow(Source(namespaces=("back-office",)))):
        assert await mesh.status(by="reports-1") == 200
    assert await mesh.status(by="reports-1") == 403


async def test_tcp_is_allowed_and_denied_by_identity(mesh: E2eMesh) -> None:
    async with mesh.applied(allow(caller(REPORTS_ID), to=[Operation(ports=(TCP,))])):
        assert GREETING.encode() in await tcp_greeting(mesh, "reports-1")
        assert await mesh.status(by="reports-1") == 403  # the HTTP port was not meant
    assert GREETING.encode() not in await tcp_greeting(mesh, "reports-1")


async def test_a_deny_goes_before_an_allow(mesh: E2eMesh) -> None:
    deny = policy("no-deletes", "DENY", rule(caller(WEB_ID), to=[Operation(methods=("DELETE",))]), on=["api"])
    async with mesh.applied(deny):
        assert await mesh.status(method="DELETE") == 403
        assert await mesh.status(method="GET") == 200


@pytest.mark.fault(24)
async def test_a_new_deny_reaches_open_http_1_and_2_connections(mesh: E2eMesh) -> None:
    async with mesh.http() as one, mesh.http2() as two:

        async def ask() -> tuple[list[int], list[object]]:
            """Statuses, and the client's own addresses: the same as long as they are the same connections."""
            answers = [await one.get("http://api.shop/"), await two.get("/")]
            assert [answer.http_version for answer in answers] == ["HTTP/1.1", "HTTP/2"]
            streams = [answer.extensions["network_stream"] for answer in answers]
            return [answer.status_code for answer in answers], [one.get_extra_info("client_addr") for one in streams]

        before = await ask()
        async with mesh.applied(DENY_ALL):
            denied = await ask()
        after = await ask()
    assert [said for said, _ in (before, denied, after)] == [[200, 200], [403, 403], [200, 200]]
    assert before[1] == denied[1] == after[1]


@pytest.mark.fault(24)
async def test_a_new_deny_reaches_an_open_grpc_connection(mesh: E2eMesh) -> None:
    states: SimpleQueue[grpc.ChannelConnectivity] = SimpleQueue()
    with mesh.grpc() as channel:
        assert await trio.to_thread.run_sync(unary, channel) is grpc.StatusCode.OK
        channel.subscribe(states.put)
        async with mesh.applied(DENY_ALL):
            assert await trio.to_thread.run_sync(unary, channel) is grpc.StatusCode.PERMISSION_DENIED
        assert await trio.to_thread.run_sync(unary, channel) is grpc.StatusCode.OK
    seen = set()
    while not states.empty():
        seen.add(states.get())
    assert grpc.ChannelConnectivity.CONNECTING not in seen  # one connection all along
