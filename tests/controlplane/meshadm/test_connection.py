"""How meshadm finds a replica and who it is to it; and how it fails when it can't."""

import datetime
import os
from pathlib import Path

import pytest

from controlplane.meshadm.connection import load_identity
from controlplane.meshadm.statuses import Verdict, reason, verdict
from schemas.errors import InvalidInput, PermissionDenied
from schemas.names import CONTROL_PLANE_SERVER_NAME
from tests.controlplane.meshadm.fake_replica import Cli, FakeReplica, run_cli, serving, socket_in
from tests.schemas.values import SERVICE
from tests.support.net import free_port
from tests.support.pki import Authority, Leaf
from trio_grpc import RpcAbort, RpcError, ServerTLS, StatusCode

OPERATOR = "spiffe://example.org/operator/ann"


def write_identity(directory: Path, leaf: Leaf, bundle: bytes) -> Path:
    directory.mkdir()
    (directory / "svid.pem").write_bytes(leaf.chain_pem)
    (directory / "key.pem").write_bytes(leaf.key_pem)
    (directory / "bundle.pem").write_bytes(bundle)
    return directory


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create()


@pytest.fixture
def identity(authority: Authority, tmp_path: Path) -> Path:
    return write_identity(tmp_path / "ann", authority.issue(uri=OPERATOR), authority.pem)


def server_tls(authority: Authority, name: str = CONTROL_PLANE_SERVER_NAME) -> ServerTLS:
    leaf = authority.issue(uri="spiffe://example.org/control-plane", dns=[name])
    return ServerTLS(leaf.chain_pem, leaf.key_pem, authority.pem)


async def test_over_mtls_with_an_identity(fake: FakeReplica, authority: Authority, identity: Path) -> None:
    fake.add(SERVICE)
    async with serving(fake, "127.0.0.1:0", server_tls(authority)) as endpoint:
        result = await run_cli(["get", "svc", "-A", "-e", endpoint, "--identity", str(identity)], {})
        assert (result.exit_code, "orders" in result.stdout) == (0, True)
        from_environment = {"MESHADM_ENDPOINT": endpoint, "MESHADM_IDENTITY": str(identity)}
        assert (await run_cli(["get", "svc", "-A"], from_environment)).exit_code == 0


async def test_a_server_that_is_no_replica_is_not_trusted(
    fake: FakeReplica, authority: Authority, identity: Path
) -> None:
    for tls in (server_tls(authority, "orders.shop"), server_tls(Authority.create("another"))):
        async with serving(fake, "127.0.0.1:0", tls) as endpoint:
            result = await run_cli(["get", "svc", "-e", endpoint, "--identity", str(identity)], {})
        assert result.exit_code == 5
        assert "its certificate is not one of a replica of this mesh" in result.stderr
    assert not fake.requests


async def test_another_replica_is_asked_when_one_is_away(fake: FakeReplica, tmp_path: Path) -> None:
    fake.add(SERVICE)
    async with serving(fake, socket_in(tmp_path)) as alive:
        cli = Cli([f"unix:{tmp_path}/dead.sock", alive])
        assert "orders" in await cli.ok("get", "svc", "-A")
        assert "created" in await cli.ok("apply", "-f", "-", stdin=POLICY_TEXT)


POLICY_TEXT = "apiVersion: mesh/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {action: DENY}\n"


async def test_a_busy_or_failing_replica_is_passed_over_for_reads(fake: FakeReplica, tmp_path: Path) -> None:
    fake.add(SERVICE)
    busy = FakeReplica(refuse={"List": [RpcAbort(StatusCode.RESOURCE_EXHAUSTED, "busy")]})
    async with serving(busy, socket_in(tmp_path, "a")) as first, serving(fake, socket_in(tmp_path, "b")) as second:
        assert "orders" in await Cli([first, second]).ok("get", "svc", "-A")
    assert busy.requests


