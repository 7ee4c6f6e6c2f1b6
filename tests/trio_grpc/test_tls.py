"""Mutual TLS of client and server: identities, refusals, and certificates replaced while both run."""

import pytest
import trio

from tests.support.pki import Authority, Leaf
from trio_grpc import TLS, Channel, Context, Listener, ReloadableTLS, RpcError, ServerTLS, StatusCode, serve, unary


def _server_leaf(authority: Authority, name: str = "server") -> Leaf:
    return authority.issue(name, dns=["localhost", "orders.shop"], ip=["127.0.0.1"])


def _client_tls(trusted: Authority, leaf: Leaf | None) -> TLS:
    return TLS(trusted.pem) if leaf is None else TLS(trusted.pem, leaf.chain_pem, leaf.key_pem)


def _server_tls(leaf: Leaf, clients: Authority | None) -> ServerTLS:
    return ServerTLS(leaf.chain_pem, leaf.key_pem, None if clients is None else clients.pem)


async def who(request: bytes, context: Context) -> bytes:
    return (context.auth["x509_common_name"][0] + b"\n" + context.peer_certificate) if context.peer_certificate else b""


WHO = {"/t.T/Who": unary(who, bytes, bytes)}


async def ask(port: int, tls: TLS | None, *, server_name: str | None = None, host: str = "localhost") -> bytes:
    with Channel(f"{host}:{port}", tls=tls, server_name=server_name) as channel:
        return await channel.unary("/t.T/Who", b"", timeout=5)


async def serving(listener: Listener, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
    async with serve(WHO, [listener], on_error=lambda *_: None) as server:
        task_status.started(server.bound_ports[0])
        await trio.sleep_forever()


async def test_the_handler_learns_who_calls(nursery: trio.Nursery) -> None:
    servers, clients = Authority.create("servers"), Authority.create("clients")
    port = await nursery.start(serving, Listener("localhost:0", _server_tls(_server_leaf(servers), clients)))
    alice = clients.issue("alice", uri="spiffe://mesh.test/ns/a/svc/alice")
    common_name, _, certificate = (await ask(port, _client_tls(servers, alice))).partition(b"\n")
    assert common_name == b"alice"
    assert certificate == alice.chain_pem


async def test_a_client_without_or_with_a_foreign_certificate_is_refused(nursery: trio.Nursery) -> None:
    servers, clients = Authority.create("servers"), Authority.create("clients")
    port = await nursery.start(serving, Listener("localhost:0", _server_tls(_server_leaf(servers), clients)))
    for leaf in (None, Authority.create("clients").issue("mallory")):
        with pytest.raises(RpcError) as caught:
            await ask(port, _client_tls(servers, leaf))
        assert caught.value.code is StatusCode.UNAVAILABLE
    with pytest.raises(RpcError):
        await ask(port, None)


async def test_a_client_refuses_a_server_of_another_authority_or_name(nursery: trio.Nursery) -> None:
    servers = Authority.create("servers")
    port = await nursery.start(serving, Listener("localhost:0", _server_tls(_server_leaf(servers), None)))
    assert await ask(port, _client_tls(servers, None)) == b""
    assert await ask(port, _client_tls(servers, None), server_name="orders.shop") == b""
    with pytest.raises(RpcError, match="CERTIFICATE_VERIFY_FAILED"):
        await ask(port, _client_tls(Authority.create("servers"), None))
    with pytest.raises(RpcError, match="Hostname Verification"):
        await ask(port, _client_tls(servers, None), server_name="payments.shop")


async def test_new_connections_meet_the_replaced_certificate_and_client_roots(nursery: trio.Nursery) -> None:
    old, new = Authority.create("old"), Authority.create("new")
    reloadable = ReloadableTLS(_server_tls(_server_leaf(old), old))
    port = await nursery.start(serving, Listener("localhost:0", reloadable))
    with Channel(f"localhost:{port}", tls=_client_tls(old, old.issue("first"))) as open_before:
        assert (await open_before.unary("/t.T/Who", b"", timeout=5)).startswith(b"first\n")
        reloadable.replace(_server_tls(_server_leaf(new), new))
        assert (await ask(port, _client_tls(new, new.issue("second")))).startswith(b"second\n")
        with pytest.raises(RpcError):
            await ask(port, _client_tls(new, old.issue("third")))
        with pytest.raises(RpcError):
            await ask(port, _client_tls(old, old.issue("fourth")))
        assert (await open_before.unary("/t.T/Who", b"", timeout=5)).startswith(b"first\n")


def test_client_certificates_cannot_be_switched_off_at_run_time() -> None:
    authority = Authority.create()
    reloadable = ReloadableTLS(_server_tls(_server_leaf(authority), authority))
    with pytest.raises(ValueError, match="client certificates"):
        reloadable.replace(_server_tls(_server_leaf(authority), None))


def test_no_key_in_any_repr() -> None:
    leaf = Authority.create().issue("x")
    for value in (TLS(b"ca", leaf.chain_pem, leaf.key_pem), ServerTLS(leaf.chain_pem, leaf.key_pem)):
        assert "PRIVATE" not in repr(value)
        assert "[redacted]" in repr(value)
