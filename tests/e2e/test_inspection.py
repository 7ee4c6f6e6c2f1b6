"""`meshadm proxy config` and `diff` on a sidecar that runs: what Envoy really has, and that a difference is seen."""

from __future__ import annotations

import json
from pathlib import Path

from dataplane import config, lastgood
from dataplane.envoy.admin import Admin
from dataplane.inspection import view
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import Service
from tests.e2e.app import HTTP
from tests.e2e.mesh import API_ID, KEYS, E2eMesh


async def test_config_and_diff_of_a_running_sidecar(mesh: E2eMesh, tmp_path: Path) -> None:
    path = str(mesh.local.settings_file(mesh.instances["web-1"]))
    code, output = await mesh.local.meshadm("proxy", "diff", path)
    assert code == 0
    assert "Envoy runs what the model says" in output

    _, output = await mesh.local.meshadm("proxy", "config", path, "-o", "json")
    told = json.loads(output)
    assert told["source"] == "envoy"
    cluster = next(one for one in told["sections"]["clusters"] if one["name"] == f"outbound|api.shop|{HTTP}")
    assert "Service shop/api" in cluster["origin"]
    assert API_ID in cluster["does"][0]

    settings = config.load(Path(path))
    admin = Admin(str(settings.admin_socket))
    saved = lastgood.read_file(settings.last_good_file)
    assert saved is not None
    state = lastgood.restore(saved)
    for key in [key for key in state.stored if key == KEYS.object(ObjectRef(Service.__name__, "shop", "api"))]:
        del state.stored[key]
    (tmp_path / "less").write_bytes(lastgood.dump(state, now=1))
    verdict = await view.diff(settings, tmp_path / "less", admin, patience=0)
    assert not verdict.same
    assert any(one.name == f"outbound|api.shop|{HTTP}" and one.how == "extra" for one in verdict.differences)

    without = await view.config(settings, settings.last_good_file, Admin(str(tmp_path / "nobody")))
    assert without.source == "model"
    assert "ENVOY DOES NOT ANSWER" in view.config_text(without)
    assert str(ServiceRef("shop", "web")) in view.config_text(without)


async def test_a_sidecar_that_is_not_here(mesh: E2eMesh) -> None:
    code, said = await mesh.local.meshadm("proxy", "diff", "nobody", check=False)
    assert code == 3
    assert "run this on its host" in said
