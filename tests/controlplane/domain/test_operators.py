"""What becomes of an operator's record: grant, change, revoke, grant again."""

from __future__ import annotations

import pytest

from controlplane.domain import operators
from schemas.errors import Conflict, InvalidInput
from schemas.names import SYSTEM_NAMESPACE

NOW = 1_700_000_000.0


def test_a_change_of_role_keeps_the_login() -> None:
    first = operators.granted(None, "anna", "viewer", (), NOW, "root-local")
    second = operators.granted(first, "anna", "editor", ("shop",), NOW + 100, "operator/bert")
    assert (second.since, second.role, second.namespaces) == (int(NOW), "editor", ("shop",))
    assert second.granted_by == "operator/bert"
    assert operators.described(second) == "editor of shop"


def test_granted_again_after_a_revocation_nothing_of_before_counts() -> None:
    first = operators.granted(None, "anna", "admin", (), NOW, "root-local")
    gone = operators.revoked(first, NOW + 100, "operator/bert")
    assert (gone.revoked, gone.revoked_by, gone.role) == (int(NOW) + 100, "operator/bert", "admin")
    with pytest.raises(Conflict, match="operator/bert"):
        operators.revoked(gone, NOW + 101, "x")
    # In the same second, and with a clock that is behind that of the replica that revoked.
    for now in (NOW + 100, NOW + 50, NOW + 1000):
        again = operators.granted(gone, "anna", "viewer", (), now, "root-local")
        assert again.since > NOW + 100
        assert again.revoked is None


def test_namespaces_are_an_editors() -> None:
    assert operators.check_grant("editor", ["stock", "shop", "shop"]) == ("editor", ("shop", "stock"))
    assert operators.check_grant("admin", []) == ("admin", ())
    for role, namespaces in (
        ("editor", []),
        ("editor", [SYSTEM_NAMESPACE]),
        ("editor", ["A"]),
        ("editor", [f"n{one}" for one in range(operators.MAX_NAMESPACES + 1)]),
        ("viewer", ["shop"]),
        ("admin", ["shop"]),
        ("root-local", []),
        ("none", []),
        ("", []),
    ):
        with pytest.raises(InvalidInput):
            operators.check_grant(role, namespaces)
