"""What a sidecar logs, changed from afar while it runs."""

from __future__ import annotations

import json
import time

from controlplane.meshadm.client import new_request_id
from dataplane import config, status
from dataplane.inspection import view
from schemas.api import mesh_pb2 as pb
from schemas.errors import Unavailable
from tests.e2e.mesh import E2eMesh
from tests.support.net import eventually

NAME = "reports-1"  # whom nobody calls


async def set_level(mesh: E2eMesh, level: str, seconds: int) -> None:
    request = pb.SetLogLevelRequest(
        request_id=new_request_id(), namespace="back-office", service="reports", instance=NAME, level=level,
        seconds=seconds,
    )  # fmt: skip
    async with mesh.client() as client:
        await client.call("/mesh.v1.Sidecars/SetLogLevel", request, pb.SetLogLevelReply, write=True)


async def levels(mesh: E2eMesh, name: str = NAME) -> dict[str, str]:
    """Of its Envoy: by logger."""
    return await mesh.admin(name).log_levels()


async def test_a_sidecar_logs_more_for_a_time_and_goes_back_by_itself(mesh: E2eMesh) -> None:
    before = await levels(mesh)
    settings = config.load(mesh.local.settings_file(mesh.instances[NAME]))
    assert set(before.values()) == {settings.envoy_log_level}
    _, output = await mesh.local.meshadm(
        "proxy", "log-level", NAME, "error", "--component", "http=debug", "--component", "agent=debug", "--for", "1h",
        "-o", "json",
    )  # fmt: skip
    told = json.loads(output)
    assert told["sidecar"] == f"back-office/reports.{NAME}"
    assert (told["level"], told["components"]) == ("error", {"agent": "debug", "http": "debug"})
    raised = {name: "debug" if name == "http" else "error" for name in before}
    assert await levels(mesh) == raised
    assert await levels(mesh, "web-1") == before
    assert "DEBUG mesh.registration: reported" in mesh.log(f"sidecar-{NAME}")
    assert "DEBUG" not in mesh.log("sidecar-web-1")
    said = (await mesh.statuses())[NAME].log_levels
    assert said is not None
    assert abs(said.until - time.time() - 3600) < 60
    local = status.read(settings.status_file, now=time.time())
    shown = status.table(local, now=time.time())
    assert "logs        error, agent=debug, http=debug for 3" in shown
    assert "open        what is no longer allowed ends within 2 s\n" in shown
    told_here = await view.config(settings, settings.last_good_file, mesh.admin(NAME))
    assert told_here.log_levels == {view.ALL: "error", "http": "debug"}
    assert "Envoy logs at other levels than its settings say: *=error, http=debug" in view.config_text(told_here)

    mesh.kill_envoy(NAME)

    async def of_the_new_one() -> bool:
        try:
            return await levels(mesh) == raised
        except Unavailable:  # it is starting
            return False

    await eventually("another Envoy logs so too", of_the_new_one)
    await set_level(mesh, "trace", 1)
    await eventually("it logs all", lambda: "trace" in mesh.log(f"sidecar-{NAME}"))

    async def as_before() -> bool:
        return await levels(mesh) == before and (await mesh.statuses())[NAME].log_levels is None

    await eventually("it has gone back", as_before)
    assert "logging as the settings say again" in mesh.log(f"sidecar-{NAME}")
    mesh.assert_no_secret_in_logs()
