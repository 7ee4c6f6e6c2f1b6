"""Which service an authority means, and how much is learnt."""

from __future__ import annotations

import pytest

from dataplane.compile import on_demand
from dataplane.compile.compiler import Compiler
from dataplane.compile.resources import CLUSTER
from schemas.names import ServiceRef
from tests.states.build import CREDENTIALS, ORDERS, mesh_of, service, state, workload


@pytest.mark.parametrize(
    ("authority", "meant"),
    [
        ("cart", "cart.shop"),
        ("cart:8080", "cart.shop"),
        ("cart.front", "cart.front"),
        ("CART.Front:80", "cart.front"),
        ("cart.front.mesh", "cart.front"),
        ("cart.front.mesh:80", "cart.front"),
        ("cart.mesh", "cart.mesh"),
        ("cart.front.example", None),
        ("a.cart.front.mesh", None),
        ("-cart", None),
        ("cart.", None),
        ("cart:", None),
        ("[::1]:80", None),
        ("c" * 64, None),
        ("", None),
    ],
)
def test_what_an_authority_means(authority: str, meant: str | None) -> None:
    found = on_demand.service_of(authority, ServiceRef("shop", "orders"))
    assert found == (ServiceRef.parse(meant) if meant else None)


def test_not_more_is_learnt_than_fits() -> None:
    mesh = mesh_of(state("now", "", service("orders", needs=None)).values)
    compiler = Compiler(workload(ORDERS), credentials=CREDENTIALS)
    compiler.rebuild(mesh)
    many = [f"host-{number}" for number in range(on_demand.MAX_LEARNT + 1)]
    assert [compiler.learn(one) for one in many] == [True] * on_demand.MAX_LEARNT + [False]
    assert compiler.learn(many[0]), "what is known is no more"
    compiler.update(mesh, ())
    assert len(compiler.open_detours(mesh, many).changed) == on_demand.MAX_LEARNT


def test_detours_end_when_dependencies_are_declared_and_come_back_with_them() -> None:
    mesh = mesh_of(state("now", "", service("orders", needs=None), service("cart")).values)
    compiler = Compiler(workload(ORDERS), credentials=CREDENTIALS)
    compiler.rebuild(mesh)
    compiler.learn("cart")
    assert "outbound|cart.shop|80" in {one.key.name for one in compiler.update(mesh, ()).changed}
    assert [one.key for one in compiler.open_detours(mesh, ["cart"]).changed] == [(CLUSTER, "cart")]
    declared = mesh_of(state("now", "", service("orders", needs=[]), service("cart")).values)
    removed = {key.name for key in compiler.rebuild(declared).removed}
    assert {"cart", "outbound|cart.shop|80"} <= removed
    assert {"cart", "outbound|cart.shop|80"} <= {one.key.name for one in compiler.rebuild(mesh).changed}
