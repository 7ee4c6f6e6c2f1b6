"""Logging in, operators, tokens and host authorities by the command line, against a real replica."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import time
from pathlib import Path

import msgspec
import pytest
import trio
from click.testing import Result

from controlplane.meshadm import login_store
from controlplane.meshadm.access import attestor_table, operator_table, token_table
from controlplane.meshadm.table import lines
from schemas import joinfile
from schemas.api import mesh_pb2 as pb
from schemas.records import HostAuthority, HostRule
from tests.controlplane.meshadm.fake_replica import Cli, run_cli
from tests.controlplane.meshadm.test_with_replica import shop
from tests.controlplane.replica import Replica
from tests.support.pki import Authority


@pytest.fixture
def root(replica: Replica) -> Cli:
    return Cli([f"unix:{replica.config.listen.socket}"])


@pytest.fixture
def name() -> str:
    return f"anna-{secrets.token_hex(4)}"


class Desk:
    """An operator's own machine: a home directory, and no socket of a replica."""

    def __init__(self, home: Path, replica: Replica) -> None:
        self.home = home
        self.replica = replica
        self.path = home / "meshadm" / "login.json"

    async def __call__(self, *args: str, stdin: str | bytes | None = None) -> Result:
        return await run_cli(args, {"XDG_CONFIG_HOME": str(self.home), "MESHADM_DEBUG": "1"}, stdin)

    async def log_in(self, file: Path) -> Result:
        """Where the replicas listen is the kernel's choice in tests, so both files are told."""
        held = joinfile.load_login(await trio.Path(file).read_bytes(), "f")
        held = msgspec.structs.replace(held, join_endpoints=(f"127.0.0.1:{self.replica.serving.join_port}",))
        result = await self("login", "-", stdin=joinfile.dump(held))
        if result.exit_code == 0:
            self.change(apiEndpoints=[f"127.0.0.1:{self.replica.serving.api_port}"])
        return result

    def change(self, **fields: object) -> None:
        self.path.write_text(json.dumps({**json.loads(self.path.read_text()), **fields}))


@pytest.fixture
def desk(tmp_path: Path, replica: Replica) -> Desk:
    return Desk(tmp_path / "home", replica)


async def login_file(root: Cli, tmp_path: Path, name: str, *more: str) -> Path:
    out = tmp_path / f"{secrets.token_hex(4)}.login"
    await root.ok("token", "create", "--operator", name, "--out", str(out), *more)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    return out


