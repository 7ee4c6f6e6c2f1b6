"""What a host is told of its sidecar when nobody is left to ask."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from dataplane import status
from dataplane.status import LocalStatus
from schemas.records import OpenStreams, SidecarStatus

NOW = int(time.time())


def ended_pid() -> int:
    """Of a process that was, and is no more."""
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


@pytest.mark.parametrize(
    ("runs", "said"), [(True, "ends within 2 s"), (False, "goes on: the agent does not run")], ids=["runs", "ended"]
)
def test_an_agent_that_has_ended_ends_nothing_that_is_open(tmp_path: Path, runs: bool, said: str) -> None:
    last = SidecarStatus(
        service="web",
        namespace="shop",
        instance="web-1",
        applied_revision=23,
        acked_revision=23,
        svid_expires=NOW + 2811,
        open_streams=OpenStreams(bound_ms=2000),
    )
    path = tmp_path / "status.json"
    pid = os.getpid() if runs else ended_pid()
    status.write(path, LocalStatus(last, NOW, pid, os.getpid(), from_last_good=False))
    content = status.read(path, now=NOW)
    assert f"open        what is no longer allowed {said}" in status.table(content, now=NOW).splitlines()
    assert (content["openStreams"]["boundMs"] == 0) is not runs
    assert (content["openStreams"].get("problem") == "the agent does not run") is not runs


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        (OpenStreams(bound_ms=2000, passed_bound_ms=11_000), True),
        (OpenStreams(bound_ms=0, problem="not allowed"), False),
        (None, True),
    ],
)
def test_whether_what_is_open_could_be_ended(tmp_path: Path, said: OpenStreams | None, ends: bool) -> None:
    file = tmp_path / "status.json"
    assert status.last_ends_open(file)
    file.write_text(json.dumps({"openStreams": msgspec.to_builtins(said)} if said is not None else {}))
    assert status.last_ends_open(file) == ends
