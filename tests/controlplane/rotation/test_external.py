"""An external CA above the mesh, and another key-encryption key, through the API of a real replica."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from controlplane.ca.keystore import read_kek
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.records import SealedKey, TrustBundle
from spiffe.bundle import by_trust_domain
from spiffe.x509 import parse_chain, verify_chain
from tests.controlplane.replica import Caller, Mesh, Replica, new_id, running_replica
from tests.controlplane.rotation.test_with_replicas import rotate, status, step
from tests.spiffe.certificates import new_key
from tests.support.net import eventually
from trio_grpc import RpcError, StatusCode


class UpstreamCa:
    def __init__(self) -> None:
        self.key = new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream root")])
        self.root = self._signed(name, name, self.key.public_key(), [(x509.BasicConstraints(True, None), True)])

    def sign(self, csr_der: bytes) -> list[bytes]:
        """Issuing certificate and root, with the extensions that the request asks for."""
        csr = x509.load_der_x509_csr(csr_der)
        extensions = [(one.value, one.critical) for one in csr.extensions]
        certificate = self._signed(csr.subject, self.root.subject, csr.public_key(), extensions)
        return [one.public_bytes(Encoding.DER) for one in (certificate, self.root)]

    def _signed(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        public_key: object,
        extensions: list[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        now = datetime.datetime.fromtimestamp(int(time.time()), datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)  # type: ignore[arg-type]  # of a request
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=30))
        )
        kinds = {type(value) for value, _ in extensions}
        if x509.KeyUsage not in kinds:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        for value, critical in extensions:
            builder = builder.add_extension(value, critical)
        return builder.sign(self.key, hashes.SHA256())


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
            return asked.key in chain[1].subject.rfc4514_string()

        await eventually("leaves below the upstream root", issues)
        with pytest.raises(RpcError) as by_itself:
            await rotate(admin, "issuing")
        assert "external CA" in by_itself.value.details
        keys = {key.id: key for key in (await status(admin)).keys}
        assert keys[asked.key].external


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
