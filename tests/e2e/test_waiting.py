"""`meshadm apply --wait`: done when every sidecar runs it; else who does not, and why."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import trio

from controlplane.exit_codes import ExitCode
from schemas import codec
from schemas.objects import AnyObject
from tests.e2e.mesh import API, E2eMesh
from tests.states.build import port, service

EXTRA = 7999  # a port that api gets


def file_of(directory: Path, *objects: AnyObject) -> str:
    path = directory / "objects.yaml"
    path.write_text("---\n".join(json.dumps(codec.to_builtins(one)) + "\n" for one in objects))
    return str(path)


def api_with(number: int) -> AnyObject:
    spec = msgspec.structs.replace(API.spec, ports=(*API.spec.ports, port("extra", number)))
    return msgspec.structs.replace(API, spec=spec)


async def test_it_returns_when_everybody_runs_it(mesh: E2eMesh, tmp_path: Path) -> None:
    news = service("waited-for", port("http", 80))
    try:
        code, said = await mesh.local.meshadm(
            "apply", "-f", file_of(tmp_path, news), "--wait", "-o", "json", check=False
        )
        assert code == ExitCode.OK, said
        answer = json.loads(said)
        assert answer["wait"]["done"]
        assert (answer["wait"]["acked"], answer["wait"]["total"]) == (len(mesh.instances), len(mesh.instances))
        wait = answer["wait"]
        assert (wait["openBoundMs"], wait["uncut"], wait["boundUnknown"]) == (2000, [], [])
        statuses = await mesh.statuses()
        assert all(status.acked_revision >= answer["revision"] for status in statuses.values())
    finally:
        await mesh.delete(news.ref)


async def test_it_names_who_is_missing_when_the_time_is_up(mesh: E2eMesh, tmp_path: Path) -> None:
    news = service("waited-for", port("http", 80))
    try:
        with mesh.paused(mesh.agent_pid("api-1")):
            arguments = ("apply", "-f", file_of(tmp_path, news), "--wait", "--timeout", "3s")
            code, said = await mesh.local.meshadm(*arguments, check=False)
            assert code == ExitCode.TIMED_OUT, said
            assert "pending (1 of 4): shop/api.api-1" in said
            assert await mesh.status() == 200  # Envoy needs no agent to serve
        code, said = await mesh.local.meshadm("apply", "-f", file_of(tmp_path, news), "--wait")
        assert code == ExitCode.OK
        assert "what is open and no longer allowed ends within 2 s" in said
    finally:
        await mesh.delete(news.ref)


@pytest.mark.fault(27)
async def test_a_nack_fails_the_wait_and_keeps_the_last_good(mesh: E2eMesh, tmp_path: Path) -> None:
    """A valid object that Envoy has to refuse: the port is taken by another process on that host."""
    address = mesh.instances["api-1"].advertised
    (taken,) = await trio.open_tcp_listeners(EXTRA, host=address)
    async with taken:
        arguments = ("apply", "-f", file_of(tmp_path, api_with(EXTRA)), "--wait", "--timeout", "30s")
        code, said = await mesh.local.meshadm(*arguments, check=False)
        assert code == ExitCode.REFUSED_BY_SIDECAR, said
        for part in ("shop/api.api-1", "Listener inbound|extra", "Address already in use", "last good configuration"):
            assert part in said
        assert "api-2" not in said.partition("error:")[2]  # lines of progress apart

        code, said = await mesh.local.meshadm("status", check=False)
        assert code == ExitCode.REFUSED_BY_SIDECAR
        assert "refused" in said
        assert "Address already in use" in said
        status = await mesh.local.sidecar_status(mesh.instances["api-1"])
        assert "inbound|extra" in str(status["nacks"])
        for path in ("/a", "/b", "/c"):
            assert await mesh.status(path) == 200  # the other ports go on as they were
        # Mended by another change while the port is still taken.
        code, said = await mesh.local.meshadm("apply", "-f", file_of(tmp_path, API), "--wait", check=False)
        assert code == ExitCode.OK, said
    await mesh.everyone_current()
    assert not any(status.nacks for status in (await mesh.statuses()).values())
