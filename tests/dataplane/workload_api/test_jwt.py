"""JWT-SVIDs: given to whom they are of, for an audience; validated by the keys of their own trust domain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataplane.workload_api import workload_pb2 as pb
from schemas.names import SpiffeId
from spiffe.bundle import jwt_keys
from spiffe.jwt import decode_bytes, verify
from tests.dataplane.workload_api.asking import OWN, code_of
from tests.dataplane.workload_api.stage import ORDERS_ID, Ca, running
from trio_grpc import RpcError, StatusCode


@pytest.mark.spiffe(20)
async def test_a_jwt_svid(tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        for spiffe_id in ("", str(ORDERS_ID), str(ORDERS_ID).replace("spiffe://m", "SPIFFE://M")):
            request = pb.JWTSVIDRequest(audience=["a", "b"], spiffe_id=spiffe_id)
            (svid,) = (await stage.call("FetchJWTSVID", request, pb.JWTSVIDResponse)).svids
            assert svid.spiffe_id == str(ORDERS_ID)
            header = json.loads(decode_bytes(svid.svid.split(".")[0]))
            assert set(header) <= {"alg", "kid", "typ"}
            for audience in ("a", "b"):
                validated = await stage.call(
                    "ValidateJWTSVID",
                    pb.ValidateJWTSVIDRequest(audience=audience, svid=svid.svid),
                    pb.ValidateJWTSVIDResponse,
                )
                assert validated.spiffe_id == str(ORDERS_ID)
                assert validated.claims["sub"] == str(ORDERS_ID)
                assert list(validated.claims["aud"]) == ["a", "b"]  # type: ignore[arg-type]  # a ListValue


@pytest.mark.spiffe(20)
@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.JWTSVIDRequest(), StatusCode.INVALID_ARGUMENT),
        (pb.JWTSVIDRequest(spiffe_id=str(ORDERS_ID)), StatusCode.INVALID_ARGUMENT),
        (pb.JWTSVIDRequest(audience=[""]), StatusCode.INVALID_ARGUMENT),
        (pb.JWTSVIDRequest(audience=["a", ""]), StatusCode.INVALID_ARGUMENT),
        (pb.JWTSVIDRequest(audience=["a"], spiffe_id="spiffe://"), StatusCode.INVALID_ARGUMENT),
        (pb.JWTSVIDRequest(audience=["a"], spiffe_id=f"{ORDERS_ID}\n"), StatusCode.INVALID_ARGUMENT),
        (pb.JWTSVIDRequest(audience=["a"], spiffe_id=f"{ORDERS_ID}2"), StatusCode.PERMISSION_DENIED),
        (pb.JWTSVIDRequest(audience=["a"], spiffe_id=f"{OWN}/control-plane"), StatusCode.PERMISSION_DENIED),
        (pb.JWTSVIDRequest(audience=["a"], spiffe_id=OWN), StatusCode.PERMISSION_DENIED),
    ],
)
async def test_no_token_for_others_or_for_nobody(request_: pb.JWTSVIDRequest, code: StatusCode, tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        assert await code_of(stage, "FetchJWTSVID", request_, pb.JWTSVIDResponse) is code
        assert "jwt" not in stage.ca.calls


@pytest.mark.spiffe(11)
async def test_what_is_no_good_token_does_not_validate(tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        wants = pb.JWTSVIDRequest(audience=["a"])
        good = (await stage.call("FetchJWTSVID", wants, pb.JWTSVIDResponse)).svids[0].svid
        stranger, _ = (await Ca.make(stage.clock, seed=9)).keys[0][1].issue(ORDERS_ID, ["a"], stage.clock())
        head, claims, signature = good.split(".")
        bad = {
            "another audience": ("b", good),
            "no audience": ("", good),
            "no token": ("a", ""),
            "no JWS": ("a", "x.y.z"),
            "a changed signature": ("a", f"{head}.{claims}.{'AB'[signature[0] == 'A']}{signature[1:]}"),
            "without a signature": ("a", f"{head}.{claims}."),
            "of a key that nobody trusts": ("a", stranger),
        }

        async def refused(audience: str, token: str) -> StatusCode:
            request = pb.ValidateJWTSVIDRequest(audience=audience, svid=token)
            return await code_of(stage, "ValidateJWTSVID", request, pb.ValidateJWTSVIDResponse)

        assert {name: await refused(*one) for name, one in bad.items()} == dict.fromkeys(
            bad, StatusCode.INVALID_ARGUMENT
        )
        ok = pb.ValidateJWTSVIDRequest(audience="a", svid=good)
        await stage.call("ValidateJWTSVID", ok, pb.ValidateJWTSVIDResponse)
        stage.clock.offset = 301
        assert await refused("a", good) is StatusCode.INVALID_ARGUMENT


@pytest.mark.spiffe(11)
async def test_a_token_of_another_trust_domain_validates_by_that_ones_keys_only(tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        other = await Ca.make(stage.clock, seed=9)
        foreign = SpiffeId("other.example", "/x")
        theirs, _ = other.keys[0][1].issue(foreign, ["a"], stage.clock())
        by_us, _ = stage.ca.keys[0][1].issue(foreign, ["a"], stage.clock())

        async def validate(token: str) -> str:
            request = pb.ValidateJWTSVIDRequest(audience="a", svid=token)
            return (await stage.call("ValidateJWTSVID", request, pb.ValidateJWTSVIDResponse)).spiffe_id

        with pytest.raises(RpcError):
            await validate(theirs)
        stage.ca.federated = (other.bundle_as("other.example"),)
        stage.tell()
        assert await validate(theirs) == str(foreign)
        with pytest.raises(RpcError):
            await validate(by_us)


async def test_a_token_is_given_again_and_outlives_the_replicas_for_a_while(tmp_path: Path) -> None:
    async with running(tmp_path) as stage:

        async def token() -> str:
            request = pb.JWTSVIDRequest(audience=["a"])
            return (await stage.call("FetchJWTSVID", request, pb.JWTSVIDResponse)).svids[0].svid

        first = await token()
        assert await token() == first
        stage.ca.away = True
        stage.clock.offset = 200  # past half of its life
        assert await token() == first
        verify(first, "a", jwt_keys([stage.ca.bundle]), stage.clock())
        stage.clock.offset = 295
        wants = pb.JWTSVIDRequest(audience=["a"])
        assert await code_of(stage, "FetchJWTSVID", wants, pb.JWTSVIDResponse) is StatusCode.UNAVAILABLE
        stage.ca.away = False
        assert await token() != first


async def test_a_token_of_a_key_that_is_not_trusted_any_more_is_not_given_again(tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        wants = pb.JWTSVIDRequest(audience=["a"])
        first = await stage.call("FetchJWTSVID", wants, pb.JWTSVIDResponse)
        await stage.ca.prepare()
        stage.ca.activate()
        stage.ca.remove()
        stage.tell()
        assert await stage.call("FetchJWTSVID", wants, pb.JWTSVIDResponse) != first