async def test_log_in_work_and_log_out(root: Cli, desk: Desk, tmp_path: Path, namespace: str, name: str) -> None:
    file = await login_file(root, tmp_path, name, "--role", "editor", "--namespace", namespace)
    result = await desk.log_in(file)
    assert result.exit_code == 0, result.stderr
    assert f"/operator/{name} (editor of {namespace})" in result.stdout
    assert stat.S_IMODE(desk.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(desk.path.parent.stat().st_mode) == 0o700
    assert os.listdir(desk.path.parent) == ["login.json"]

    assert (await desk("apply", "-f", "-", stdin=shop(namespace))).exit_code == 0
    refused = await desk("apply", "-f", "-", stdin=shop(f"{namespace}-2"))
    assert refused.exit_code == 6
    assert f"{name} is editor of {namespace}" in refused.stderr
    assert (await desk("operator", "list")).exit_code == 6
    assert (await desk("get", "svc", "-n", namespace)).exit_code == 0

    assert (await desk.log_in(file)).exit_code == 6  # the token is used
    assert "is deleted" in (await desk("logout")).stdout
    assert not desk.path.exists()
    assert "nobody" in (await desk("logout")).stdout


async def test_roles_by_the_command_line(root: Cli, desk: Desk, tmp_path: Path, namespace: str, name: str) -> None:
    await desk.log_in(await login_file(root, tmp_path, name, "--role", "viewer"))
    assert (await desk("apply", "-f", "-", stdin=shop(namespace))).exit_code == 6
    granted = await root.ok("operator", "grant", name, "--role", "editor", "--namespace", namespace)
    assert f"operator {name} is editor of {namespace} from revision" in granted
    assert (await desk("apply", "-f", "-", stdin=shop(namespace))).exit_code == 0
    listed = json.loads(await root.ok("operator", "list", "-o", "json"))
    (mine,) = (one for one in listed["operators"] if one["name"] == name)
    assert (mine["role"], mine["namespaces"], mine["revoked"]) == ("editor", [namespace], None)
    assert re.search(f"^{name} +editor +{namespace} ", await root.ok("operator", "list"), re.MULTILINE)
    assert "is revoked at revision" in await root.ok("operator", "revoke", name)
    revoked = await desk("get", "svc", "-A")
    assert revoked.exit_code == 6
    assert "was revoked" in revoked.stderr
    assert (await root("operator", "revoke", name)).exit_code == 4
    assert (await root("operator", "revoke", f"{name}-x")).exit_code == 3
    assert (await root("operator", "grant", name, "--role", "editor")).exit_code == 2


async def test_a_login_is_renewed_in_the_second_half_of_its_life(
    root: Cli, desk: Desk, tmp_path: Path, name: str
) -> None:
    await desk.log_in(await login_file(root, tmp_path, name, "--role", "viewer"))
    first = login_store.load(desk.path)
    assert first is not None
    assert (await desk("get", "svc", "-A")).exit_code == 0
    assert login_store.load(desk.path) == first
    desk.change(issued=first.issued - 2 * (first.expires - first.issued))
    assert (await desk("get", "svc", "-A")).exit_code == 0
    fresh = login_store.load(desk.path)
    assert fresh is not None
    assert fresh.key_pem != first.key_pem
    assert fresh.spiffe_id == first.spiffe_id
    assert stat.S_IMODE(desk.path.stat().st_mode) == 0o600


async def test_a_login_that_is_no_good(root: Cli, desk: Desk, tmp_path: Path, name: str) -> None:
    await desk.log_in(await login_file(root, tmp_path, name, "--role", "viewer"))
    desk.change(expires=int(time.time()) - 1)
    expired = await desk("get", "svc", "-A")
    assert (expired.exit_code, "has expired" in expired.stderr) == (6, True)
    desk.path.chmod(0o640)
    read = await desk("get", "svc", "-A")
    assert (read.exit_code, "chmod 0600" in read.stderr) == (6, True)
    desk.path.write_text("{}")
    desk.path.chmod(0o600)
    broken = await desk("get", "svc", "-A")
    assert (broken.exit_code, "meshadm logout" in broken.stderr) == (2, True)
    # Whoever names the socket of a replica, or another identity, is not held up by it.
    assert (await desk("get", "svc", "-A", "-e", root.endpoints[0])).exit_code == 0


async def test_a_login_file_that_is_none(desk: Desk) -> None:
    result = await desk("login", "-", stdin="{}")
    assert (result.exit_code, "not a login file" in result.stderr) == (2, True)


def test_no_login_shows_its_key() -> None:
    login = login_store.Login("spiffe://a/operator/b", b"-----PRIVATE", b"c", b"d", (), 0, 1)
    assert "PRIVATE" not in repr(login)
    assert login.due(0.5)
    assert not login.due(0.4)
    assert not login.due(1)


# -- tokens


async def test_tokens_by_the_command_line(root: Cli, tmp_path: Path, namespace: str) -> None:
    out = tmp_path / "any.join"
    made = await root.ok("token", "create", "--selector", f"{namespace}/*", "--uses", "3", "--out", str(out))
    assert "for 3 uses until" in made
    assert f"as a sidecar of any service of {namespace}" in made
    held = joinfile.load(out.read_bytes(), "f")
    assert (held.namespace, held.service) == (namespace, "*")
    token_id, secret = held.token.split(".")[1:]
    shown = await root.ok("token", "list")
    assert re.search(f"^{token_id} +{namespace}/\\* ", shown, re.MULTILINE)
    assert "3 of 3" in shown
    listed = json.loads(await root.ok("token", "list", "-o", "json"))
    (mine,) = (one for one in listed["tokens"] if one["id"] == token_id)
    assert (mine["boundTo"], mine["usesLeft"], mine["createdBy"]) == (f"{namespace}/*", 3, "root-local")
    assert secret not in shown + json.dumps(listed)
    assert f"token {token_id} is revoked" in await root.ok("token", "revoke", token_id)
    assert (await root("token", "revoke", token_id)).exit_code == 4
    assert (await root("token", "revoke", "0" * 16)).exit_code == 3
    whole = await root("token", "revoke", held.token)
    assert (whole.exit_code, secret in whole.stderr + whole.stdout) == (2, False)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--service", "orders.shop", "--operator", "anna"),
        ("--service", "orders.shop", "--selector", "shop/*"),
        ("--service", "orders.shop", "--role", "admin"),
        ("--selector", "shop"),
        ("--selector", "*/*"),
        ("--operator", "nobody-yet"),
        ("--operator", "anna", "--role", "editor"),
        ("--operator", "anna", "--role", "admin", "--uses", "2"),
        ("--service", "orders.shop", "--uses", "0"),
    ],
)
async def test_tokens_that_make_no_sense(root: Cli, options: tuple[str, ...]) -> None:
    assert (await root("token", "create", *options)).exit_code == 2


