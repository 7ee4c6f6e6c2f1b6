"""The units keep their promises: no root, no secret in the clear, Envoy outlives its agent, systemd's checks pass."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

_SYSTEMD = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
_SERVICES = sorted(path.name for path in _SYSTEMD.glob("*.service"))
_CHECK = _SYSTEMD / "check.sh"

Unit = dict[str, dict[str, list[str]]]
"""section -> setting -> its values, in order"""


def read_unit(name: str) -> Unit:
    unit: Unit = {}
    section: dict[str, list[str]] = {}
    for line in (_SYSTEMD / name).read_text().splitlines():
        if line.startswith("["):
            section = unit.setdefault(line.strip("[]"), {})
        elif line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return unit


@pytest.mark.parametrize("name", _SERVICES)
def test_runs_without_root_or_any_capability(name: str) -> None:
    service = read_unit(name)["Service"]
    assert service["User"][0] not in {"", "root", "0"}
    assert service["CapabilityBoundingSet"] == [""]
    assert service["AmbientCapabilities"] == [""]
    assert service["NoNewPrivileges"] == ["yes"]
    assert not any(
        command.startswith(("+", "!")) for key in service if key.startswith("Exec") for command in service[key]
    )


@pytest.mark.parametrize("name", _SERVICES)
def test_says_when_it_is_ready_and_always_comes_back(name: str) -> None:
    unit = read_unit(name)
    assert unit["Service"]["Type"] == ["notify"]
    assert unit["Service"]["Restart"] == ["always"]
    assert unit["Unit"]["StartLimitIntervalSec"] == ["0"]
    assert unit["Install"]["WantedBy"] == ["mesh.target"]


@pytest.mark.parametrize("name", _SERVICES)
def test_secrets_come_as_encrypted_credentials(name: str) -> None:
    service = read_unit(name)["Service"]
    assert service["LoadCredentialEncrypted"]
    assert not {"LoadCredential", "SetCredential", "EnvironmentFile", "PassEnvironment"} & set(service)
    assert service["LimitCORE"] == ["0"]
    assert service["UMask"] == ["0077"]


def test_our_processes_are_watched() -> None:
    for name in ("mesh-controlplane.service", "mesh-sidecar@.service"):
        assert read_unit(name)["Service"]["WatchdogSec"] == ["30s"]


def test_envoy_outlives_the_agent() -> None:
    service = read_unit("mesh-sidecar@.service")["Service"]
    assert service["KillMode"] == ["process"]
    assert service["RuntimeDirectoryPreserve"] == ["restart"]
    assert service["TimeoutStartSec"] == ["infinity"]
    assert service["OOMPolicy"] == ["continue"]
    assert service["ExecStopPost"] == ["/opt/hostmesh/bin/mesh-sidecar-tidy"]


def test_the_agent_can_start_without_a_join_file() -> None:
    (credential,) = read_unit("mesh-sidecar@.service")["Service"]["LoadCredentialEncrypted"]
    name, _, source = credential.partition(":")
    assert name == "join"
    assert not source.startswith("/"), "systemd fails the unit when a credential named by its path is missing"


def test_each_sidecar_has_a_user_and_directories_of_its_own() -> None:
    service = read_unit("mesh-sidecar@.service")["Service"]
    for key in ("User", "Group", "RuntimeDirectory", "StateDirectory"):
        assert "%i" in service[key][0], key


def test_users_and_directories_are_declared() -> None:
    declared = {
        line.split()[1] for line in (_SYSTEMD / "sysusers.d/mesh.conf").read_text().splitlines() if line[:1] == "u"
    }
    wanted = {read_unit(name)["Service"]["User"][0] for name in _SERVICES}
    assert declared == {user for user in wanted if "%i" not in user}
    directories = {
        line.split()[1] for line in (_SYSTEMD / "tmpfiles.d/mesh.conf").read_text().splitlines() if line[:1] == "d"
    }
    for name in _SERVICES:
        for credential in read_unit(name)["Service"]["LoadCredentialEncrypted"]:
            source = Path(credential.partition(":")[2])
            assert str(source.parent if source.is_absolute() else "/etc/credstore.encrypted") in directories


def test_the_setup_encrypts_every_credential_that_a_unit_wants() -> None:
    script = (_SYSTEMD / "setup.sh").read_text()
    for name in _SERVICES:
        for credential in read_unit(name)["Service"]["LoadCredentialEncrypted"]:
            label, _, source = credential.partition(":")
            assert f"encrypt {label} " in script, f"{name}: {credential}"
            assert Path(source.replace("%i", "$name")).name in script, f"{name}: {credential}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd's own checker is not on this machine")
class TestSystemdsOwnChecks:
    def test_pass(self) -> None:
        done = _check(_SYSTEMD)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout.count("Overall exposure") == len(_SERVICES)

    @pytest.mark.parametrize(
        ("old", "new", "complaint"),
        [
            ("RestrictNamespaces=yes", "RestrictNamespace=yes", "RestrictNamespace'"),
            ("Restart=always", "Restart=sometimes", "Failed to parse service restart specifier"),
            ("Type=notify", "Type=notify\nExecStartPre=/usr/bin/no-such-program", "no-such-program"),
            ("CapabilityBoundingSet=\n", "", "Overall exposure"),
        ],
        ids=["unknown setting", "wrong value", "missing program", "too exposed"],
    )
    def test_notice(self, tmp_path: Path, old: str, new: str, complaint: str) -> None:
        shutil.copytree(_SYSTEMD, tmp_path / "systemd")
        unit = tmp_path / "systemd" / "mesh-sidecar@.service"
        text = unit.read_text()
        assert old in text
        unit.write_text(text.replace(old, new) if "exposure" not in complaint else _without_hardening(text))
        done = _check(tmp_path / "systemd")
        assert done.returncode == 1
        assert complaint in done.stderr


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_without_systemd_only_ci_fails(tmp_path: Path, ci: str, code: int) -> None:
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    done = _check(_SYSTEMD, PATH=str(tmp_path), CI=ci)
    assert done.returncode == code
    assert "systemd-analyze is missing" in done.stderr


class TestTidy:
    """The script itself; that systemd runs it, and when, is the unit's part."""

    def test_without_the_mark_of_a_stop_it_ends_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "envoy.pid").touch()
        done = _tidy(tmp_path)
        assert done.returncode == 0
        assert (tmp_path / "envoy.pid").exists()

    def test_after_a_stop_it_takes_the_mark_away(self, tmp_path: Path) -> None:
        (tmp_path / "stopping").touch()
        # Outside a unit there is no control group of its own, and it must not touch the one that these tests run in.
        done = _tidy(tmp_path, fake_group="0::/\n")
        assert done.returncode == 1
        assert "not readable" in done.stderr
        assert not (tmp_path / "stopping").exists()

    def test_it_ends_what_is_in_the_group_and_not_itself(self, tmp_path: Path) -> None:
        # As under systemd, what is killed has another parent that reaps it: this test would else have to, meanwhile.
        script = "sleep 600 >&- & echo $!; wait $!"
        parent = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        left = int(parent.stdout.readline())
        try:
            (tmp_path / "stopping").touch()
            group = tmp_path / "mesh.slice" / "one"
            group.mkdir(parents=True)
            (group / "cgroup.procs").write_text(f"0\n{left}\n")
            done = _tidy(tmp_path, fake_group="12:pids:/elsewhere\n0::/mesh.slice/one\n")
            assert done.returncode == 0, done.stderr
            with pytest.raises(ProcessLookupError):
                os.kill(left, 0)
            assert parent.wait(10) == 128 + signal.SIGKILL
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
            parent.communicate(timeout=10)


def _without_hardening(text: str) -> str:
    hardening = ("Protect", "Private", "Restrict", "SystemCall", "Capability", "NoNew", "Lock", "Memory")
    return "\n".join(line for line in text.splitlines() if not line.startswith(hardening))


def _check(directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [directory / "check.sh"], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **env}
    )


def _tidy(runtime: Path, fake_group: str | None = None) -> subprocess.CompletedProcess[str]:
    script = (_SYSTEMD / "mesh-sidecar-tidy").read_text()
    if fake_group is not None:
        (runtime / "cgroup").write_text(fake_group)
        script = script.replace("/proc/self/cgroup", str(runtime / "cgroup")).replace("/sys/fs/cgroup", str(runtime))
    return subprocess.run(
        ["/bin/sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "RUNTIME_DIRECTORY": str(runtime)},
    )
