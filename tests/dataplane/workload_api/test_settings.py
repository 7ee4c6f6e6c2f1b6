"""The settings of the Workload API: what is no endpoint, and what would admit everybody, is refused at the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataplane.config import load
from schemas.errors import InvalidInput


def write(directory: Path, **workload_api: Any) -> Path:
    settings = {
        "instance": "web-1",
        "advertise": "127.0.0.1",
        "stateDir": "/var/lib/x",
        "runtimeDir": "/run/x",
        "workloadApi": workload_api,
    }
    path = directory / "sidecar.yaml"
    path.write_text(json.dumps(settings))
    return path


@pytest.mark.spiffe(21)
@pytest.mark.parametrize(
    "socket",
    ["w.sock", "run/w.sock", "unix:///run/w.sock", "", "/", "/run/", "/run//w", "/run/a b", "/run/a?b", "/run/a#b",
     "/run/a%20b", "/run/w\n", "/run/\u00e4", "/" + "a" * 107],
)  # fmt: skip
def test_a_socket_that_no_client_could_be_told_of(socket: str, tmp_path: Path) -> None:
    """SPIFFE_ENDPOINT_SOCKET holds a URI, and the kernel 107 bytes."""
    with pytest.raises(InvalidInput, match=r"\$\.workloadApi\.socket"):
        load(write(tmp_path, socket=socket, callers=[{"uid": 1000}]))


@pytest.mark.spiffe(21)
@pytest.mark.parametrize("socket", ["/w", "/run/mesh-workload/web_1/api@2+x.sock", "/" + "a" * 106])
def test_a_socket(socket: str, tmp_path: Path) -> None:
    settings = load(write(tmp_path, socket=socket, callers=[{"uid": 1000}]))
    assert settings.workload_api is not None
    assert settings.workload_api.socket == socket


@pytest.mark.parametrize(
    "caller",
    [
        {},
        {"uid": -1},
        {"executable": "bin/app"},
        {"unit": "web"},
        {"unit": "user@1000.slice"},
        {"sha256": "abc"},
        {"user": "web"},
    ],
    ids=str,
)
def test_a_caller_that_says_nothing_or_nonsense(caller: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"\$\.workloadApi\.callers\[1\]"):
        load(write(tmp_path, socket="/run/w", callers=[{"uid": 1000}, caller]))
