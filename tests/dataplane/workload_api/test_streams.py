"""Open streams: what is sent when, and that each message is all that is valid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from dataplane.workload_api import workload_pb2 as pb
from dataplane.workload_api.api import SVID_FILE
from tests.dataplane.workload_api.asking import OWN, STREAMS, owner, raw_client
from tests.dataplane.workload_api.stage import ORDERS_ID, Ca, Clock, running
from tests.support.net import eventually
from trio_grpc import StatusCode


@pytest.mark.spiffe(18)
async def test_a_rotation_is_streamed_to_all_open_streams(tmp_path: Path) -> None:
    """New root prepared, active, the old one removed: each message is all that is valid then."""
    async with running(tmp_path) as stage, raw_client(stage) as client:
        await stage.served()
        svids, bundles, keys = [
            await client.begin(f"/SpiffeWorkloadAPI/{method}", request.SerializeToString())
            for method, request, _ in STREAMS
        ]
        first = await client.message(svids, pb.X509SVIDResponse)
        old = stage.ca.bundle
        assert (await client.message(bundles, pb.X509BundlesResponse)).bundles[OWN] == first.svids[0].bundle
        assert len(json.loads((await client.message(keys, pb.JWTBundlesResponse)).bundles[OWN])["keys"]) == 1

        await stage.ca.prepare()
        stage.tell()
        second = await client.message(svids, pb.X509SVIDResponse, 2)
        both = stage.ca.bundle
        assert second.svids[0].x509_svid == first.svids[0].x509_svid
        assert second.svids[0].bundle == b"".join(both.x509_authorities) != first.svids[0].bundle
        assert (await client.message(bundles, pb.X509BundlesResponse, 2)).bundles[OWN] == second.svids[0].bundle
        assert len(json.loads((await client.message(keys, pb.JWTBundlesResponse, 2)).bundles[OWN])["keys"]) == 2

        stage.ca.activate()
        stage.tell()
        third = await client.message(svids, pb.X509SVIDResponse, 3)
        assert third.svids[0].x509_svid != first.svids[0].x509_svid
        assert third.svids[0].x509_svid_key != first.svids[0].x509_svid_key
        assert third.svids[0].bundle == second.svids[0].bundle

        stage.ca.remove()
        stage.tell()
        fourth = await client.message(svids, pb.X509SVIDResponse, 4)
        new = stage.ca.bundle
        assert not set(new.x509_authorities) & set(old.x509_authorities)
        assert fourth.svids[0].bundle == b"".join(new.x509_authorities)
        assert owner(fourth.svids[0], fourth.svids[0].bundle, stage.clock()) == str(ORDERS_ID)
        assert (await client.message(bundles, pb.X509BundlesResponse, 3)).bundles[OWN] == fourth.svids[0].bundle
        (element,) = json.loads((await client.message(keys, pb.JWTBundlesResponse, 3)).bundles[OWN])["keys"]
        assert element["kid"] == new.jwt_authorities[0].kid
        for answer in (svids, bundles, keys):
            assert answer.code is None


@pytest.mark.spiffe(18)
async def test_a_trust_domain_that_is_not_federated_any_more_is_absent(tmp_path: Path) -> None:
    async with running(tmp_path) as stage, raw_client(stage) as client:
        await stage.served()
        svids, bundles, keys = [
            await client.begin(f"/SpiffeWorkloadAPI/{method}", request.SerializeToString())
            for method, request, _ in STREAMS
        ]
        await client.message(svids, pb.X509SVIDResponse)
        await client.message(bundles, pb.X509BundlesResponse)
        await client.message(keys, pb.JWTBundlesResponse)
        stage.ca.federated = ((await Ca.make(stage.clock, seed=9)).bundle_as("other.example"),)
        stage.tell()
        assert "spiffe://other.example" in (await client.message(svids, pb.X509SVIDResponse, 2)).federated_bundles
        assert len((await client.message(bundles, pb.X509BundlesResponse, 2)).bundles) == 2
        assert len((await client.message(keys, pb.JWTBundlesResponse, 2)).bundles) == 2
        stage.ca.federated = ()
        stage.tell()
        last = await client.message(svids, pb.X509SVIDResponse, 3)
        assert (len(last.federated_bundles), len(last.svids)) == (0, 1)
        assert list((await client.message(bundles, pb.X509BundlesResponse, 3)).bundles) == [OWN]
        assert list((await client.message(keys, pb.JWTBundlesResponse, 3)).bundles) == [OWN]


async def test_nothing_is_sent_when_nothing_that_is_said_has_changed(tmp_path: Path) -> None:
    async with running(tmp_path) as stage, raw_client(stage) as client:
        await stage.served()
        bundles = await client.begin("/SpiffeWorkloadAPI/FetchX509Bundles")
        await client.message(bundles, pb.X509BundlesResponse)
        stage.ca.sequence += 1
        stage.tell()
        token = pb.JWTSVIDRequest(audience=["a"]).SerializeToString()
        await client.ended(await client.begin("/SpiffeWorkloadAPI/FetchJWTSVID", token))  # a round trip
        assert len(bundles.messages(pb.X509BundlesResponse)) == 1


@pytest.mark.spiffe(18)
async def test_a_stream_ends_when_the_svid_does_and_goes_on_when_there_is_one_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as stage, raw_client(stage) as client:
        await stage.served()
        answer = await client.begin("/SpiffeWorkloadAPI/FetchX509SVID")
        await client.message(answer, pb.X509SVIDResponse)
        stage.ca.away = True
        stage.clock.offset = 3601
        await stage.other_trust()  # the keeper looks at its clock
        await client.ended(answer)
        assert answer.code is StatusCode.UNAVAILABLE
        assert len(answer.messages(pb.X509SVIDResponse)) == 1
        await eventually("the alarm", lambda: _says(caplog, "ALARM: the app's SVID has expired"))
        stage.ca.away = False
        await stage.served()
        again = await client.begin("/SpiffeWorkloadAPI/FetchX509SVID")
        fresh = await client.message(again, pb.X509SVIDResponse)
        assert owner(fresh.svids[0], fresh.svids[0].bundle, stage.clock()) == str(ORDERS_ID)


async def test_the_svid_survives_a_restart_while_no_replica_answers(tmp_path: Path) -> None:
    clock = Clock()
    ca = await Ca.make(clock)
    async with running(tmp_path, ca=ca, clock=clock) as stage:
        await stage.served()
        before = await stage.call("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse)
        kept = tmp_path / SVID_FILE
        await eventually("the SVID is kept", trio.Path(kept).exists)
        assert before.svids[0].x509_svid_key in kept.read_bytes()
        assert kept.stat().st_mode & 0o777 == 0o600
    ca.away = True
    async with running(tmp_path, ca=ca, clock=clock) as stage:
        await stage.served()
        assert await stage.call("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse) == before


async def _says(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text
