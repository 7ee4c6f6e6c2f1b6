"""`setup.sh` puts files where the units look for them. What needs a real systemd is left out by $DESTDIR."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

_SYSTEMD = Path(__file__).resolve().parents[2] / "deploy" / "systemd"


def setup(root: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(_SYSTEMD / "setup.sh"), *arguments],
        input=stdin,
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "DESTDIR": str(root)},
    )


@pytest.fixture
def control_host(tmp_path: Path) -> Path:
    """A host on which `meshadm init --files-only` has run."""
    etcd = tmp_path / "etc/mesh/etcd"
    etcd.mkdir(parents=True)
    for name in ("ca.crt", "server.crt", "server.key", "replica.crt", "replica.key"):
        (etcd / name).write_text(name)
    (tmp_path / "etc/mesh/kek").write_bytes(b"k" * 32)
    (tmp_path / "etc/mesh/controlplane.yaml").write_text('etcd:\n  key: "/x"\nkek: "/etc/mesh/kek"\n')
    return tmp_path


def test_installs_every_unit_that_there_is(tmp_path: Path) -> None:
    assert setup(tmp_path, "install").returncode == 0
    for unit in (*_SYSTEMD.glob("*.service"), *_SYSTEMD.glob("*.target"), *_SYSTEMD.glob("*.slice")):
        assert (tmp_path / "etc/systemd/system" / unit.name).read_bytes() == unit.read_bytes()
    assert os.access(tmp_path / "opt/hostmesh/bin/mesh-sidecar-tidy", os.X_OK)


def test_etcd_gets_its_own_address_and_the_credential_that_its_unit_loads(control_host: Path) -> None:
    assert setup(control_host, "etcd", "10.9.8.7").returncode == 0
    config = (control_host / "etc/mesh/etcd.conf.yaml").read_text()
    assert "https://10.9.8.7:2379" in config
    assert "10.0.0.1" not in config
    credential = control_host / "etc/mesh/credentials/etcd-server.key.cred"
    assert f"server.key:{credential.relative_to(control_host)}" in _unit("mesh-etcd.service").replace(":/", ":")


def test_the_replica_takes_its_secrets_from_credentials_alone(control_host: Path) -> None:
    assert setup(control_host, "replica").returncode == 0
    config = (control_host / "etc/mesh/controlplane.yaml").read_text()
    assert "kek:" not in config
    assert 'key: "/run/credentials/mesh-controlplane.service/etcd.key"' in config
    for name in ("kek", "etcd.key"):
        assert (control_host / f"etc/mesh/credentials/{name}.cred").is_file()
        assert f"{name}:/etc/mesh/credentials/{name}.cred" in _unit("mesh-controlplane.service")
    assert setup(control_host, "replica").returncode == 0  # once more


def test_a_sidecar_gets_a_user_settings_and_its_join_credential(tmp_path: Path) -> None:
    assert setup(tmp_path, "sidecar", "web", "10.0.0.2", "-", stdin="secret").returncode == 0
    settings = (tmp_path / "etc/mesh/sidecars/web.yaml").read_text()
    assert "advertise: 10.0.0.2" in settings
    assert "join: /run/credentials/mesh-sidecar@web.service/join" in settings
    assert (tmp_path / "etc/credstore.encrypted/mesh.web.join").read_text() == "secret"
    assert "join:mesh.%i.join" in _unit("mesh-sidecar@.service")
    assert "u sidecar-web " in (tmp_path / "etc/sysusers.d/mesh-sidecar-web.conf").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("etcd", "10.0.0.1"), "meshadm init --files-only"),
        (("replica",), "meshadm init"),
        (("sidecar", "Web!", "10.0.0.2", "-"), "1 to 23"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    done = setup(tmp_path, *arguments)
    assert done.returncode == 1
    assert says in done.stderr


def _unit(name: str) -> str:
    return (_SYSTEMD / name).read_text()
