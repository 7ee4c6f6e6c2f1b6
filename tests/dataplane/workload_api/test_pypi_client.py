"""The client library that apps use, from PyPI, against the Workload API: X509Source, JwtSource, bundles."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from dataplane.config import WorkloadApiCaller as Caller
from schemas.errors import Unauthenticated
from spiffe.x509 import verify_chain
from tests.controlplane.ca.conftest import TRUST_DOMAIN
from tests.dataplane.workload_api.stage import ORDERS_ID, Ca, running
from tests.support.spiffe_process import spiffe_app


def owner(svid: dict[str, str | dict[str, str]], now: float) -> str:
    chain, bundles = svid["chain"], svid["bundles"]
    assert isinstance(chain, str)
    assert isinstance(bundles, dict)
    certificates = x509.load_pem_x509_certificates(chain.encode())
    roots = x509.load_pem_x509_certificates(bundles[TRUST_DOMAIN].encode())
    return str(verify_chain(certificates, {TRUST_DOMAIN: tuple(roots)}, now))


@pytest.mark.spiffe(15)
@pytest.mark.spiffe(16)
@pytest.mark.spiffe(18)
@pytest.mark.spiffe(20)
@pytest.mark.spiffe(21)
async def test_the_library_of_pypi(tmp_path: Path) -> None:
    """Told of the socket by SPIFFE_ENDPOINT_SOCKET alone."""
    async with running(tmp_path) as stage:
        await stage.served()
        async with spiffe_app(f"unix://{stage.socket}", TRUST_DOMAIN) as app:
            first = await app.ask("svid")
            assert first["spiffe_id"] == str(ORDERS_ID) == owner(first, stage.clock())
            assert await app.ask("fetch") == [str(ORDERS_ID)]

            token = await app.ask("jwt", "a", "b")
            assert (token["id"], token["audience"]) == (str(ORDERS_ID), ["a", "b"])
            assert await app.ask("validate", token["token"], "b") == str(ORDERS_ID)
            assert "error" in await app.ask("validate", token["token"], "c")
            (kid,) = (await app.ask("jwt bundles"))[TRUST_DOMAIN]
            assert kid == stage.ca.bundle.jwt_authorities[0].kid

            # A rotation: the library's sources follow it.
            await stage.ca.prepare()
            stage.ca.activate()
            stage.tell()
            second = await app.ask("next")
            while second["chain"] == first["chain"]:
                second = await app.ask("next")
            stage.ca.remove()
            stage.tell()
            third = await app.ask("next")
            while third["bundles"] == second["bundles"]:
                third = await app.ask("next")
            assert owner(third, stage.clock()) == str(ORDERS_ID)
            with pytest.raises(Unauthenticated, match="is not trusted"):
                owner({**first, "bundles": third["bundles"]}, stage.clock())

            stage.ca.federated = ((await Ca.make(stage.clock, seed=9)).bundle_as("other.example"),)
            stage.tell()
            assert set((await app.ask("next"))["bundles"]) == {TRUST_DOMAIN, "other.example"}
            assert await app.ask("x509 bundles") == [TRUST_DOMAIN, "other.example"]


@pytest.mark.spiffe(17)
async def test_the_library_is_told_that_there_is_no_identity(tmp_path: Path) -> None:
    async with running(tmp_path, callers=[Caller(uid=4_000_000_000)]) as stage:
        await stage.served()
        async with spiffe_app(f"unix://{stage.socket}", TRUST_DOMAIN) as app:
            assert "no identity" in (await app.ask("fetch"))["error"]
