"""Of an older record and the newest that was known no more counts than both allow."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.floors import KnownAuthority, authority_left, next_serial, operator_left
from schemas.records import HostAuthority, HostRule, Operator, OperatorRole

SHOP, STOCK, BOTH = ("shop",), ("stock",), ("shop", "stock")


def operator(serial: int, role: OperatorRole, namespaces: tuple[str, ...] = (), revoked: int | None = None) -> Operator:
    return Operator(
        name="anna", role=role, namespaces=namespaces, since=serial, granted_by="x", revoked=revoked, serial=serial
    )


def authority(serial: int, authorities: str, rules: str) -> HostAuthority:
    return HostAuthority(
        name="corp",
        x509_authorities=tuple(one.encode() for one in authorities),
        rules=tuple(HostRule(match="any", selector=f"shop/{one}") for one in rules),
        changed=serial,
        changed_by="x",
        serial=serial,
    )


@pytest.mark.fault(5)
@pytest.mark.parametrize(
    ("stored", "known", "left"),
    [
        (operator(1, "admin"), None, ("admin", ())),
        (operator(2, "admin"), operator(1, "viewer"), ("admin", ())),
        (operator(1, "admin"), operator(1, "viewer"), ("viewer", ())),  # restored twice
        (operator(1, "viewer"), operator(1, "admin"), ("viewer", ())),
        (operator(1, "admin"), operator(1, "admin", revoked=1), "revoked"),
        (operator(1, "admin", revoked=1), operator(1, "admin"), "revoked"),
        (operator(1, "admin"), operator(2, "viewer"), ("viewer", ())),
        (operator(1, "viewer"), operator(2, "admin"), ("viewer", ())),
        (operator(1, "admin"), operator(2, "editor", SHOP), ("editor", SHOP)),
        (operator(1, "editor", SHOP), operator(2, "admin"), ("editor", SHOP)),
        (operator(1, "editor", BOTH), operator(2, "editor", STOCK), ("editor", STOCK)),
        (operator(1, "editor", SHOP), operator(2, "editor", STOCK), ("viewer", ())),
        (operator(1, "admin"), operator(2, "admin", revoked=2), "revoked"),
        (operator(1, "admin", revoked=1), operator(2, "admin"), "revoked"),
        (None, operator(2, "admin", revoked=2), "revoked"),
        (None, operator(2, "admin"), None),
        (None, None, None),
    ],
)
def test_of_an_operator(stored: Operator | None, known: Operator | None, left: object) -> None:
    found = operator_left(stored, known)
    if found is None or found.revoked is not None:
        assert left == (None if found is None else "revoked")
    else:
        assert (found.role, found.namespaces) == left
    if found is not None and known is not None:
        assert found.serial >= known.serial  # and so it is no older than what is known
        assert found.since >= (known.since if stored is not None and stored.serial < known.serial else 0)
        assert operator_left(found, known) == found


@pytest.mark.fault(5)
@pytest.mark.parametrize(
    ("stored", "known", "left"),
    [
        (authority(1, "ab", "xy"), None, ("ab", "xy")),
        (authority(2, "ab", "xy"), KnownAuthority(1, None), ("ab", "xy")),
        (authority(2, "ab", "xy"), KnownAuthority(2, None), None),
        (authority(1, "ab", "xy"), KnownAuthority(2, None), None),
        (authority(1, "ab", "xy"), KnownAuthority(2, authority(2, "bc", "yz")), ("b", "y")),
        (authority(1, "ab", "xy"), KnownAuthority(2, authority(2, "c", "xy")), None),
        (authority(1, "ab", "xy"), KnownAuthority(2, authority(2, "ab", "z")), None),
        (authority(2, "ab", "xy"), KnownAuthority(2, authority(2, "a", "x")), ("a", "x")),
    ],
)
def test_of_a_host_authority(stored: HostAuthority, known: KnownAuthority | None, left: object) -> None:
    found = authority_left(stored, known)
    assert (None if found is None else (_authorities(found), _rules(found))) == left
    if found is not None:
        assert authority_left(found, known) == found


def _authorities(one: HostAuthority) -> str:
    return b"".join(one.x509_authorities).decode()


def _rules(one: HostAuthority) -> str:
    return "".join(rule.selector.partition("/")[2] for rule in one.rules)


NAMESPACES = st.lists(st.sampled_from(BOTH), min_size=1, unique=True).map(tuple)
operators = st.builds(
    lambda serial, role, namespaces, revoked: operator(
        serial, role, namespaces if role == "editor" else (), serial if revoked else None
    ),
    st.integers(0, 3), st.sampled_from(["viewer", "editor", "admin"]), NAMESPACES, st.booleans(),
)  # fmt: skip


def rights(one: Operator | None) -> set[str]:
    if one is None or one.revoked is not None:
        return set()
    if one.role == "admin":
        return {"read", "shop", "stock", "all"}
    return {"read", *one.namespaces}


@given(operators, operators)
def test_never_more_than_an_older_record_and_the_newest_both_allow(stored: Operator, known: Operator) -> None:
    found = operator_left(stored, known)
    if stored.serial > known.serial:
        assert found == stored
    else:
        assert rights(found) == rights(stored) & rights(known)


def test_a_serial_is_above_all_that_is_known_whatever_the_clock_says() -> None:
    assert next_serial(12.5) == 12_500
    assert next_serial(12.5, 7, 12_500) == 12_501
    assert next_serial(0, 0) == 1
    assert msgspec.structs.replace(operator(1, "viewer"), serial=next_serial(0, 1)).serial == 2
