"""The Workload API as a gRPC client of the same user meets it."""

from __future__ import annotations

from pathlib import Path

from dataplane.workload_api import workload_pb2 as pb
from tests.dataplane.workload_api.stage import running


async def test_smoke(tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        with stage.stream("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse) as following:
            message = await following()
            print(message)
        print(await stage.call("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"]), pb.JWTSVIDResponse))
