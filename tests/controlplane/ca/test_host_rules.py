"""Which names in a certificate make its holder which service; and challenges, which are good once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.ca import host_rules
from controlplane.ca.challenge import KEY_BYTES, LIFE_SECONDS, RANDOM_BYTES, Challenges
from controlplane.ca.host_rules import HostNames
from schemas.errors import InvalidInput, Unauthenticated
from schemas.names import ServiceRef
from schemas.records import HostRule
from schemas.selectors import ServiceSelector
from tests.spiffe.certificates import NOW
from tests.support.pki import Authority

CA = Authority.create()
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)


def rule(match: str, selector: str = "shop/*") -> HostRule:
    return HostRule(match=match, selector=selector)


def host(*dns: str, cn: str = "", uris: tuple[str, ...] = ()) -> HostNames:
    return HostNames(frozenset(dns), frozenset(uris), cn)


@pytest.mark.parametrize(
    ("match", "fits", "not_"),
    [
        ("dns:db1.example.org", host("db1.example.org"), host("db2.example.org")),
        ("dns:DB1.example.org", host("db1.example.org"), host(cn="db1.example.org")),
        ("dns:*.example.org", host("db1.example.org"), host("example.org")),
        ("dns:*.example.org", host("x", "db1.example.org"), host("a.db1.example.org")),
        ("dns:*.example.org", host("a.example.org"), host("a.example.org.evil.org")),
        ("dns:*.example.org", host("b.example.org"), host("evilexample.org")),
        ("cn:db1", host(cn="db1"), host("db1")),
        ("cn:*.example.org", host(cn="a.example.org"), host(cn="example.org")),
        ("uri:spiffe://old/db1", host(uris=("spiffe://old/db1",)), host(uris=("spiffe://old/db1/x",))),
        ("uri:spiffe://old/db1", host(uris=("spiffe://old/db1",)), host(uris=("spiffe://OLD/db1",))),
        ("any", host(), None),
    ],
)
def test_what_matches(match: str, fits: HostNames, not_: HostNames | None) -> None:
    (checked,) = host_rules.check_rules([rule(match)], "x")
    assert host_rules.selectors_for(fits, [checked]) == (ServiceSelector("shop", None),)
    if not_ is not None:
        assert host_rules.selectors_for(not_, [checked]) == ()


@pytest.mark.parametrize(
    "match",
    [
        "", "dns:", "dns:*", "dns:*.", "dns:*.*.org", "dns:a.*.org", "dns:a*.org", "dns:a b", "dns:ä.org", "cn:*",
        "uri:", "uri:no scheme", "ANY", "any:", "serial:1", "dns:" + "a" * 64, "dns:" + ".".join(["a" * 60] * 5),
    ],
)  # fmt: skip
def test_rules_that_are_none_are_refused_and_match_nothing(match: str) -> None:
    with pytest.raises(InvalidInput):
        host_rules.check_rules([rule(match)], "x")
    everything = host("a.org", "org", "a", cn="a", uris=("uri:x",))
    assert host_rules.selectors_for(everything, [rule(match)]) == ()


@pytest.mark.parametrize("selector", ["", "*", "shop", "*/*", "*/orders", "shop/", "/orders", "shop/o*", "a/b/c"])
def test_selectors_that_are_none(selector: str) -> None:
    with pytest.raises(InvalidInput):
        host_rules.check_rules([rule("any", selector)], "x")
    assert host_rules.selectors_for(host(), [rule("any", selector)]) == ()


def test_rules_have_one_form_and_are_bounded() -> None:
    given_ = [rule("dns:B.org"), rule("any"), rule("dns:b.org")]
    assert [one.match for one in host_rules.check_rules(given_, "x")] == ["any", "dns:b.org"]
    with pytest.raises(InvalidInput, match="0 rules"):
        host_rules.check_rules([], "x")
    with pytest.raises(InvalidInput, match="rules, expected"):
        host_rules.check_rules([rule(f"dns:h{one}.org") for one in range(host_rules.MAX_RULES + 1)], "x")


@given(pattern=names, name=names)
def test_a_plain_pattern_is_one_name(pattern: str, name: str) -> None:
    matched = host_rules.selectors_for(host(name), [rule(f"dns:{pattern}")])
    assert bool(matched) == (pattern == name)


@given(domain=names, name=names)
def test_a_wildcard_is_one_label(domain: str, name: str) -> None:
    matched = host_rules.selectors_for(host(name), [rule(f"dns:*.{domain}")])
    assert bool(matched) == (name.split(".")[1:] == domain.split("."))


def test_names_of_a_certificate() -> None:
    leaf = CA.issue("DB1", dns=["A.example.org", "*.example.org"], uri="spiffe://old/db1").certificate
    found = host_rules.names_of(leaf)
    assert found == host("a.example.org", cn="db1", uris=("spiffe://old/db1",))
    assert str(found) == "dns:a.example.org, uri:spiffe://old/db1, cn:db1"
    assert host_rules.names_of(CA.issue("a name with blanks").certificate) == host()
    assert str(host()) == "no name"


@given(st.text(max_size=40))
def test_any_text_as_selector(text: str) -> None:
    try:
        selector = ServiceSelector.parse(text)
    except InvalidInput:
        return
    assert str(selector) == text
    assert selector.selects(ServiceRef(selector.namespace, selector.name or "any"))
    assert not selector.selects(ServiceRef(f"{selector.namespace}2"[-63:], "orders"))


# -- challenges


def challenges(seed: int = 1) -> Challenges:
    return Challenges(random.Random(seed).randbytes(KEY_BYTES))


RANDOM = bytes(range(RANDOM_BYTES))


def test_a_challenge_is_good_once_and_for_a_minute() -> None:
    made = challenges()
    nonce, end = made.make(RANDOM, NOW)
    assert end == NOW + LIFE_SECONDS
    made.check(nonce, NOW)
    made.check(nonce, end - 0.001)
    with pytest.raises(Unauthenticated, match="after more than"):
        made.check(nonce, end)
    made.answer(nonce, NOW)
    for again in (made.check, made.answer):
        with pytest.raises(Unauthenticated, match="answered already"):
            again(nonce, NOW)


def test_a_challenge_of_another_replica() -> None:
    nonce, _ = challenges(1).make(RANDOM, NOW)
    with pytest.raises(Unauthenticated, match="not of this replica"):
        challenges(2).check(nonce, NOW)


@given(st.integers(0, RANDOM_BYTES + 8 + 32 - 1), st.integers(1, 255))
def test_no_byte_of_a_challenge_can_be_changed(index: int, change: int) -> None:
    nonce, _ = challenges().make(RANDOM, NOW)
    forged = bytes(byte ^ change if place == index else byte for place, byte in enumerate(nonce))
    with pytest.raises(Unauthenticated):
        challenges().check(forged, NOW)


@given(st.binary(max_size=100))
def test_any_bytes_are_no_challenge(nonce: bytes) -> None:
    with pytest.raises(Unauthenticated):
        challenges().check(nonce, NOW)


def test_what_was_answered_is_forgotten_when_it_has_ended() -> None:
    made = challenges()
    for number in range(50):
        nonce, _ = made.make(number.to_bytes(RANDOM_BYTES, "big"), NOW + number * LIFE_SECONDS)
        made.answer(nonce, NOW + number * LIFE_SECONDS)
    assert len(made._answered) <= 2
    assert "redacted" in repr(made)
