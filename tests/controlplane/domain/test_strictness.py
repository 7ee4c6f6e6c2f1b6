"""Who would be cut off by a port that stops taking plaintext; and whose words decide."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import pytest

from authz.peers import Decided, mode_of
from controlplane.domain.change import Change
from controlplane.domain.known import Known, Stored
from controlplane.domain.strictness import WINDOW_S, holdouts, turning
from schemas import codec
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import PeerAuthentication
from schemas.records import PlaintextPort, PlaintextSource, SidecarStatus
from tests.states.build import peers

NOW = 1_000_000
ORDERS = ServiceRef("shop", "orders")


def status(name: str = "orders.shop", acked: int = 10, *ports: PlaintextPort) -> SidecarStatus:
    service, _, namespace = name.partition(".")
    return SidecarStatus(
        service=service,
        namespace=namespace,
        instance="o1",
        applied_revision=acked,
        acked_revision=acked,
        svid_expires=0,
        plaintext=ports,
    )


def seen(port: int, ago: int | None, since: int = 0) -> PlaintextPort:
    sources = (PlaintextSource(address="10.0.0.7", last_seen=NOW - (ago or 0)),)
    last = None if ago is None else NOW - ago
    return PlaintextPort(port=port, since=since, last_seen=last, sources=sources if ago is not None else ())


def known(*objects: PeerAuthentication, broken: Sequence[PeerAuthentication] = ()) -> Known:
    stored = {one.ref: Stored(codec.encode(one), 5, one) for one in objects}
    return Known(stored | {one.ref: Stored(b"?", 5, None) for one in broken})


def told(
    changes: Sequence[Change], of: Known, *statuses: SidecarStatus, ports: Collection[int] | None = (80,)
) -> list[str]:
    """ports: of each sidecar's Service."""
    declared = {ServiceRef(one.namespace, one.service): ports for one in statuses}
    return [str(one) for one in holdouts(changes, of, statuses, declared, NOW)]


def put(one: PeerAuthentication) -> Change:
    return Change(one.ref, one)


PERMISSIVE, STRICT = peers("orders", "PERMISSIVE", ["orders"]), peers("orders", "STRICT", ["orders"])


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (status("orders.shop", 10, seen(80, 3)), ["shop/orders.o1, port 80: plaintext 3 s ago, from 10.0.0.7"]),
        (status("orders.shop", 10, seen(80, WINDOW_S)), []),
        (status("orders.shop", 10, seen(80, None)), []),
        (status("orders.shop", 10, seen(80, None, NOW - WINDOW_S)), []),
        (
            status("orders.shop", 10, seen(80, None, NOW - 1)),
            [f"shop/orders.o1, port 80: nobody in 1 s, and it has not looked for longer: wait {WINDOW_S - 1} s"],
        ),
        (
            status("orders.shop", 10, seen(80, 2, NOW - 9)),
            ["shop/orders.o1, port 80: plaintext 2 s ago, from 10.0.0.7"],
        ),
        (status("orders.shop", 10), ["shop/orders.o1, port 80: has not reported who sends plaintext"]),
        (status("orders.shop", 10, seen(81, 3)), ["shop/orders.o1, port 80: has not reported who sends plaintext"]),
        (
            status("orders.shop", 4, seen(80, None)),
            ["shop/orders.o1: has not taken up yet that plaintext is let in, so nobody knows who sends it"],
        ),
        (status("web.shop", 10, seen(80, 3)), []),
        (status("orders.back", 10, seen(80, 3)), []),
    ],
)
def test_what_a_sidecar_says(says: SidecarStatus, expected: list[str]) -> None:
    for change in (put(STRICT), Change(STRICT.ref, None)):
        assert told([change], known(PERMISSIVE), says) == expected
    assert told([put(PERMISSIVE)], known(PERMISSIVE), says) == []
    assert told([put(STRICT)], known(STRICT), says) == []


def test_only_ports_that_turn_strict_count() -> None:
    says = status("orders.shop", 10, seen(80, 3), seen(81, 4))
    narrower = peers("orders", "PERMISSIVE", ["orders"], p81="STRICT")
    assert told([put(narrower)], known(PERMISSIVE), says, ports=(80, 81)) == [
        "shop/orders.o1, port 81: plaintext 4 s ago, from 10.0.0.7"
    ]


def test_wider_objects_decide_where_narrower_ones_do_not() -> None:
    of_mesh, of_namespace = peers("mesh.mesh-system", "PERMISSIVE"), peers("all", "PERMISSIVE")
    says = status("orders.shop", 10, seen(80, 3))
    strict = put(peers("mesh.mesh-system", "STRICT"))
    assert told([strict], known(of_mesh), says)
    assert told([strict], known(of_mesh, of_namespace), says) == []
    assert told([strict], known(of_mesh, PERMISSIVE), says) == []
    assert told([Change(PERMISSIVE.ref, None)], known(of_namespace, PERMISSIVE), says) == []
    assert told([put(STRICT)], known(of_namespace), says)


