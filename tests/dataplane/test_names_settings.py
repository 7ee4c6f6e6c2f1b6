"""`names` of a sidecar's settings: what is taken, what is refused and where that is said."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest

from dataplane import metrics
from dataplane.compile.workload import VirtualNetwork
from dataplane.config import SidecarSettings, load
from schemas.errors import InvalidInput
from tests.states.build import ORDERS


def settings(directory: Path, **names: object) -> SidecarSettings:
    content: dict[str, Any] = {
        "instance": "a",
        "advertise": "10.0.0.1",
        "stateDir": "/s",
        "runtimeDir": "/r",
        "localAddress": "127.0.0.3",
        "names": names,
    }
    path = directory / "sidecar.yaml"
    path.write_text(json.dumps(content))
    return load(path)


def test_defaults(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert found.names_listen == "127.0.0.3:15053"
    assert found.workload(ORDERS, "mesh.test").virtual == VirtualNetwork()


def test_all_of_it(tmp_path: Path) -> None:
    found = settings(
        tmp_path, listen="[::1]:53", upstream=["10.0.0.2", "[fd00::1]:54"], network="127.241.0.0/16", ipv6=True
    )
    assert found.names_listen == "[::1]:53"
    network = VirtualNetwork(ipaddress.IPv4Network("127.241.0.0/16"), ipv6=True)
    assert found.workload(ORDERS, "mesh.test").virtual == network


@pytest.mark.parametrize(
    ("names", "path", "said"),
    [
        ({"listen": "127.0.0.1:x"}, "$.names.listen", "expected address:port"),
        ({"listen": "0.0.0.0:53"}, "$.names.listen", "would answer everybody"),
        ({"upstream": ["dns.example"]}, "$.names.upstream", "expected address:port"),
        ({"upstream": ["127.0.0.3:15053"]}, "$.names.upstream", "is this sidecar itself"),
        ({"network": "127.241.0.1/16"}, "$.names.network", "expected an IPv4 network"),
        ({"network": "127.0.0.0/8"}, "$.names.network", "addresses that hosts use themselves"),
    ],
)
def test_what_is_refused(tmp_path: Path, names: dict[str, object], path: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        settings(tmp_path, **names)
    [problem] = caught.value.problems
    assert problem.path == path
    assert said in problem.message


def test_metrics_of_queries() -> None:
    [family] = metrics.of_names({"answered": 3, "failed": 0})
    assert [(one.name, one.labels["outcome"], one.value) for one in family.samples] == [
        ("hostmesh_sidecar_dns_queries_total", "answered", 3),
        ("hostmesh_sidecar_dns_queries_total", "failed", 0),
    ]