async def test_no_replica_anywhere(tmp_path: Path, identity: Path) -> None:
    missing = await Cli([f"unix:{tmp_path}/a.sock"])("status")
    assert missing.exit_code == 5
    assert f"error: no replica listens on {tmp_path}/a.sock (start it (systemctl start mesh-controlplane)" in (
        missing.stderr
    )
    port = free_port()
    refused = await run_cli(["status", "-e", f"127.0.0.1:{port}", "--identity", str(identity)], {})
    assert refused.exit_code == 5
    assert f"no replica answered (127.0.0.1:{port}: Connection refused)" in refused.stderr
    watching = await run_cli(["watch", "-e", f"127.0.0.1:{port}", "--identity", str(identity)], {})
    assert (watching.exit_code, "Connection refused" in watching.stderr) == (5, True)


async def test_nothing_was_sent_so_a_write_fails_at_once(tmp_path: Path, identity: Path) -> None:
    args = ["apply", "-f", "-", "-e", f"127.0.0.1:{free_port()}", "--identity", str(identity)]
    result = await run_cli(args, {}, POLICY_TEXT)
    assert result.exit_code == 5
    assert "unknown" not in result.stderr


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("10.0.0.1:7443", "a replica is called over mTLS"),
        ("10.0.0.1", "not understood"),
        ("10.0.0.1:0", "not understood"),
        ("unix:relative.sock", "not understood"),
        ("https://host:1", "not understood"),
    ],
)
async def test_endpoint_that_can_not_be_used(endpoint: str, said: str) -> None:
    result = await Cli([endpoint])("status")
    assert result.exit_code == 2
    assert said in result.stderr


async def test_an_expired_identity_says_so(authority: Authority, tmp_path: Path) -> None:
    leaf = authority.issue(uri=OPERATOR, lifetime=-datetime.timedelta(hours=1))
    directory = write_identity(tmp_path / "old", leaf, authority.pem)
    result = await run_cli(["status", "-e", "127.0.0.1:1", "--identity", str(directory)], {})
    assert (result.exit_code, "expired at" in result.stderr) == (6, True)


@pytest.mark.parametrize("name", ["svid.pem", "key.pem", "bundle.pem"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"])
def test_identity_with_a_bad_file(identity: Path, name: str, content: bytes | None) -> None:
    path = identity / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"an identity is a directory|can't be read"):
        load_identity(identity, 0)


def test_identity_with_another_key(identity: Path, authority: Authority) -> None:
    (identity / "key.pem").write_bytes(authority.issue(uri=OPERATOR).key_pem)
    with pytest.raises(InvalidInput, match="not the key of svid"):
        load_identity(identity, 0)


def test_the_key_never_shows(identity: Path) -> None:
    assert "PRIVATE" not in repr(load_identity(identity, 0))


def test_unreadable_identity(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so that the refusal is played."""

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionDenied, match="permission denied"):
        load_identity(identity, 0)


async def test_socket_in_a_directory_of_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("controlplane.meshadm.connection.os.stat", refuse)
    result = await Cli(["unix:/run/mesh/controlplane/api.sock"])("status")
    assert (result.exit_code, "run it as root" in result.stderr) == (6, True)


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: x", Verdict.NEVER_ARRIVED),
        (StatusCode.UNAVAILABLE, "Socket closed", Verdict.UNKNOWN),
        (StatusCode.DEADLINE_EXCEEDED, "", Verdict.UNKNOWN),
        (StatusCode.RESOURCE_EXHAUSTED, "", Verdict.NEVER_ARRIVED),
        (StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (5 vs. 4)", Verdict.ANSWER),
        (StatusCode.ABORTED, "", Verdict.ANSWER),
        (StatusCode.INTERNAL, "", Verdict.ANSWER),
    ],
)
def test_what_a_failure_says_of_the_other_replicas(code: StatusCode, details: str, expected: Verdict) -> None:
    assert verdict(RpcError(code, details)) is expected


def test_reason_is_short() -> None:
    long = (
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect to remote host:"
        " Connection refused"
    )
    assert reason(RpcError(StatusCode.UNAVAILABLE, long)) == "Connection refused"
    assert reason(RpcError(StatusCode.DEADLINE_EXCEEDED, "x")) == "no answer in time"
    assert reason(RpcError(StatusCode.CANCELLED, "")) == "CANCELLED"
