"""An external CA above the mesh, and another key-encryption key, through the API of a real replica."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.ca.keystore import read_kek
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.records import SealedKey, TrustBundle
from spiffe.bundle import by_trust_domain
from spiffe.x509 import parse_chain, verify_chain
from tests.controlplane.replica import Caller, Mesh, Replica, new_id, running_replica
from tests.controlplane.rotation.test_with_replicas import rotate, status, step
from tests.controlplane.rotation.upstream_ca import UpstreamCa
from tests.support.net import eventually
from trio_grpc import RpcError, StatusCode


async def install(admin: Caller, chain: list[bytes]) -> pb.CaStepReply:
    request = pb.InstallRequest(request_id=new_id(), chain=chain)
    return await admin.call("Authority/Install", request, pb.CaStepReply)


async def test_an_upstream_ca_signs_the_issuing_key(own_replica: Replica) -> None:
    upstream = UpstreamCa()
    async with own_replica.admin() as admin:
        asked = await admin.call("Authority/Request", pb.CaStepRequest(request_id=new_id()), pb.CaRequestReply)
        again = await admin.call("Authority/Request", pb.CaStepRequest(request_id=new_id()), pb.CaRequestReply)
        assert again.key == asked.key, "one that waits is not made twice"
        with pytest.raises(RpcError) as early:
            await step(admin, "Activate", key=asked.key)
        assert "no certificate yet" in early.value.details
        with pytest.raises(RpcError) as foreign:
            await install(admin, UpstreamCa().sign(asked.csr)[:1] + upstream.sign(asked.csr)[1:])
        assert foreign.value.code is StatusCode.INVALID_ARGUMENT
        installed = await install(admin, upstream.sign(asked.csr))
        assert asked.key in installed.keys
        await step(admin, "Activate", key=asked.key)

        async def issues() -> bool:
            reply = (await own_replica.join("orders", "shop")).reply
            bundle = codec.decode(reply.trust_bundle, TrustBundle, "bundle")
            chain = parse_chain(reply.chain)
            identity = verify_chain(chain, by_trust_domain([bundle]), time.time())
            assert identity.path == "/ns/shop/svc/orders"
            if asked.key in chain[1].subject.rfc4514_string():
                assert chain[2:] == (upstream.intermediate,), "all but the root"
            return asked.key in chain[1].subject.rfc4514_string()

        await eventually("leaves below the upstream root", issues)
        with pytest.raises(RpcError) as by_itself:
            await rotate(admin, "issuing")
        assert "external CA" in by_itself.value.details
        keys = {key.id: key for key in (await status(admin)).keys}
        assert keys[asked.key].external


# Leaves the signing to the test: hands on the request, and prints the chain once it is there.
SIGNER = """#!/bin/sh
cd '{directory}' && cat > request.tmp && mv request.tmp request.pem
until [ -f chain.pem ]; do sleep 0.05; done
cat chain.pem
"""


async def test_a_replica_has_the_issuing_key_signed_by_the_program_of_its_configuration(
    own_mesh: Mesh, tmp_path: Path
) -> None:
    """The first time at once: the mesh begins below a root of its own."""
    program = tmp_path / "sign"
    program.write_text(SIGNER.format(directory=tmp_path))
    program.chmod(0o755)
    with (own_mesh.directory / "controlplane.yaml").open("a") as settings:
        settings.write(f"\nupstreamSigner: {{command: [{program}], timeoutSeconds: 30}}\n")
    upstream = UpstreamCa()
    async with running_replica(own_mesh, tmp_path / "a") as replica, replica.admin() as admin:

        async def requested() -> bool:
            return (tmp_path / "request.pem").exists()

        await eventually("the program has a request", requested)
        request = x509.load_pem_x509_csr((tmp_path / "request.pem").read_bytes())
        chain = [x509.load_der_x509_certificate(one) for one in upstream.sign(request.public_bytes(Encoding.DER))]
        (tmp_path / "chain.tmp").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain))
        (tmp_path / "chain.tmp").rename(tmp_path / "chain.pem")

        async def issues() -> bool:
            reply = (await replica.join("orders", "shop")).reply
            return parse_chain(reply.chain)[1:] == (chain[0], upstream.intermediate)

        await eventually("leaves below the upstream root", issues, 20)
        with pytest.raises(RpcError) as theirs:
            await rotate(admin, "root")
        assert "is under way" in theirs.value.details
        await step(admin, "StopRotation")
        with pytest.raises(RpcError) as theirs:
            await rotate(admin, "root")
        assert "the root is the upstream signer's" in theirs.value.details


async def test_another_key_encryption_key(own_mesh: Mesh, tmp_path: Path) -> None:
    old, fresh = own_mesh.directory / "kek", own_mesh.directory / "kek.new"
    fresh.write_bytes(os.urandom(32))
    fresh.chmod(0o600)
    fresh_id = read_kek(fresh, {}).id

    async def reseal(admin: Caller) -> pb.CaStepReply:
        request = pb.ResealRequest(request_id=new_id(), kek_id=fresh_id)
        return await admin.call("Authority/Reseal", request, pb.CaStepReply)

    async with running_replica(own_mesh, tmp_path / "a") as behind, behind.admin() as admin:
        with pytest.raises(RpcError) as unknown:
            await reseal(admin)
        assert "nextKek" in unknown.value.details
        settings = own_mesh.config

        def with_next(directory: Path) -> object:
            return msgspec.structs.replace(settings(directory), next_kek=str(fresh))

        own_mesh.config = with_next  # type: ignore[method-assign, assignment]  # of this test's mesh only
        async with running_replica(own_mesh, tmp_path / "b") as ready, ready.admin() as other:
            with pytest.raises(RpcError) as behind_holds:
                await reseal(other)
            assert "does not have key-encryption key" in behind_holds.value.details
    async with running_replica(own_mesh, tmp_path / "c") as ready, ready.admin() as admin:
        done = await reseal(admin)
        assert len(done.keys) == 4
        await ready.join("orders", "shop")
    async with own_mesh.client() as client:
        records = [codec.decode(kv.value, SealedKey, "key") for kv in (await client.list(own_mesh.keyspace.ca())).kvs]
    assert {record.kek_id for record in records} == {fresh_id}
    own_mesh.config = settings  # type: ignore[method-assign]
    fresh.replace(old)
    async with running_replica(own_mesh, tmp_path / "d") as replaced:
        await replaced.join("web", "shop")
