"""What keeps a sidecar from starting: one line that says what is wrong, and the exit code that `--help` documents."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplane import __main__ as sidecar
from tests.support.leftovers import running_descendants


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short: a socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="start-") as name:
        yield Path(name)


@pytest.fixture
def settings(directory: Path) -> dict[str, object]:
    return {
        "instance": "web-1",
        "advertise": "127.0.0.1",
        "stateDir": str(directory / "state"),
        "runtimeDir": str(directory / "run"),
    }


@pytest.fixture
def start(
    directory: Path, settings: dict[str, object], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], tuple[int, str]]:
    """Exit code, and the only line that is no log line."""

    def start() -> tuple[int, str]:
        path = directory / "sidecar.yaml"
        if settings:
            path.write_text(json.dumps(settings))
        monkeypatch.setattr(sys, "argv", ["mesh-sidecar", "--config", str(path)])
        before = {one.pid for one in running_descendants()}
        with pytest.raises(SystemExit) as ended:
            sidecar.main()
        assert {one.pid for one in running_descendants()} <= before, "no Envoy is left behind"
        said = capfd.readouterr().err
        assert "Traceback" not in said
        (line,) = [line for line in said.splitlines() if line.startswith("mesh-sidecar: ")]
        assert isinstance(ended.value.code, int)
        return ended.value.code, line

    return start


Start = Callable[[], tuple[int, str]]


def test_no_settings(directory: Path, settings: dict[str, object], start: Start) -> None:
    settings.clear()
    code, said = start()
    assert code == 2
    assert str(directory / "sidecar.yaml") in said


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"instanze": "web-1"}, "instanze"),
        ({"advertise": "somewhere"}, "$.advertise"),
        ({"drainSeconds": -1}, "$.drainSeconds"),
        ({"healthCheck": {"type": "Command"}}, "$.healthCheck.command"),
        ({"healthCheck": {"type": "TCP", "command": ["true"]}}, "$.healthCheck.command"),
        ({"healthCheck": {"type": "HTTP", "http": {"path": "/a b"}}}, "$.healthCheck.http.path"),
        ({"runtimeDir": "/run/" + "x" * 100}, "$.runtimeDir"),
    ],
)
def test_bad_settings(settings: dict[str, object], start: Start, wrong: dict[str, object], told: str) -> None:
    settings.update(wrong)
    code, said = start()
    assert code == 2
    assert told in said


def test_no_envoy(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_ENVOY", "/nowhere/envoy")
    code, said = start()
    assert code == 5
    assert "/nowhere/envoy" in said


def test_neither_identity_nor_join_file(settings: dict[str, object], start: Start) -> None:
    code, said = start()
    assert code == 2
    assert "meshadm token create" in said


def test_a_join_file_that_is_none(settings: dict[str, object], directory: Path, start: Start) -> None:
    (directory / "join").write_text("nonsense")
    settings["join"] = str(directory / "join")
    code, said = start()
    assert code == 2
    assert str(directory / "join") in said


def test_a_directory_that_can_not_be_made(settings: dict[str, object], directory: Path, start: Start) -> None:
    (directory / "file").touch()
    settings["stateDir"] = str(directory / "file" / "state")
    code, said = start()
    assert code == 5
    assert str(directory / "file") in said


def test_a_directory_that_others_may_enter(settings: dict[str, object], directory: Path, start: Start) -> None:
    """Whoever can enter it can have the private key from the ADS socket in it."""
    (directory / "run").mkdir()
    (directory / "run").chmod(0o755)
    code, said = start()
    assert code == 6
    assert f"chmod 700 {directory / 'run'}" in said


def test_another_agent_on_the_same_directory(settings: dict[str, object], directory: Path, start: Start) -> None:
    (directory / "run").mkdir(mode=0o700)
    with open(directory / "run" / "agent.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, said = start()
    assert code == 4
    assert "another agent" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file that this user may not read")
def test_settings_that_this_user_may_not_read(settings: dict[str, object], directory: Path, start: Start) -> None:
    directory.chmod(0o700)
    os.seteuid(65534)  # nobody
    try:
        settings.clear()
        code, said = start()
    finally:
        os.seteuid(0)
    assert code == 2
    assert "ermission denied" in said
