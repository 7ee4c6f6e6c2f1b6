"""The list by which a real etcd refuses new connections of a revoked sidecar, and of nobody else."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

import msgspec
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import trio_etcd
from controlplane.bootstrap.run import init
from controlplane.ca.etcd_revocation import MAX_LIFE_SECONDS, client_serial, revoked_serials
from deploy.etcd import EtcdBinary
from schemas.api import mesh_pb2 as pb
from schemas.keys import Keyspace
from schemas.names import ServiceRef
from schemas.records import Revocation
from tests.controlplane.api.test_revocation import restore, revoke
from tests.controlplane.replica import Mesh, Replica, key_pem, new_csr, running_replica
from tests.support.etcd_server import EtcdServer
from tests.support.net import eventually
from tests.support.pki import TlsPaths
from trio_grpc import TLS

SECONDS = 15.0
AT = 1_700_000_000
ORDERS = ServiceRef("shop", "orders")


async def credential(replica: Replica, service: str) -> TLS:
    """For etcd, as a sidecar gets it."""
    token = await replica.token(service, "shop")
    etcd_key, etcd_csr = new_csr()
    async with replica.stranger(token.trust_bundle) as stranger:
        request = pb.JoinRequest(token=token.token, csr=new_csr()[1], etcd_csr=etcd_csr)
        reply = await stranger.call("Identity/Join", request, pb.IdentityReply)
    leaf = x509.load_der_x509_certificate(reply.etcd_chain[0])
    return TLS(reply.etcd_ca, leaf.public_bytes(Encoding.PEM), key_pem(etcd_key))


async def write_crl(replica: Replica, out: Path | None) -> str:
    """`meshadm identity crl`: what it says, or what it writes to standard output, bytes as Latin-1."""
    where = ("--out", str(out)) if out is not None else ()
    done = await trio.run_process(
        [sys.executable, "-m", "controlplane.meshadm", "identity", "crl", *where],
        capture_stdout=True,
        capture_stderr=True,
        env={**os.environ, "MESHADM_ENDPOINT": f"unix:{replica.config.listen.socket}"},
    )
    return (done.stderr if out is not None else done.stdout).decode("latin-1")


async def gets_in(mesh: Mesh, tls: TLS) -> bool:
    """By a new connection."""
    async with trio_etcd.open_etcd(mesh.etcd.endpoint, tls=tls) as client:
        try:
            return await client.get(mesh.keyspace.epoch(), timeout=2) is not None
        except (trio_etcd.CredentialsRefused, trio_etcd.Unavailable, trio_etcd.DeadlineExceeded):
            return False


@pytest.mark.fault(24)
async def test_a_revoked_sidecar_makes_no_new_connection_to_etcd(etcd_binary: EtcdBinary, tmp_path: Path) -> None:
    files = tmp_path / "etcd"
    crl = files / "clients.crl"
    tls = TlsPaths(files / "server.crt", files / "server.key", files / "ca.crt")
    server = EtcdServer(etcd_binary, tls=tls, extra=("--client-crl-file", str(crl)))
    mesh = Mesh(server, tmp_path, Keyspace())
    try:
        await init(mesh._options(files_only=True), lambda _: None)
        # etcd takes no connection while the file is missing, and replicas come after etcd.
        first = x509.load_der_x509_crl(crl.read_bytes())
        assert len(first) == 0
        ca = x509.load_pem_x509_certificate(tls.ca.read_bytes())
        await mesh.etcd.start()
        await mesh.initialise()
        async with running_replica(mesh, tmp_path) as remote:  # on another host than etcd
            mallory = await credential(remote, "mallory")
            assert await gets_in(mesh, mallory)
            await revoke(remote, "shop", "mallory")
            said = await write_crl(remote, crl)
            assert "1 identity is revoked" in said
            assert stat.S_IMODE(os.stat(crl).st_mode) == 0o644
            assert not await gets_in(mesh, mallory)
        settings = msgspec.structs.replace(mesh.config(tmp_path).etcd, client_crl=str(crl))
        async with running_replica(mesh, tmp_path, etcd=settings) as replica:
            orders, web = await credential(replica, "orders"), await credential(replica, "web")
            assert await gets_in(mesh, orders)
            assert await gets_in(mesh, web)
            await revoke(replica, "shop", "orders")

            async def is_shut_out() -> bool:
                return not await gets_in(mesh, orders)

            await eventually("orders gets no connection", is_shut_out, SECONDS)
            assert not await gets_in(mesh, mallory)
            out = await write_crl(replica, None)
            assert x509.load_der_x509_crl(out.encode("latin-1")).is_signature_valid(ca.public_key())  # type: ignore[arg-type]  # an elliptic-curve key
            assert await gets_in(mesh, web)
            await restore(replica, "shop", "orders")
            await eventually("orders gets one again", lambda: gets_in(mesh, orders), SECONDS)
        listed = x509.load_der_x509_crl(crl.read_bytes())
        assert listed.is_signature_valid(ca.public_key())  # type: ignore[arg-type]  # an elliptic-curve key
        assert listed.issuer == ca.subject
        assert listed.next_update_utc is not None
        assert listed.next_update_utc.timestamp() > time.time()
    finally:
        mesh.close()


def test_every_certificate_that_may_still_be_valid_is_listed_and_none_for_ever() -> None:
    record = Revocation(namespace="shop", service="orders", serial=AT, revoked=True, at=AT, by="anna")
    for made in (AT - MAX_LIFE_SECONDS + 1, AT - 1800, AT, AT + 3600):  # the last by a replica that was cut off
        for now in (max(AT, made), made + MAX_LIFE_SECONDS):
            assert client_serial(ORDERS, made) in revoked_serials([record], now)
    for other in (ServiceRef("shop", "order"), ServiceRef("sho", "porders"), ServiceRef("orders", "shop")):
        assert client_serial(other, AT) not in revoked_serials([record], AT)
    assert len(revoked_serials([record], AT)) < 200
    assert not revoked_serials([record], AT + 2 * MAX_LIFE_SECONDS + 3 * 3600)
    assert not revoked_serials([msgspec.structs.replace(record, revoked=False)], AT)