def test_who_takes_none_has_none_to_report() -> None:
    """Without a Service there is no port, and one that is STRICT apart does not turn so."""
    of_mesh, apart = peers("mesh.mesh-system", "PERMISSIVE"), peers("orders", on=["orders"], p80="STRICT")
    strict, silent = [put(peers("mesh.mesh-system", "STRICT"))], status("orders.shop", 10)
    assert told(strict, known(of_mesh), silent)
    assert holdouts(strict, known(of_mesh), [silent], {}, NOW) == []
    assert told(strict, known(of_mesh, apart), silent) == []
    assert told(strict, known(of_mesh, apart), silent, ports=(80, 81)) == [
        "shop/orders.o1, port 81: has not reported who sends plaintext"
    ]


def test_of_a_service_that_nobody_can_read_what_is_reported_counts() -> None:
    sending = status("orders.shop", 10, seen(80, 3), seen(81, None))
    assert told([put(STRICT)], known(PERMISSIVE), sending, ports=None) == [
        "shop/orders.o1, port 80: plaintext 3 s ago, from 10.0.0.7"
    ]
    assert told([put(STRICT)], known(PERMISSIVE), status("orders.shop", 10), ports=None) == [
        "shop/orders.o1: has not reported who sends plaintext"
    ]
    assert told([put(STRICT)], known(PERMISSIVE), status("web.shop", 10), ports=None) == []


def test_whose_services_are_asked_for() -> None:
    web, elsewhere = ServiceRef("shop", "web"), ServiceRef("back", "orders")
    every = (ORDERS, web, elsewhere)
    assert turning([put(STRICT)], known(PERMISSIVE), every) == {ORDERS}
    assert turning([put(PERMISSIVE)], known(PERMISSIVE), every) == set()
    of_namespace = peers("all", "PERMISSIVE")
    assert turning([Change(of_namespace.ref, None)], known(of_namespace, PERMISSIVE), every) == {web}
    by_port = peers("orders", on=["orders"], p80="PERMISSIVE")
    assert turning([Change(by_port.ref, None)], known(by_port), every) == {ORDERS}


def test_one_that_nobody_can_read_is_strict_already() -> None:
    says = status("orders.shop", 10, seen(80, 3))
    assert told([put(STRICT)], known(PERMISSIVE, broken=[peers("other", "PERMISSIVE")]), says) == []


def test_the_work_grows_with_the_objects_and_not_with_their_square(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0

    def counting(
        service: ServiceRef,
        port: int | None,
        objects: Iterable[PeerAuthentication],
        unreadable: Collection[ObjectRef] = (),
    ) -> Decided:
        nonlocal looked_at
        several = tuple(objects)
        looked_at += 1 + len(several)
        return mode_of(service, port, several, unreadable)

    monkeypatch.setattr("controlplane.domain.strictness.mode_of", counting)

    def work(number: int) -> int:
        names = [f"s{each}.shop" for each in range(number)]
        of = known(peers("m.mesh-system", "PERMISSIVE"), *(peers(one, "PERMISSIVE", [one[:-5]]) for one in names))
        statuses = [status(one, 10, seen(80, 3)) for one in names for _ in range(3)]
        before = looked_at
        changes = [put(peers("m.mesh-system", "STRICT"))]
        turning(changes, of, {ServiceRef.parse(one) for one in names})
        told(changes, of, *statuses)
        return looked_at - before

    assert 0 < work(40) == 2 * work(20)
    changes, others = [put(peers("x.back", "STRICT"))], [ServiceRef("shop", f"s{each}") for each in range(20)]
    before = looked_at
    assert turning(changes, known(peers("m.mesh-system", "PERMISSIVE")), others) == set()
    assert looked_at == before, "no service of another namespace is concerned"


@pytest.mark.parametrize(
    ("objects", "unreadable", "mode", "by"),
    [
        ((), (), "STRICT", None),
        ((peers("m.mesh-system", "PERMISSIVE"),), (), "PERMISSIVE", "m"),
        ((peers("m.mesh-system", "PERMISSIVE"), peers("n", "STRICT")), (), "STRICT", "n"),
        ((peers("n", "STRICT"), PERMISSIVE), (), "PERMISSIVE", "orders"),
        ((peers("n", "STRICT"), peers("orders", on=["orders"])), (), "STRICT", "n"),
        ((PERMISSIVE, peers("p", "PERMISSIVE", ["orders"], p80="STRICT")), (), "STRICT", "p"),
        ((PERMISSIVE, peers("p", "PERMISSIVE", ["orders"], p81="STRICT")), (), "PERMISSIVE", "orders"),
        ((PERMISSIVE, peers("twice", "STRICT", ["orders"])), (), "STRICT", "twice"),
        ((peers("of-web", "PERMISSIVE", ["web"]), peers("n.back", "PERMISSIVE")), (), "STRICT", None),
        ((PERMISSIVE,), (peers("x"),), "STRICT", "x"),
        ((PERMISSIVE,), (peers("x.back"),), "PERMISSIVE", "orders"),
        ((PERMISSIVE,), (peers("x.mesh-system"),), "PERMISSIVE", "orders"),
        ((peers("m.mesh-system", "PERMISSIVE"),), (peers("x.mesh-system"),), "STRICT", "x"),
    ],
)
def test_the_narrowest_that_says_anything_decides(
    objects: tuple[PeerAuthentication, ...], unreadable: tuple[PeerAuthentication, ...], mode: str, by: str | None
) -> None:
    for several in (objects, objects[::-1]):
        decided = mode_of(ORDERS, 80, several, [one.ref for one in unreadable])
        assert (decided.mode, decided.by.name if decided.by is not None else None) == (mode, by)
