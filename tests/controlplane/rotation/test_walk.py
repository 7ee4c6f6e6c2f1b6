"""Every step of the CA by the command line, one after the other, in one mesh; and what becomes of logins by them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.ca.keystore import read_kek
from tests.controlplane.meshadm.fake_replica import Cli
from tests.controlplane.meshadm.test_access import Desk, login_file
from tests.controlplane.replica import Mesh, Replica, running_replica
from tests.controlplane.rotation.upstream_ca import UpstreamCa
from tests.support.net import eventually

SECONDS = 30.0  # a bound for a busy machine


class Admin:
    """At a desk of its own, logged in."""

    def __init__(self, replica: Replica, home: Path) -> None:
        self.desk = Desk(home, replica)
        self.endpoint = f"127.0.0.1:{replica.serving.api_port}"

    async def ca(self, *args: str, code: int = 0) -> str:
        """What `meshadm ca` says, on both streams; it ends with `code`."""
        result = await self.desk("ca", *args, "-e", self.endpoint)
        said = result.stdout + result.stderr
        assert result.exit_code == code, said
        return said

    async def ids(self, role: str, state: str) -> list[str]:
        socket = Cli([f"unix:{self.desk.replica.config.listen.socket}"])  # which renews no login
        lines = (await socket.ok("ca", "status")).splitlines()
        return [line.split()[0] for line in lines if line.startswith(role) and line.split()[1] == state]

    async def one(self, role: str, state: str) -> str:
        (found,) = await self.ids(role, state)
        return found


async def logged_in(replica: Replica, tmp_path: Path, name: str) -> Admin:
    root = Cli([f"unix:{replica.config.listen.socket}"])
    admin = Admin(replica, tmp_path / name)
    result = await admin.desk.log_in(await login_file(root, tmp_path, name, "--role", "admin"))
    assert result.exit_code == 0, result.stderr
    return admin


async def silent_sidecar(replica: Replica) -> None:
    """Registers, and is not heard of again: it trusts by the first bundle, and its certificate lives for an hour."""
    joined = await replica.join("orders", "shop")
    async with joined.calls() as sidecar:
        lease = (await joined.register(sidecar, "one", ttl=5)).lease_id
        await joined.report(sidecar, "one", lease, trust_sequence=1)


async def nobody_hears_of_it(mesh: Mesh) -> None:
    """Its status is gone, and its replica remembers it."""
    async with mesh.client() as client:

        async def gone() -> bool:
            return not (await client.list(mesh.keyspace.statuses())).kvs

        await eventually("the status of the silent sidecar is gone", gone, SECONDS)
        assert len((await client.list(mesh.keyspace.silent())).kvs) == 1


@pytest.mark.fault(14)
async def test_every_step_by_the_command_line(own_mesh: Mesh, tmp_path: Path) -> None:
    kek = tmp_path / "kek.new"
    kek.write_bytes(os.urandom(32))
    kek.chmod(0o600)
    async with running_replica(own_mesh, tmp_path / "a", next_kek=str(kek)) as replica:
        await silent_sidecar(replica)
        anna, ben = [await logged_in(replica, tmp_path, name) for name in ("anna", "ben")]
        root = Cli([f"unix:{replica.config.listen.socket}"])
        unused = await login_file(root, tmp_path, "cora", "--role", "viewer")

        # The issuing key: one that is given up, one that is used.
        assert "prepared mesh-issuing-" in await anna.ca("prepare", "issuing")
        assert "is prepared already" in await anna.ca("prepare", "issuing", code=4)
        vain = await anna.one("mesh-issuing", "prepared")
        assert f"given up {vain}" in await anna.ca("retire", vain)
        assert f"removed {vain}" in await anna.ca("remove", vain)
        await anna.ca("prepare", "issuing")
        next_key = await anna.one("mesh-issuing", "prepared")
        assert next_key in await anna.ca("activate", next_key)
        assert "is active: only a prepared key can be given up" in await anna.ca("retire", next_key, code=4)

        # The root: somebody fell silent, and is waited for.
        await nobody_hears_of_it(own_mesh)
        assert "started at revision" in await anna.ca("rotate", "--no-wait", "--reason", "test")

        async def waits() -> bool:
            return "shop/orders.one: fell silent trusting by bundle 1, needed is" in await anna.ca("status")

        await eventually("who is silent holds it back", waits, SECONDS)
        assert "at the latest in 1h" in await anna.ca("status")
        assert "is under way" in await ben.ca("rotate", code=4)
        assert "stopped the rotation" in await anna.ca("rotate", "--stop")
        assert "no rotation is under way" in await anna.ca("rotate", "--stop", code=4)
        issuing = await anna.one("mesh-issuing", "prepared")
        old_root = await anna.one("mesh-root", "active")
        closed = await anna.ca("activate", issuing, code=4)
        assert "shop/orders.one: fell silent" in closed
        dora = await logged_in(replica, tmp_path, "dora")
        forced = await anna.ca("activate", issuing, "--force")
        assert "FORCED past shop/orders.one: fell silent" in forced

        # Whose login does not know the new root has to log in again; who steers comes to know it.
        await eventually("replicas serve below the new root", lambda: ended(ben), SECONDS)
        assert "log in with a new login file" in await ben.ca("status", code=6)
        outdated = await anna.desk.log_in(unused)
        assert outdated.exit_code == 6
        assert "this login file knows none of the roots" in outdated.stderr
        assert await anna.one("mesh-root", "active") != old_root
        assert "may still be valid" in await anna.ca("remove", old_root, code=4)
        assert f"removed {old_root}" in await anna.ca("remove", old_root, "--force")
        assert old_root not in (await anna.ca("status")).split("FORCED")[0]
        assert "the root that the login as spiffe://shop.example/operator/dora chains to is gone" in await dora.ca(
            "status", code=5
        )

        # To the end by itself.
        ended_by_force = await anna.ca("rotate", "issuing", "--force", "--timeout", f"{SECONDS:.0f}s")
        assert "the rotation of issuing key is done" in ended_by_force
        assert len(await anna.ids("mesh-issuing", "active")) == 1

        # Below a CA of one's own.
        await anna.ca("csr", "--out", str(tmp_path / "mesh.csr"))
        request = x509.load_pem_x509_csr((tmp_path / "mesh.csr").read_bytes()).public_bytes(Encoding.DER)
        upstream = UpstreamCa()
        chain = [x509.load_der_x509_certificate(one) for one in upstream.sign(request)]
        (tmp_path / "chain.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain))
        installed = await anna.ca("install", "-f", str(tmp_path / "chain.pem"))
        external = await anna.one("mesh-issuing", "prepared")
        assert "installed; activate it with `meshadm ca activate`: " in installed
        assert external in installed
        await anna.ca("activate", external, "--force")
        assert await anna.one("mesh-issuing", "active") == external

        # Another key-encryption key.
        sealed_under = read_kek(kek, {}).id
        assert f"sealed under {sealed_under}: " in await anna.ca("reseal", "--new-kek", str(kek))
        assert sealed_under in await anna.ca("status")


async def ended(admin: Admin) -> bool:
    """Whether the replica is not trusted by its login any more. The command is one that does not renew it."""
    return (await admin.desk("operator", "list", "-e", admin.endpoint)).exit_code == 6
