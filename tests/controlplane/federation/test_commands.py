"""`meshadm federation` and `meshadm bundle` against a real replica; and a real replica's bundle endpoint."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.config import BundleEndpointConfig
from controlplane.federation.fetch import SpiffeServer, fetch
from controlplane.rotation.look import look
from controlplane.store.etcd import Store
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.names import SpiffeId
from schemas.objects.federation import BundleEndpoint
from spiffe.bundle import record
from spiffe.jwks import decode, encode
from tests.controlplane.federation.publisher import publishing
from tests.controlplane.meshadm.fake_replica import Cli
from tests.controlplane.replica import TRUST_DOMAIN, Mesh, Replica, running_replica
from tests.states.build import federates
from tests.support.net import eventually
from tests.support.pki import Authority, pem
from trio_grpc import RpcError

TD = "partner.example"
CA, WEB = Authority.create(), Authority.create("web root")


async def meshadm(replica: Replica, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    result = await Cli([f"unix:{replica.config.listen.socket}"])(*arguments)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
async def publisher_replica(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Replica]:
    """With a bundle endpoint."""
    endpoint = BundleEndpointConfig(listen="127.0.0.1:0", profile="https_spiffe", path="/bundle")
    async with running_replica(mesh, tmp_path, bundle_endpoint=endpoint) as running:
        yield running


@pytest.mark.spiffe(22)
async def test_a_replica_serves_what_meshadm_shows(mesh: Mesh, publisher_replica: Replica) -> None:
    _, shown, _ = await meshadm(publisher_replica, "bundle", "show")
    document = decode(shown.encode(), "shown")
    identity = SpiffeId.of_control_plane(TRUST_DOMAIN)
    url = f"https://127.0.0.1:{publisher_replica.serving.bundle_port}/bundle"
    served = await fetch(url, SpiffeServer(identity, document.x509_authorities))
    assert json.loads(served) == json.loads(shown)
    assert document.jwt_authorities
    _, text, _ = await meshadm(publisher_replica, "bundle", "show", "--form", "pem")
    found = x509.load_pem_x509_certificates(text.encode())
    assert tuple(one.public_bytes(Encoding.DER) for one in found) == document.x509_authorities

    async def published_ahead() -> bool:
        async with mesh.client() as client:
            return (await look(Store(client, mesh.keyspace), 0)).facts.publish_ahead == 3 * 300

    await eventually("a new root is published three hints before its use", published_ahead)


async def test_following_is_seen_and_driven_by_commands(replica: Replica) -> None:
    async with publishing(WEB.issue(ip=["127.0.0.1"])) as publisher, replica.admin() as admin:
        publisher.serve(encode(record(TD, [CA.certificate], 7)))
        endpoint = BundleEndpoint(url=publisher.url, profile="https_web", web_ca=pem(WEB.certificate).decode())
        value = federates("partner", TD, endpoint)
        await admin.apply(pb.Change(put=codec.encode(value)))
        try:
            code, said, why = await meshadm(replica, "federation", "fetch", TD)
            assert (code, said) == (0, f"bundle 7 of {TD} is in force\n"), why
            code, said, _ = await meshadm(replica, "federation", "status", "-o", "json")
            [domain] = [one for one in json.loads(said)["domains"] if one["trustDomain"] == TD]
            assert (code, domain["sequence"], domain["objects"], domain["url"]) == (0, 7, ["partner"], publisher.url)
            code, said, _ = await meshadm(replica, "bundle", "show", "--trust-domain", TD)
            assert decode(said.encode(), "theirs").x509_authorities == (CA.certificate.public_bytes(Encoding.DER),)

            publisher.serve(encode(record(TD, [], 6)))
            code, _, why = await meshadm(replica, "federation", "fetch", TD)
            assert (code, "older than what is known" in why) == (5, True)
            code, said, _ = await meshadm(replica, "federation", "status")
            assert (code, "older than what is known" in said) == (5, True)
        finally:
            ref = value.ref
            key = pb.ObjectKey(kind=ref.kind, namespace=ref.namespace, name=ref.name)
            await admin.apply(pb.Change(delete=key))

        async def forgotten() -> bool:
            try:
                await admin.call("Federation/Bundle", pb.BundleRequest(trust_domain=TD), pb.BundleReply)
            except RpcError:
                return True
            return False

        await eventually("its bundle is gone", forgotten)
        code, _, why = await meshadm(replica, "federation", "fetch", TD)
        assert (code, "no TrustBundle object" in why) == (3, True)


async def test_an_editor_can_not_have_anybody_trusted(replica: Replica) -> None:
    """By a TrustBundle in a namespace of its own."""
    value = federates("partner", TD, bundle='{"keys": []}')
    metadata = msgspec.structs.replace(value.metadata, namespace="shop")
    async with replica.admin() as admin:
        with pytest.raises(RpcError, match="is not of a namespace"):
            await admin.apply(pb.Change(put=codec.encode(msgspec.structs.replace(value, metadata=metadata))))
