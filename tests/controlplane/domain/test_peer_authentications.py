"""What a replica refuses in a PeerAuthentication, each with the path of the field."""

from __future__ import annotations

import pytest

from controlplane.domain.validate import validate
from schemas.objects import AnyObject, PeerAuthentication
from tests.controlplane.domain.objects import known_for, put
from tests.states.build import peers, port, service

ORDERS, WEB = service("orders", port("http", 80)), service("web", port("http", 81))
STORED = peers("stored", "PERMISSIVE", ["web"])


def problems(value: PeerAuthentication, *stored: AnyObject) -> list[tuple[str, str]]:
    changes = [put(value)]
    found = validate(changes, known_for(changes, ORDERS, WEB, *stored))
    return [(one.path, one.message) for one in found]


@pytest.mark.parametrize(
    "sound",
    [
        peers("a", "PERMISSIVE"),
        peers("a.mesh-system", "STRICT"),
        peers("a", "STRICT", ["orders"], p80="PERMISSIVE"),
        peers("a", on=["orders"], p80="PERMISSIVE"),
        peers("stored", "STRICT", ["web"]),
    ],
)
def test_sound(sound: PeerAuthentication) -> None:
    assert problems(sound, STORED) == []


@pytest.mark.parametrize(
    ("faulty", "path", "says"),
    [
        (peers("a", p80="STRICT"), "$.spec.portLevelMtls", "ports are those of services, and none is named"),
        (peers("a", "STRICT", ["gone"]), "$.spec.targetRefs[0]", "names Service shop/gone, which does not exist"),
        (
            peers("a", "STRICT", ["orders", "orders"]),
            "$.spec.targetRefs[1]",
            "names Service shop/orders twice",
        ),
        (
            peers("a", on=["orders"], p81="STRICT"),
            "$.spec.portLevelMtls['81']",
            "no targeted service has port 81",
        ),
        (
            peers("a", "STRICT", ["orders", "web"]),
            "$.spec.targetRefs[1]",
            "PeerAuthentication shop/stored already speaks for Service shop/web",
        ),
    ],
)
def test_refused(faulty: PeerAuthentication, path: str, says: str) -> None:
    assert problems(faulty, STORED) == [(path, says)]


def test_one_speaks_for_a_whole_namespace() -> None:
    says = "PeerAuthentication shop/first already speaks for all of the namespace"
    assert problems(peers("second", "STRICT"), peers("first", "STRICT")) == [("$.spec", says)]
    assert problems(peers("second", "STRICT"), peers("first.back", "STRICT")) == []
