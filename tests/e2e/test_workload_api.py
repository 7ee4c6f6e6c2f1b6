"""The Workload API in a whole mesh: an app with the library of PyPI gets its identity, and Envoys take it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from cryptography import x509

from deploy.demo.local_mesh import TRUST_DOMAIN
from schemas.names import SpiffeId
from spiffe.x509 import verify_chain
from tests.e2e.mesh import REPORTS_ID, WEB_ID, E2eMesh
from tests.e2e_identity.mesh import Peer
from tests.support.spiffe_process import spiffe_app


@pytest.mark.spiffe(15)
@pytest.mark.spiffe(19)
@pytest.mark.spiffe(20)
@pytest.mark.spiffe(21)
async def test_an_app_gets_the_identity_of_its_sidecar_and_other_sidecars_take_it(
    mesh: E2eMesh, tmp_path: Path
) -> None:
    async with spiffe_app(f"unix://{mesh.workload_api('web-1')}", TRUST_DOMAIN) as app:
        svid = await app.ask("svid")
        assert svid["spiffe_id"] == WEB_ID
        chain = x509.load_pem_x509_certificates(svid["chain"].encode())
        roots = x509.load_pem_x509_certificates(svid["bundles"][TRUST_DOMAIN].encode())
        now = chain[0].not_valid_before_utc.timestamp() + 90  # seconds: past what is backdated
        assert verify_chain(chain, {TRUST_DOMAIN: tuple(roots)}, now) == SpiffeId.parse(WEB_ID)

        files = tmp_path / "chain.pem", tmp_path / "key.pem"
        for file, text in zip(files, (svid["chain"], svid["key"]), strict=True):
            await trio.Path(file).write_text(text)
        # The Envoy before the app of api: web may call it, reports may not, by what each proves.
        assert (await Peer(mesh.instances["api-1"], *files).ask()).status == "HTTP/1.1 200 OK"
        assert (await Peer(mesh.instances["reports-1"], *files).ask()).status == "HTTP/1.1 403 Forbidden"

        token = await app.ask("jwt", REPORTS_ID)
        assert token["id"] == WEB_ID
        assert await app.ask("validate", token["token"], REPORTS_ID) == WEB_ID
        assert "error" in await app.ask("validate", token["token"], WEB_ID)
    mesh.assert_no_secret_in_logs(token["token"])