# -- host authorities


async def test_host_authorities_by_the_command_line(root: Cli, tmp_path: Path, namespace: str) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(Authority.create("corp hosts").pem)
    allow = f"dns:*.{namespace}.example.org={namespace}/*"
    uri = f"uri:spiffe://old/a=b={namespace}/orders"
    added = await root.ok("attestor", "x509", "add", namespace, "--ca", str(ca), "--allow", allow, "--allow", uri)
    assert f"host authority {namespace} counts from revision" in added
    shown = await root.ok("attestor", "list")
    assert re.search(f"^{namespace} +dns:\\*\\.{namespace}.example.org ", shown, re.MULTILINE)
    assert "CN=corp hosts" in shown
    listed = json.loads(await root.ok("attestor", "list", "-o", "json"))
    (mine,) = (one for one in listed["x509"] if one["name"] == namespace)
    assert {"match": "uri:spiffe://old/a=b", "selector": f"{namespace}/orders"} in mine["rules"]
    assert "is removed" in await root.ok("attestor", "x509", "remove", namespace)
    assert (await root("attestor", "x509", "remove", namespace)).exit_code == 3
    for bad in ("nonsense", "dns:*=shop/*", "any=shop", "=shop/*"):
        result = await root("attestor", "x509", "add", namespace, "--ca", str(ca), "--allow", bad)
        assert result.exit_code == 2, bad
    ca.write_text("no PEM")
    assert (await root("attestor", "x509", "add", "x", "--ca", str(ca), "--allow", "any=shop/*")).exit_code == 2


async def test_the_join_file_of_all_hosts_has_no_token(root: Cli, tmp_path: Path) -> None:
    out = tmp_path / "mesh.join"
    assert "any number of hosts" in await root.ok("attestor", "join-file", "--out", str(out))
    held = joinfile.load(out.read_bytes(), "f")
    assert (held.token, held.namespace, held.trust_domain) == ("", "", "shop.example")
    assert held.trust_bundle
    assert joinfile.load((await root.ok("attestor", "join-file")).encode(), "f") == held
    assert (await root("attestor", "join-file", "--out", str(out))).exit_code == 2


# -- tables


def test_tables() -> None:
    tokens = [
        pb.TokenInfo(id="b", bound_to="shop/*", uses=3, uses_left=2, expires=1060, created=2, created_by="x\n"),
        pb.TokenInfo(id="a", bound_to="operator/anna", uses=1, expires=900, created=1, created_by="root-local"),
        pb.TokenInfo(id="c", bound_to="shop/a", uses=1, expires=1060, created=3, revoked=5),
    ]
    tokens[1].used.add(at=5, by="10.0.0.7", identity="spiffe://a/operator/anna")
    assert lines(token_table(tokens, 1000)) == [
        "ID  FOR            USES LEFT  EXPIRES  CREATED BY  USED BY",
        "a   operator/anna  0 of 1     expired  root-local  10.0.0.7 as spiffe://a/operator/anna",
        "b   shop/*         2 of 3     in 1m    x\\n         -",
        "c   shop/a         0 of 1     revoked              -",
    ]
    operators = [
        pb.OperatorInfo(name="bert", role="admin", granted_by="root-local", revoked=5, revoked_by="operator/anna"),
        pb.OperatorInfo(name="anna", role="editor", namespaces=["shop", "stock"], granted_by="root-local"),
    ]
    assert lines(operator_table(operators)) == [
        "NAME  ROLE     NAMESPACES   BY",
        "anna  editor   shop, stock  root-local",
        "bert  revoked  all          operator/anna",
    ]
    broken = HostAuthority(
        name="corp", x509_authorities=(b"x",), rules=(HostRule(match="any", selector="a/*"),), changed=1, changed_by="x"
    )
    assert lines(attestor_table([broken], 0)) == [
        "AUTHORITY  CERTIFICATE  MAY BE  CA  EXPIRES",
        "corp       any          a/*     -   -",
    ]
