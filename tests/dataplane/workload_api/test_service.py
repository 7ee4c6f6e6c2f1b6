"""What each RPC answers, to a gRPC client of the same user."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509

from dataplane.config import WorkloadApiCaller as Caller
from dataplane.workload_api import workload_pb2 as pb
from tests.dataplane.workload_api.asking import ALL, OWN, STREAMS, UNARY, certificates, code_of, owner, raw_client
from tests.dataplane.workload_api.stage import HEADER, ORDERS_ID, Ca, Clock, running
from trio_grpc import StatusCode

# -- one message


@pytest.mark.spiffe(15)
@pytest.mark.spiffe(19)
async def test_an_x509_svid(tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        await stage.served()
        message = await stage.call("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse)
        (svid,) = message.svids
        assert svid.spiffe_id == str(ORDERS_ID)
        assert all((svid.x509_svid, svid.x509_svid_key, svid.bundle))
        assert len(svid.hint.encode()) <= 1024
        assert owner(svid, svid.bundle, stage.clock()) == str(ORDERS_ID)
        chain = certificates(svid.x509_svid)
        assert not chain[0].extensions.get_extension_for_class(x509.BasicConstraints).value.ca  # the leaf is first
        assert len(chain) == 2
        assert not message.federated_bundles


@pytest.mark.spiffe(19)
async def test_every_caller_gets_the_one_svid_and_the_sidecars_key_is_another(tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        await stage.served()
        first, second = [await stage.call("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse) for _ in "12"]
        assert first == second
        assert stage.ca.calls == ["x509"]  # by a request of its own, with a key that is made for the app


@pytest.mark.spiffe(20)
async def test_bundles_include_the_own_trust_domain_and_each_other_apart(tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        other = await Ca.make(stage.clock, seed=9)
        stage.ca.federated = (other.bundle_as("other.example"),)
        stage.tell()
        await stage.served()
        found = await stage.call("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse)
        assert dict(found.bundles) == {
            OWN: b"".join(stage.ca.bundle.x509_authorities),
            "spiffe://other.example": b"".join(other.bundle.x509_authorities),
        }
        svids = await stage.call("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse)
        assert set(svids.federated_bundles) == {"spiffe://other.example"}
        assert svids.svids[0].bundle == b"".join(stage.ca.bundle.x509_authorities)
        keys = await stage.call("FetchJWTBundles", pb.JWTBundlesRequest(), pb.JWTBundlesResponse)
        assert set(keys.bundles) == {OWN, "spiffe://other.example"}
        for text in keys.bundles.values():
            elements = json.loads(text)["keys"]
            assert elements
            assert {one["use"] for one in elements} == {"jwt-svid"}
            assert all(one["kid"] for one in elements)
        assert keys.bundles[OWN] != keys.bundles["spiffe://other.example"]


@pytest.mark.spiffe(20)
async def test_a_trust_domain_without_jwt_keys_is_said_to_have_none(tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        stage.ca.jwt = False
        stage.tell()
        keys = await stage.call("FetchJWTBundles", pb.JWTBundlesRequest(), pb.JWTBundlesResponse)
        assert {name: json.loads(text) for name, text in keys.bundles.items()} == {OWN: {"keys": []}}


async def test_a_bundle_that_can_not_be_read_leaves_the_last_good_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as stage:
        other = await Ca.make(stage.clock, seed=9)
        stage.ca.federated = (other.bundle_as("other.example"),)
        stage.tell()
        before = await stage.call("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse)
        stage.ca.federated = (other.bundle_as("other.example", x509_authorities=(b"no certificate",)),)
        stage.tell()
        after = await stage.call("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse)
        assert after == before
        assert "can't be used" in caplog.text


# -- header and codes


@pytest.mark.fault(18)
@pytest.mark.spiffe(17)
@pytest.mark.parametrize(("method", "request_", "reply"), ALL, ids=[one[0] for one in ALL])
async def test_the_security_header_is_asked_for(method: str, request_: Any, reply: Any, tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        await stage.served()
        for metadata in ([], [("workload.spiffe.io", "True")], [("workload.spiffe.io", "")], [*HEADER, *HEADER]):
            code = await code_of(stage, method, request_, reply, metadata=metadata)
            assert code is StatusCode.INVALID_ARGUMENT
        assert stage.ca.calls == ["x509"]  # the SVID of the start


@pytest.mark.spiffe(17)
@pytest.mark.parametrize(("method", "request_", "reply"), ALL, ids=[one[0] for one in ALL])
async def test_who_has_no_identity_is_denied_all(method: str, request_: Any, reply: Any, tmp_path: Path) -> None:
    async with running(tmp_path, callers=[Caller(uid=os.getuid() + 1)]) as stage:
        await stage.served()
        assert await code_of(stage, method, request_, reply) is StatusCode.PERMISSION_DENIED
        assert stage.ca.calls == ["x509"]


@pytest.mark.spiffe(15)
@pytest.mark.parametrize(
    "path",
    [
        "/SpiffeWorkloadAPI/FetchWITSVID",
        "/SpiffeWorkloadAPI/fetchx509svid",
        "/SpiffeWorkloadAPI/",
        "/spiffe.workload.SpiffeWorkloadAPI/FetchX509SVID",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
        "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        "//SpiffeWorkloadAPI/FetchX509SVID",
        "/SpiffeWorkloadAPI/FetchX509SVID/",
        "/",
    ],
)
async def test_what_the_standard_does_not_have_is_unimplemented(path: str, tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        await stage.served()
        code = await code_of(stage, "", pb.X509SVIDRequest(), pb.X509SVIDResponse, path=path)
        assert code is StatusCode.UNIMPLEMENTED


@pytest.mark.spiffe(15)
def test_the_service_is_that_of_the_standard() -> None:
    service = pb.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"]
    assert list(pb.DESCRIPTOR.services_by_name) == ["SpiffeWorkloadAPI"]
    assert {name: method.server_streaming for name, method in service.methods_by_name.items()} == {
        "FetchX509SVID": True,
        "FetchX509Bundles": True,
        "FetchJWTSVID": False,
        "FetchJWTBundles": True,
        "ValidateJWTSVID": False,
    }
    fields = {
        message.name: {field.name: field.number for field in message.fields}
        for message in pb.DESCRIPTOR.message_types_by_name.values()
    }
    assert fields == {
        "X509SVIDRequest": {},
        "X509SVIDResponse": {"svids": 1, "crl": 2, "federated_bundles": 3},
        "X509SVID": {"spiffe_id": 1, "x509_svid": 2, "x509_svid_key": 3, "bundle": 4, "hint": 5},
        "X509BundlesRequest": {},
        "X509BundlesResponse": {"crl": 1, "bundles": 2},
        "JWTSVIDRequest": {"audience": 1, "spiffe_id": 2},
        "JWTSVIDResponse": {"svids": 1},
        "JWTSVID": {"spiffe_id": 1, "svid": 2, "hint": 3},
        "JWTBundlesRequest": {},
        "JWTBundlesResponse": {"bundles": 1},
        "ValidateJWTSVIDRequest": {"audience": 1, "svid": 2},
        "ValidateJWTSVIDResponse": {"spiffe_id": 1, "claims": 2},
    }


@pytest.mark.spiffe(17)
async def test_unavailable_until_a_replica_has_answered(tmp_path: Path) -> None:
    clock = Clock()
    ca = await Ca.make(clock)
    ca.away = True
    async with running(tmp_path, ca=ca, clock=clock) as stage:
        for method, request, reply in (STREAMS[0], UNARY[0]):
            assert await code_of(stage, method, request, reply) is StatusCode.UNAVAILABLE
        ca.away = False
        await stage.served()  # by itself, the first retry is after half a second
        message = await stage.call("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse)
        assert message.svids[0].spiffe_id == str(ORDERS_ID)


async def test_a_socket_that_can_not_be_had_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplane.workload_api.api.BIND_AGAIN_SECONDS", 0.05)
    path = tmp_path / "run" / "w.sock"
    async with trio.open_nursery() as nursery:

        async def make() -> None:
            while "ALARM" not in caplog.text:  # noqa: ASYNC110  (a log tells nobody)
                await trio.sleep(0.01)
            path.parent.mkdir()

        nursery.start_soon(make)
        async with running(tmp_path, socket=path) as stage:
            await stage.served()
            await stage.call("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse)


async def test_the_socket_of_a_killed_agent_is_taken_over_and_removed_at_the_end(tmp_path: Path) -> None:
    with trio.socket.socket(trio.socket.AF_UNIX) as dead:
        await dead.bind(os.fspath(tmp_path / "w.sock"))
    async with running(tmp_path) as stage:
        await stage.served()
        await stage.call("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse)
        assert stage.socket.stat().st_mode & 0o777 == 0o666
    assert not stage.socket.exists()


# -- logs


async def test_who_is_given_an_identity_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mesh.workload_api")
    async with running(tmp_path) as stage:
        await stage.served()
        caplog.clear()
        svids = await stage.call("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse)
        tokens = await stage.call("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"]), pb.JWTSVIDResponse)
        for _ in range(50):
            await stage.call("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse)
        lines = [line for line in caplog.messages if line.startswith("gave an identity")]
        who = f"of {ORDERS_ID} to pid {os.getpid()} (uid {os.getuid()}"
        assert lines[0].startswith(f"gave an identity: the X.509-SVID {who}")
        assert lines[1].startswith(f"gave an identity: a JWT-SVID for 'a' {who}")
        assert len(lines) == 10
        assert tokens.svids[0].svid not in caplog.text
        assert svids.svids[0].x509_svid_key.hex() not in caplog.text


async def test_refusals_are_logged_and_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "mesh.workload_api")
    async with running(tmp_path, callers=[]) as stage, raw_client(stage) as client:
        await stage.served()
        for _ in range(50):
            await client.ended(await client.begin("/SpiffeWorkloadAPI/FetchX509SVID"))
        lines = [line for line in caplog.messages if "refused" in line]
        assert len(lines) == 10
        assert f"uid {os.getuid()}" in lines[0]
        stage.clock.offset = 61
        await client.ended(await client.begin("/SpiffeWorkloadAPI/FetchX509SVID"))
        assert "refused a call: 40 more" in caplog.text
